"""``maml-fast`` and its commands, in the order in which ``--help`` lists them."""

from __future__ import annotations

import shutil

import click

from maml_fast.cli import _deploying as deploying
from maml_fast.cli import _tools as tools
from maml_fast.cli import _training as training
from maml_fast.cli._errors import Commands, debug

__all__ = ["main"]

WIDTH = 110  # of help, in columns


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "terminal_width": min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns),
    },
)
@click.version_option(package_name="maml_fast")
@debug
def main() -> None:
    """Meta-learning with MAML on fused, task-batched kernels."""


for command in (
    training.train,
    training.recipes,
    training.reproduce,
    training.evaluate,
    training.report,
    deploying.adapt,
    deploying.predict,
    tools.prepare,
    tools.build,
    tools.doctor,
    tools.bench,
):
    main.add_command(command)
