"""The report's part on the zoo: a line for every net, and what maml_fast ran on."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from typing import Any

from measurements import unique
from peers import OURS, TRUTH, ZOO_PEERS
from tables import NOTHING, number, ratio, table

Row = dict[str, Any]
ORDERS = (2, 1)
ENGINES = {  # by how the lines of MAML.describe() begin
    "inner loop: native": "native inner loop",
    "forward: all tasks at once": "all tasks at once",
    "forward: as written": "as written",
}


def zoo(rows: Sequence[Row]) -> str:
    """Return the section with a row for each net."""
    nets = [_Net(rows, name) for name in unique(row["subject"] for row in rows)]
    others = [peer.title for peer in ZOO_PEERS if any(row["who"] == peer.title and row["rounds"] for row in rows)]
    head = ["net", "engine", "maml_fast, ms", f"{TRUTH.title}, ms", "ratio, order 2", "ratio, order 1"]
    head += [*(f"{who} ÷ maml_fast" for who in others), "peak MiB, maml_fast / loop", "parity: loss, meta-gradient"]
    lines = [net.cells(others) for net in nets]
    text = (
        "MAML on nets that people write: one whole iteration in float32. maml_fast and the loop over the tasks "
        "(`torch.func.functional_call`, a backward pass for every task) run in one process, an iteration of each by "
        "turns; their *ratio* is the median over pairs of neighbors, loop ÷ maml_fast, with its quartiles. Where two "
        "figures stand, the first is of order 2, the second of order 1. The others have processes of their own. *Peak* "
        "is what training adds to the memory of a process of its own at order 2, and in brackets all that this process "
        "holds then, the interpreter and PyTorch among it. *Parity* is the larger of both orders' relative differences "
        "between loop and maml_fast, in float64, without dropout."
    )
    parts = [f"## Zoo\n\n{text}\n\n{table(head, lines)}", _what_ran(nets), _nets(nets), *_not_run(rows)]
    return "\n\n".join(filter(None, parts))


class _Net:
    """The rows of one net."""

    def __init__(self, rows: Sequence[Row], name: str) -> None:
        self.name = name
        own = [row for row in rows if row["subject"] == name]
        self.title = own[0]["what"]
        self._rows = {(row["who"], row["at"]): row for row in own}

    def cells(self, others: Sequence[str]) -> list[str]:
        ours, loops = ([self._row(peer.title, order) for order in ORDERS] for peer in (OURS, TRUTH))
        added, whole = (
            [number(row.get(of), ".0f") for row in (ours[0], loops[0])] for of in ("peak_mib", "process_mib")
        )
        return [
            self.name,
            self.engine(),
            *(_both([_milliseconds(row) for row in each]) for each in (ours, loops)),
            *(_ratio_of_pairs(*pair) for pair in zip(ours, loops, strict=True)),
            *(_both([self._over_ours(who, order) for order in ORDERS]) for who in others),
            f"{' / '.join(added)} ({' / '.join(whole)})",
            self._parity(ours),
        ]

    def engine(self) -> str:
        """Return the engine in a few words."""
        ran = self._row(OURS.title, 2).get("ran") or self._row(OURS.title, 1).get("ran") or ""
        return next((words for begin, words in ENGINES.items() if begin in ran), NOTHING)

    def ran(self) -> list[str]:
        """Return what ran, in full, for each order."""
        return [self._row(OURS.title, order).get("ran") for order in ORDERS]

    def _row(self, who: str, order: int) -> Row:
        return self._rows.get((who, order)) or {}

    def _over_ours(self, who: str, order: int) -> str:
        row = self._row(who, order)
        if row.get("failed"):
            return "failed"
        return ratio(row.get("median_ms"), self._row(OURS.title, order).get("median_ms"))

    def _parity(self, ours: Sequence[Row]) -> str:
        if any(row.get("failed") for row in ours):
            return "failed"
        found = [row["parity"] for row in ours if row.get("parity")]
        if not found:
            return NOTHING
        return ", ".join(f"{max(parity[what] for parity in found):.0e}" for what in ("loss", "gradient"))


def _milliseconds(row: Row) -> str:
    return number(row.get("median_ms"), ".3g")


def _both(cells: Sequence[str]) -> str:
    return NOTHING if set(cells) == {NOTHING} else " / ".join(cells)


def ratios_of_pairs(ours: Row, loop: Row) -> list[float]:
    """The time of each of the loop's iterations, divided by the time of maml_fast's iteration beside it."""
    pairs = zip(ours.get("times_ms") or (), loop.get("times_ms") or (), strict=True)
    return [theirs / own for own, theirs in pairs]


def _ratio_of_pairs(ours: Row, loop: Row) -> str:
    """The median of the pairs' ratios, and the quartiles."""
    ratios = ratios_of_pairs(ours, loop)
    if not ratios:
        return NOTHING
    if len(ratios) == 1:
        return ratio(ratios[0], 1)
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{ratio(median, 1)} ({low:.3g}–{high:.3g})"


def _what_ran(nets: Sequence[_Net]) -> str | None:
    """List what ran, in the words of ``describe()``, with the nets."""
    found: dict[str, list[str]] = {}
    for net in nets:
        for order, ran in zip(ORDERS, net.ran(), strict=True):
            if ran is not None and (order == 2 or ran != net.ran()[0]):
                found.setdefault(ran, []).append(net.name if order == 2 else f"{net.name} (order 1)")
    lines = [f"- {ran}: {', '.join(names)}" for ran, names in found.items()]
    return "\n".join(["### What ran, and why", "", *lines]) if lines else None


def _nets(nets: Sequence[_Net]) -> str:
    return "\n".join(["### Nets", "", *(f"- {net.name}: {net.title}" for net in nets)])


def _not_run(rows: Sequence[Row]) -> list[str]:
    """List the peers that did not run on some nets, by reason."""
    parts = []
    for title, field in (("Not run", "skipped"), ("Failed", "failed")):
        found: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            if row[field]:
                reason = re.sub(rf"(small-)?{re.escape(row['subject'])}-order[12]", "the net", row[field])
                found.setdefault((row["who"], reason), []).append(row["subject"])
        lines = [f"- {who}: {reason}: {', '.join(unique(names))}" for (who, reason), names in found.items()]
        parts.append("\n".join([f"### {title}: zoo", "", *lines]) if lines else "")
    return parts
