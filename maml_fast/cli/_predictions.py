"""What the command line shows of an adapted model and of its predictions."""

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
from maml_fast.data._folder import PICTURE_SUFFIXES
from maml_fast.deployment import Prediction, adapt_run, open_adapted
from maml_fast.deployment._judgement import Judgement
from maml_fast.deployment._support import SupportSet
from maml_fast.deployment._tables import as_csv, as_json

__all__ = ["adapt", "predict"]


def adapt(run: Path, folder: Path, out: Path, *, format: str, inner_steps: int | None, judged: bool) -> None:
    """Adapt, and print what came of it."""
    console = Console()
    with CountedProgress(console, "judge every picture by the others") as progress:
        done = adapt_run(run, folder, out=out, format=format, inner_steps=inner_steps, judged=judged, progress=progress)
    console.print(_classes_table(done.support, done.judgement))
    print(done.judgement if done.judgement is not None else "accuracy not estimated")
    print(f"model in {printable(str(done.path))}, pictures and judgement in {printable(str(done.sheet))}")


def predict(adapted: Path, pictures: Sequence[Path], *, format: str, sheet: Path | None) -> None:
    """Print what pictures are, in one of the formats; draw a sheet of them."""
    model = open_adapted(adapted)
    files = [file for picture in pictures for file in _files_of(picture)]
    if sheet is not None and (sheet.exists() or not sheet.parent.is_dir()):
        raise FileExistsError(f"--sheet {sheet} is there already, or its folder is not; choose another")
    pixels = model.pixels(files)
    predictions = model.predictions(files, pixels)
    if format == "table":
        Console().print(_predictions_table(predictions))
    else:
        print({"csv": as_csv, "json": as_json}[format](predictions), end="")
    if sheet is not None:
        from maml_fast.deployment._sheet import draw_predictions  # here, for it imports matplotlib

        title = f"{len(files)} picture{'s' * (len(files) > 1)} · {adapted.name}"
        write_atomically(sheet, draw_predictions(predictions, pixels, title), make_folders=False)


def _files_of(picture: Path) -> Iterator[Path]:
    """The picture, or those in a folder."""
    if not picture.is_dir():
        yield picture
        return
    found = [file for file in sorted(picture.iterdir()) if file.suffix.lower() in PICTURE_SUFFIXES]
    found = [file for file in found if file.is_file() and not file.name.startswith(".")]
    if not found:
        raise ValueError(f"the folder {picture} holds no pictures")
    yield from found


def _classes_table(support: SupportSet, judgement: Judgement | None) -> Table:
    """Each class with its pictures, and how many of them were told right."""
    table = Table(
        Column("", justify="right"), "class", Column("pictures", justify="right"), "told right when left out",
        box=box.SIMPLE,
    )  # fmt: skip
    counts = [None] * len(support.counts) if judgement is None else judgement.counts
    for number, (name, pictures, count) in enumerate(zip(support.class_names, support.counts, counts, strict=True), 1):
        told = "-" if count is None or not count[1] else f"{count[0]} of {count[1]}"
        table.add_row(str(number), _cell(name), str(pictures), told)
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
    """A name as it is, whatever brackets and unprintable signs are in it."""
    return escape(printable(text))
