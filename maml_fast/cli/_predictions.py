"""The output of ``maml-fast adapt`` and ``maml-fast predict``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from maml_fast.cli._console import CountedProgress
from maml_fast.data._dataset import printable
from maml_fast.data._files import write_atomically
from maml_fast.data.folder import PICTURE_SUFFIXES
from maml_fast.deployment import Prediction, adapt_run, open_adapted
from maml_fast.deployment._judgement import Judgement
from maml_fast.deployment._support import SupportSet
from maml_fast.deployment._tables import as_csv, as_json

__all__ = ["adapt", "predict"]


def adapt(run: Path, folder: Path, out: Path, *, format: str, inner_steps: int | None, judged: bool) -> None:
    """Adapt a run, and print the classes and the estimated accuracy."""
    console = Console()
    with CountedProgress(console, "judge every picture by the others") as progress:
        done = adapt_run(run, folder, out=out, format=format, inner_steps=inner_steps, judged=judged, progress=progress)
    console.print(_classes_table(done.support, done.judgement))
    print(done.judgement if done.judgement is not None else "accuracy not estimated")
    print(f"model in {printable(str(done.path))}, pictures and judgement in {printable(str(done.sheet))}")


def predict(adapted: Path, pictures: Sequence[Path], *, format: str, sheet: Path | None) -> None:
    """Print the classes of pictures in one of the formats, and draw a sheet of them."""
    model = open_adapted(adapted)
    files = [file for picture in pictures for file in _files_of(picture)]
    if sheet is not None and (sheet.exists() or not sheet.parent.is_dir()):
        raise FileExistsError(f"--sheet {sheet} exists already, or its folder does not exist; choose another")
    pixels = model.pixels(files)
    predictions = model.predictions(files, pixels)
    if format == "table":
        Console().print(_predictions_table(predictions))
    else:
        print({"csv": as_csv, "json": as_json}[format](predictions), end="")
    if sheet is not None:
        from maml_fast.deployment._sheet import draw_predictions  # imports matplotlib

        title = f"{len(files)} picture{'s' * (len(files) > 1)} · {adapted.name}"
        write_atomically(sheet, draw_predictions(predictions, pixels, title), make_folders=False)


def _files_of(picture: Path) -> Iterator[Path]:
    """Yield the picture, or the pictures in a folder."""
    if not picture.is_dir():
        yield picture
        return
    found = [file for file in sorted(picture.iterdir()) if file.suffix.lower() in PICTURE_SUFFIXES]
    found = [file for file in found if file.is_file() and not file.name.startswith(".")]
    if not found:
        raise ValueError(f"the folder {picture} holds no pictures")
    yield from found


def _classes_table(support: SupportSet, judgement: Judgement | None) -> Table:
    """Return a table of the classes: their pictures, and how many were classified correctly."""
    table = Table(
        Column("", justify="right"), "class", Column("pictures", justify="right"), "correct when left out",
        box=box.SIMPLE,
    )  # fmt: skip
    counts = [None] * len(support.counts) if judgement is None else judgement.counts
    for number, (name, pictures, count) in enumerate(zip(support.class_names, support.counts, counts, strict=True), 1):
        correct = "-" if count is None or not count[1] else f"{count[0]} of {count[1]}"
        table.add_row(str(number), _cell(name), str(pictures), correct)
    return table


def _predictions_table(predictions: Sequence[Prediction]) -> Table:
    names = [Column(header, overflow="fold") for header in ("picture", "class", "then")]
    table = Table(*names[:2], Column("probability", justify="right"), names[2], box=box.SIMPLE)
    for each in predictions:
        others = sorted(each.probabilities.items(), key=lambda item: -item[1])[1:3]
        then = ", ".join(f"{_cell(name)} {probability:.1%}" for name, probability in others)
        table.add_row(_cell(each.picture), _cell(each.class_name), f"{each.probability:.1%}", then)
    return table


def _cell(text: str) -> str:
    """Escape markup and unprintable characters in a name."""
    return escape(printable(text))
