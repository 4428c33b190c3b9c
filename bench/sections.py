"""The sections of a report: one for every kind of measurement that was made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cliffs
from gpu_sections import block_kernels, iteration_kernels
from inner_memory_section import inner_memory
from measurements import PRODUCTS, rows_of, unique
from peers import GRAPHED, NAIVE, OURS, TRUTH, TUTORIAL
from scaling import FLOAT32
from tables import NOTHING, number, ratio, table, times
from zoo_section import zoo

PEAK = {
    "cpu": "what training adds to the process, what a compiler leaves behind included, and all of its worker processes",
    "cuda": "what PyTorch's tensors add on the GPU, for a CUDA graph when it is captured; who allocates without "
    "PyTorch has none",
}
FORMS = (OURS.title, GRAPHED.title)  # in which maml_fast runs

Record = dict[str, Any]
Row = dict[str, Any]


def all_of(record: Record) -> Iterable[str]:
    """The sections of this record."""
    iteration = _measured_workloads(rows_of(record, "iteration"))
    if iteration:
        yield from (_summary(iteration, record["device"]), _iteration(iteration, record))
        yield from filter(None, [iteration_kernels(iteration, record["floor_gflops"])])
    if rows := rows_of(record, "algorithms"):
        yield _algorithms(rows)
    rows = rows_of(record, "zoo")
    if any(row["rounds"] or row["failed"] or row["parity"] for row in rows):
        yield zoo(rows)
    if rows := rows_of(record, "op"):
        yield from filter(None, [_op(rows), block_kernels(rows, record["floor_gflops"])])
    curves = {"chunks": _chunks, "inner memory": inner_memory, "many tasks": _many_tasks, "scaling": _scaling}
    for name, section in curves.items():
        if rows := rows_of(record, name):
            yield section(rows)
    if rows := rows_of(record, "sampler"):
        yield _sampler(rows, {row["subject"]: row["median_ms"] for row in iteration if row["who"] == OURS.title})


def _measured_workloads(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of workloads on which at least one peer ran or failed."""
    measured = {row["subject"] for row in rows if row["rounds"] or row["failed"]}
    return [row for row in rows if row["subject"] in measured]


def _workloads(rows: Sequence[Row]) -> list[list[Row]]:
    return [[row for row in rows if row["subject"] == subject] for subject in unique(row["subject"] for row in rows)]


def _median(rows: Sequence[Row], who: str) -> float | None:
    return next((row["median_ms"] for row in rows if row["who"] == who), None)


def _forms(rows: Sequence[Row]) -> list[str]:
    """Return the forms of maml_fast that were measured, or else maml_fast itself."""
    return [row["who"] for row in rows if row["who"] in FORMS and row["rounds"]] or [OURS.title]


def _summary(iteration: Sequence[Row], device: str) -> str:
    lines = []
    for rows in _workloads(iteration):
        lines += [_summary_line(rows, form, device) for form in _forms(rows)]
    head = ["", "workload", "maml_fast, ms", "÷ floor", "best peer", TRUTH.title, TUTORIAL.title]
    text = "A peer's figure says how many times as long as maml_fast it takes."
    if device == "cpu":
        head += ["not convolutions", "of it waiting"]
        text += (
            " *Not convolutions*: the part of all threads' time, in maml_fast's iteration, that goes into batch norm, "
            "ReLU, pooling, the classifier, losses, SGD, Python, Adam, and waiting; *of it waiting*: threads that are "
            "done with their tasks, for the last one."
        )
    return f"## Summary\n\n{table(head, lines)}\n\n{text}"


def _summary_line(rows: Sequence[Row], form: str, device: str) -> list[str]:
    ours = next((row for row in rows if row["who"] == form), None)
    peers = [row for row in rows if row["who"] not in FORMS and row["rounds"]]
    best = min(peers, key=lambda row: row["median_ms"], default=None)
    median = None if ours is None else ours["median_ms"]
    shares = None if ours is None else ours["shares"]
    line = [
        rows[0]["subject"],
        rows[0]["what"] if form == OURS.title else form,
        f"**{times(ours)}**",
        ratio(median, rows[0]["floor_ms"] if ours is None else ours["floor_ms"]),
        NOTHING if best is None else f"{ratio(best['median_ms'], median)} {best['who']}",
        ratio(_median(rows, TRUTH.title), median),
        ratio(_median(rows, TUTORIAL.title), median),
    ]
    if device == "cpu":
        line += [NOTHING if shares is None else f"{1 - shares['convolutions']:.1%}"]
        line += [NOTHING if shares is None else f"{shares['waiting']:.1%}"]
    return line


