"""The report's page: one HTML file that holds its pictures and needs no script and no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from maml_fast._arguments import location, many, takes
from maml_fast.data._files import write_atomically
from maml_fast.report._curves import COLORS, draw_curves
from maml_fast.report._run import differences, read_runs

__all__ = ["write_report"]


@takes(runs=many(location), out=location)
def write_report(runs: Sequence[Path | str], out: Path | str) -> Path:
    """Write one self-contained HTML page about training runs.

    It shows every evaluation of every run, accuracy and loss over the iterations in one picture, the arguments in which
    the runs differ, and an episode of each.

    Args:
        runs: run folders, complete or not.
        out: the new file.

    Raises:
        FileExistsError: ``out`` exists already.
        FileNotFoundError: one of ``runs`` is no run folder, or there is no folder for ``out``.
        ValueError: no runs, one twice, or damaged files; names it.
    """
    out = Path(out)
    if not runs:
        raise ValueError("runs is empty: give at least one run folder")
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another --out, or remove it")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.parent} to write {out.name} into; make it first")
    read = read_runs([Path(run) for run in runs])
    templates = Environment(
        loader=PackageLoader("maml_fast.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    templates.filters["png"] = lambda picture: base64.b64encode(picture).decode()
    page = templates.get_template("page.html").render(
        runs=read,
        colors=dict(zip((run.name for run in read), cycle(COLORS), strict=False)),
        curves=Markup(draw_curves(read)),
        differences=differences(read),
    )
    write_atomically(out, page.encode(), make_folders=False)
    return out
