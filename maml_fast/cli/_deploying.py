"""The commands that adapt a run to a folder of pictures, and predict with the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from maml_fast.cli._errors import debug

__all__ = ["adapt", "predict"]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New file for the adapted model.")
@click.option(
    "--format",
    type=click.Choice(("torch", "onnx", "export")),
    default="torch",
    show_default=True,
    help="Format of the file: torch for predict, onnx, or export for torch.export.load.",
)
@click.option("--inner-steps", type=int, help="Inner steps (default: as the run evaluates).")
@click.option(
    "--judge/--no-judge", "judged", default=True, help="Estimate the accuracy: leave out each picture and predict it."
)
@debug
def adapt(run: Path, folder: Path, **options: Any) -> None:
    """Adapt the checkpoint of RUN to the pictures in FOLDER, which holds a folder for each class.

    Any number of classes, any number of pictures in each, of any size and mode. The accuracy is estimated on pictures
    that were left out of the adaptation. A sheet of the pictures is drawn beside the file.
    """
    from maml_fast.cli import _predictions as predictions

    predictions.adapt(run, folder, **options)


@click.command()
@click.argument("adapted", type=click.Path(path_type=Path))
@click.argument("pictures", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--format", type=click.Choice(("table", "csv", "json")), default="table", show_default=True, help="Output format."
)
@click.option("--sheet", type=click.Path(path_type=Path), help="New PNG of the pictures with their classes.")
@debug
def predict(adapted: Path, pictures: tuple[Path, ...], **options: Any) -> None:
    """Classify PICTURES with a model that adapt wrote; a folder stands for the pictures in it.

    Each picture is predicted on its own: the other pictures do not change its result.
    """
    from maml_fast.cli import _predictions as predictions

    predictions.predict(adapted, pictures, **options)
