"""The arguments of a run as options of the command line, grouped, and their help."""

from __future__ import annotations

import dataclasses
import json
import textwrap
import typing
from collections.abc import Callable, Mapping
from typing import Any

import click

from maml_fast.train._config import TrainConfig
from maml_fast.train._options import Option, options_of
from maml_fast.train._recipes import DEFAULTS

__all__ = ["GroupedCommand", "as_arguments", "run_option", "run_options"]

_RUN = "Run"  # the group of options that are not arguments of a run
_MOST_CHOICES = 12  # that help lists


class RunOption(click.Option):
    """An option with its group, and its short help if ``--help`` lists it."""

    def __init__(self, *names: Any, group: str = _RUN, short: str | None = None, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.group, self.short = group, short


class GroupedCommand(click.Command):
    """A command whose help lists the common options under headings, and all of them after ``--help-all``."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        help_all = "Show all options with their defaults, and exit."
        self.params.append(
            click.Option(
                ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_help_all, help=help_all
            )
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        in_full = ctx.meta.get("help_all", False)
        groups: dict[str, list[tuple[str, str]]] = {}
        others = []
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is None:
                continue
            group, short = (option.group, option.short) if isinstance(option, RunOption) else (_RUN, record[1])
            if in_full:
                groups.setdefault(group, []).append(record)
            elif short is not None:
                groups.setdefault(group, []).append((record[0], short))
            else:
                others.append(option.opts[0])
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)
        if others:
            with formatter.section("More options (--help-all describes them)"):
                for line in textwrap.wrap(" ".join(others), formatter.width - 2, break_on_hyphens=False):
                    formatter.write(f"  {line}\n")


def _help_all(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta["help_all"] = True
        click.echo(ctx.get_help())
        ctx.exit()


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each argument of a run. The default is None: the data set or the run decides."""
    for name in reversed(options_of(TrainConfig)):
        command = run_option(name)(command)
    return command


def run_option(name: str, help: str | None = None, required: bool = False) -> Callable[..., Any]:
    """Return a decorator that adds the option for one argument of a run, with another help text if given."""
    option, field = options_of(TrainConfig)[name], TrainConfig.__dataclass_fields__[name]
    dashed = name.replace("_", "-")
    kind = _type(name, option)
    return click.option(
        f"--{dashed}/--no-{dashed}" if kind is bool else f"--{dashed}",
        name,
        cls=RunOption,
        type=kind,
        default=None,
        required=required,
        metavar=_METAVARS.get(kind) if len(option.choices) < 3 else "NAME",
        help=_help(option, field) if help is None else help,
        group=option.group,
        short=f"{option.help}{_default(field, of_data_sets=False)}" if option.common else None,
    )


def as_arguments(given: Mapping[str, Any]) -> list[str]:
    """Return the command-line arguments that give another process the same options."""
    arguments = []
    for name, value in given.items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{dashed}" if value else f"--no-{dashed}")
        elif value is not None:
            arguments.append(f"--{dashed}={json.dumps(value) if isinstance(value, Mapping) else value}")
    return arguments


class _TaskChunk(click.ParamType):
    name = "integer|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        try:
            return value if value == "auto" else int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor 'auto'", param, ctx)


class _KeywordArguments(click.ParamType):
    name = "name=value,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return dict(value)
        if value.lstrip().startswith("{"):
            try:
                return dict(json.loads(value))
            except ValueError as error:
                self.fail(f"{value!r} is no JSON object ({error})", param, ctx)
        found = {}
        for entry in filter(None, (part.strip() for part in value.split(","))):
            key, equals, text = entry.partition("=")
            if not (equals and key.strip().isidentifier()):
                self.fail(f"{entry!r} is not name=value; with commas in a value, give a JSON object", param, ctx)
            found[key.strip()] = _value(text.strip())
        return found


def _value(text: str) -> Any:
    """Parse a JSON number, true, false, null or list; anything else is a string."""
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


_METAVARS: Mapping[Any, str] = {int: "N", float: "X"}
_TYPES: Mapping[str, click.ParamType] = {"task_chunk": _TaskChunk(), "model_args": _KeywordArguments()}


def _type(name: str, option: Option) -> Any:
    if name in _TYPES:
        return _TYPES[name]
    if option.choices:
        return click.Choice(option.choices)
    annotation = typing.get_type_hints(TrainConfig)[name]
    return next((part for part in typing.get_args(annotation) if part is not type(None)), annotation)


def _help(option: Option, field: dataclasses.Field[Any]) -> str:
    """Return the option's help, its choices if there are few, and its default."""
    names = [str(choice) for choice in option.choices]
    told = len(names) < 3 or all(name in option.help for name in names)  # short choices are shown next to the name
    listed = "" if told or len(names) > _MOST_CHOICES else f" One of {', '.join(names)}."
    return f"{option.help}{listed}{_default(field)}"


def _default(field: dataclasses.Field[Any], of_data_sets: bool = True) -> str:
    if field.default is None:
        return ""
    if not of_data_sets:
        return f"  [{_plain(field.default)}]"
    names: dict[Any, list[str]] = {}  # the data sets with their own default, by its value
    for name, settings in DEFAULTS.items():
        if field.name in settings:
            names.setdefault(settings[field.name], []).append(name)
    others = [f"{', '.join(those)} {_plain(value)}" for value, those in names.items()]
    return f"  [{'; '.join([_plain(field.default), *others])}]"


def _plain(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
