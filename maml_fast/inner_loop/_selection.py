"""Selection of the parameters that adapt, by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from maml_fast._arguments import shown

__all__ = ["AdaptedChoice", "as_attribute", "check_head", "matching_names", "select_parameters"]

AdaptedChoice: TypeAlias = str | Sequence[str] | Callable[[str], bool] | None


def select_parameters(model: nn.Module, adapted: AdaptedChoice) -> tuple[str, ...]:
    """Return the names of the parameters that ``adapted`` selects, in the model's order, frozen ones included.

    - ``None`` selects all parameters.
    - ``"head"`` selects those of the last module that holds parameters (ANIL, Raghu et al. 2020). Once the model has
      been recorded, :func:`check_head` verifies that this module is the head.
    - ``"body"`` selects all others (BOIL, Oh et al. 2021).
    - A list selects whatever any of its entries matches: names, prefixes (``"features.3"``) or globs (``"*.bias"``).
    - A function ``name -> bool`` selects those for which it is true.

    Raises:
        TypeError: an entry is not a string.
        ValueError: an entry matches nothing, or no trainable parameter is selected.
    """
    parameters = dict(model.named_parameters())
    names = tuple(parameters)
    if adapted is None:
        chosen = names
    elif isinstance(adapted, str):
        head = _names_of_last_module(model)
        parts = {"head": head, "body": tuple(name for name in names if name not in head)}
        chosen = parts[adapted] if adapted in parts else _names_of_entries([adapted], names)
    elif callable(adapted) and not isinstance(adapted, type | nn.Module):
        chosen = tuple(name for name in names if adapted(name))
    else:
        chosen = _names_of_entries(adapted, names)
    if not any(parameters[name].requires_grad for name in chosen):
        reason = "all that it chooses are frozen (requires_grad=False)" if chosen else "it chooses no parameter"
        raise ValueError(f"adapted={shown(adapted)} leaves nothing to adapt: {reason}; the model has {_listing(names)}")
    return chosen


def check_head(model: nn.Module, part: str, computed_last: Collection[str]) -> None:
    """Raise unless the head that ``adapted="head"`` or ``"body"`` assumed is the one that computes the output.

    Args:
        model: the model.
        part: ``"head"`` or ``"body"``.
        computed_last: names of the parameters that the output is computed from last.
    """
    chosen = _names_of_last_module(model)
    found = tuple(name for name, _ in model.named_parameters() if name in computed_last)
    if set(found) != set(chosen):
        choice_of_found = [*found] if part == "head" else f"lambda name: name not in {[*found]}"
        raise ValueError(
            f"adapted={part!r} took the last parameters that the model registers for its head, {_listing(chosen)}, but "
            f"its output is computed last with {_listing(found)}; say which you mean, as in "
            f"MAML(model, adapted={choice_of_found})"
        )


def matching_names(entry: str, names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that equal ``entry``, begin with ``entry + "."``, or match it as a glob."""
    return [name for name in names if name == entry or name.startswith(f"{entry}.") or fnmatchcase(name, entry)]


def as_attribute(name: str) -> str:
    """Return a parameter's name as an attribute name, with slashes for dots: PyTorch reserves the dot."""
    return name.replace(".", "/")


def _names_of_entries(entries: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    chosen: set[str] = set()
    for entry in entries if isinstance(entries, Iterable) and not isinstance(entries, Tensor) else [entries]:
        if not isinstance(entry, str):
            raise TypeError(f"adapted must be None, 'head', 'body', names or a function of a name, got {shown(entry)}")
        matches = matching_names(entry, names)
        if not matches:
            raise ValueError(f"adapted names {entry!r}, which matches no parameter; the model has {_listing(names)}")
        chosen.update(matches)
    return tuple(name for name in names if name in chosen)


def _names_of_last_module(model: nn.Module) -> tuple[str, ...]:
    """Return the names as the model lists them: a tied parameter has the name of its first occurrence."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    last: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if ".parametrizations." not in f".{path}.":  # these count as parameters of the parametrized module
            own = [*module.parameters(recurse=False)]
            if parametrize.is_parametrized(module):
                own += cast("nn.Module", module.parametrizations).parameters()
            last = tuple(names[parameter] for parameter in own) or last
    return last


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "no parameters"
