"""How commands end: after an error with one line and exit code 2, after a signal with 128 + its number."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import click

from maml_fast.data._dataset import printable
from maml_fast.distributed._launch import is_first, is_told_by_another

__all__ = ["Commands", "debug"]


class Commands(click.Group):
    """A group that lists its commands in the order they were added, and reports expected errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):  # a character that the terminal lacks must not end a training
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            with warnings.catch_warnings(), _printed_once():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.meta.get("debug"):
                raise
            if is_told_by_another(error):
                ctx.exit(2)
            click.echo(f"maml-fast: error: {printable(_message(error))}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt as stop:
            if not is_told_by_another(stop):
                click.echo(f"maml-fast: {printable(str(stop)) if stop.args else 'stopped'}", err=True)
            ctx.exit(128 + getattr(stop, "signal_number", 2))


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["debug"] = ctx.meta.get("debug", False) or value


debug = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show tracebacks of errors."
)


@contextlib.contextmanager
def _printed_once() -> Iterator[None]:
    """Silence stdout unless this is the first of the processes that torchrun started."""
    if is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _message(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, MemoryError):
        return "there is not enough memory: use smaller images, or fewer episodes or steps"
    if isinstance(error, ValueError | TypeError | RuntimeError | OSError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}: this is a bug in maml_fast; --debug shows where"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if is_first():
        click.echo(f"maml-fast: warning: {printable(str(message))}", err=True)