def _iteration(iteration: Sequence[Row], record: Record) -> str:
    text = (
        "A row is one whole iteration: inner loops, query loss, meta-gradient, Adam; float32; in a process of its own. "
        "*Parity* is the largest relative difference between the row and maml_fast (in its own row: the per-task "
        f"loop), in float64. *Peak* is {PEAK[record['device']]}."
    )
    if record["device"] == "cuda":
        text += (
            f" Everybody's products of float32 are {PRODUCTS[record['precision']]}. cuDNN has tried its kernels for "
            "every shape and runs the fastest (torch.backends.cudnn.benchmark). Of a CUDA graph it is replays that are "
            "compared."
        )
    tables = [_workload(rows) for rows in _workloads(iteration)]
    left_out = _listing("Not run", iteration, "skipped"), _listing("Failed", iteration, "failed")
    return "\n\n".join(["## Meta-training iteration", text, *tables, *filter(None, left_out)])


def _workload(rows: Sequence[Row]) -> str:
    ours = {form: _median(rows, form) for form in _forms(rows)}
    floor = next((row["floor_ms"] for row in rows if row["floor_ms"]), None)
    lines = [
        [
            f"**{row['who']}**" if row["who"] in FORMS else row["who"],
            _time_or_failure(row),
            *(ratio(row["median_ms"], median) for median in ours.values()),
            ratio(row["median_ms"], floor),
            number(row["peak_mib"], ".0f"),
            _parity(row),
        ]
        for row in rows
        if row["skipped"] is None
    ]
    head = ["who", "ms (quartiles)", *(f"÷ {form}" for form in ours)]
    head += ["÷ floor", "peak MiB", "parity: loss, meta-gradient"]
    title = f"### {rows[0]['subject']}: {rows[0]['what']}"
    return (
        f"{title}\n\n{number(rows[0]['gflop'], '.1f')} GFLOP, floor {number(floor, '.3g')} ms.\n\n{table(head, lines)}"
    )


def _algorithms(rows: Sequence[Row]) -> str:
    found = {(row["subject"], row["who"]): row for row in rows}
    lines = []
    for name in unique(row["subject"] for row in rows):
        ours, naive = (found.get((name, who.title)) or {} for who in (OURS, NAIVE))
        lines.append(
            [
                name,
                *(_time_or_failure(row) for row in (ours, naive)),
                ratio(naive.get("median_ms"), ours.get("median_ms")),
                " / ".join(number(row.get("peak_mib"), ".0f") for row in (ours, naive)),
                _parity(naive),
                ours.get("ran") or NOTHING,
            ]
        )
    head = ["algorithm", "maml_fast, ms (quartiles)", f"{NAIVE.title}, ms (quartiles)", "naive ÷ maml_fast"]
    head += ["peaks, MiB", "parity: loss, meta-gradient", "maml_fast ran on"]
    text = (
        f"{rows[0]['what']}. A row is one whole iteration: inner loops, query loss, meta-gradient, outer optimizer; "
        "float32; by maml_fast, and by the same algorithm as a tutorial writes it: an ordinary module with torch's own "
        "batch norm, plain autograd, one task after another. *Parity* is in float64."
    )
    for what in unique(row["what"] for row in rows if row["what"] != rows[0]["what"]):
        names = unique(row["subject"] for row in rows if row["what"] == what)
        text += f" {' and '.join(names)}: {what}."
    parts = [f"## Algorithms\n\n{text}\n\n{table(head, lines)}", _listing("Failed", rows, "failed")]
    return "\n\n".join(filter(None, parts))


def _time_or_failure(row: Row) -> str:
    return "failed" if row.get("failed") else times(row or None)


def _listing(title: str, rows: Sequence[Row], field: str) -> str | None:
    """List the reasons in this field by peer, with the workloads unless these are all."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row[field] is not None:
            found.setdefault((row["who"], row[field]), []).append(row["subject"])
    everywhere = len(unique(row["subject"] for row in rows))
    lines = [
        f"- {who}{'' if len(where) == everywhere else ' on ' + ', '.join(where)}: {reason}"
        for (who, reason), where in found.items()
    ]
    return "\n".join([f"### {title}", "", *lines]) if lines else None


def _parity(row: Row) -> str:
    parity = row.get("parity")
    return NOTHING if parity is None else f"{parity['loss']:.0e}, {parity['gradient']:.0e}"


def _op(rows: Sequence[Row]) -> str:
    everyone = unique(row["who"] for row in rows)
    fastest_of_ours = "native" if "native" in everyone else "reference"
    found = {(row["subject"], row["what"], row["who"]): row for row in rows}
    lines = []
    for subject, what in dict.fromkeys((row["subject"], row["what"]) for row in rows):
        each = {who: found.get((subject, what, who)) for who in everyone}
        best, torchs = (each.get(who) or {} for who in (fastest_of_ours, "per-task torch"))
        lines.append(
            [
                subject,
                what,
                *map(times, each.values()),
                ratio(torchs.get("median_ms"), best.get("median_ms")),
                ratio(best.get("median_ms"), best.get("floor_ms")),
                number(max(row["parity"]["values"] for row in each.values() if row and row["parity"]), ".0e"),
            ]
        )
    ratios = [f"torch ÷ {fastest_of_ours}", f"{fastest_of_ours} ÷ floor", "parity"]
    head = ["block", "pass", *(f"{who}, ms (quartiles)" for who in everyone), *ratios]
    text = "A pass includes those before it: *double backward* is forward, backward and double backward."
    return f"## Conv block\n\n{table(head, lines)}\n\n{text}"


def _sampler(rows: Sequence[Row], iteration: dict[str, float]) -> str:
    lines = []
    for row in sorted(rows, key=lambda row: row["subject"]):  # making and waiting side by side
        whole = iteration.get(row["subject"])
        known = whole is not None and row["median_ms"] is not None
        share = f"{row['median_ms'] / whole:.2%}" if known else NOTHING
        lines.append([row["subject"], row["what"], row["who"], times(row), share])
    head = ["workload", "what", "backend", "ms (quartiles)", "share of maml_fast's iteration"]
    text = "Episodes are equal to the bit on both backends. Workloads with equal episodes are named once."
    return f"## Sampler\n\n{table(head, lines)}\n\n{text}"


def _chunks(rows: Sequence[Row]) -> str:
    lines = [[row["subject"], f"{row['at']:.0f}", times(row), number(row["peak_mib"], ".0f")] for row in rows]
    head = ["workload", "tasks at a time", "ms (quartiles)", "peak MiB"]
    return f"## Time against memory\n\n{table(head, lines)}"


def _many_tasks(rows: Sequence[Row]) -> str:
    lines = [[row["subject"], f"{row['tasks']}", *_per_task(row)] for row in rows if row["rounds"]]
    text = "With the default task_chunk. The peak is what training adds to the images."
    return f"## Many tasks\n\n{text}\n\n{table(['workload', 'tasks', *PER_TASK], lines)}"


PER_TASK = ("ms (quartiles)", "ms a task", "÷ floor", "peak MiB")


def _per_task(row: Row) -> list[str]:
    """The columns of that name."""
    each, over_floor = row["median_ms"] / row["tasks"], ratio(row["median_ms"], row["floor_ms"])
    return [times(row), number(each, ".3g"), over_floor, number(row["peak_mib"], ".0f")]


def _scaling(rows: Sequence[Row]) -> str:
    curves = cliffs.curves_of(rows)
    plain = {(curve.subject, curve.what): curve for curve in curves if curve.who == FLOAT32}
    others = [curve for curve in curves if curve.who != FLOAT32 and (curve.subject, curve.what) in plain]
    text = (
        "float32. A *cliff* is a point that lies above both of its neighbors, each in units of its arithmetic floor. "
        "All points are in scaling.png."
    )
    parts = ["## Scaling", text, _cliffs(list(plain.values()))]
    if others:
        parts.append(_ratios([(curve, curve.over(plain[curve.subject, curve.what])) for curve in others]))
    if any(row["peak_mib"] for row in rows):
        parts.append(_points(rows))
    return "\n\n".join(filter(None, [*parts, *_too_large(rows)]))


def _points(rows: Sequence[Row]) -> str:
    """Where memory was measured too: all of them."""
    lines = [[row["what"], f"{row['at']:g}", *_per_task(row)] for row in rows if row["rounds"]]
    return table(["what", rows[0]["subject"], *PER_TASK], lines)


def _too_large(rows: Sequence[Row]) -> Iterable[str]:
    """Return what was not run, and what failed."""
    for title, field in (("Not run", "skipped"), ("Failed", "failed")):
        lines = [f"- {row['what']} at {row['at']:g} {row['subject']}: {row[field]}" for row in rows if row[field]]
        if lines:
            yield "\n".join([f"### {title}", "", *lines])


def _cliffs(curves: Sequence[cliffs.Curve]) -> str:
    lines = []
    for curve in curves:
        low, high = curve.extremes()
        steepest = curve.steepest()
        cliff = NOTHING if steepest is None else f"{ratio(steepest.height, 1)} at {steepest.at:g}"
        ends = [f"{ratio(point.over_floor, 1)} at {point.at:g}" for point in (low, high)]
        lines.append([curve.subject, curve.what, *ends, cliff])
    return table(["along", "what", "least ÷ floor", "most ÷ floor", "steepest cliff"], lines)


def _ratios(curves: Sequence[tuple[cliffs.Curve, dict[float, float]]]) -> str:
    places = sorted({at for _, ratios in curves for at in ratios})
    lines = [
        [f"{curve.who} ÷ {FLOAT32}", curve.what, *(ratio(ratios.get(at), 1) for at in places)]
        for curve, ratios in curves
    ]
    return table(["", f"{curves[0][0].subject}:", *(f"{at:g}" for at in places)], lines)
