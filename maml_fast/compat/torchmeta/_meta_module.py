"""Modules whose ``forward`` takes the parameters to run with."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["MetaModule", "with_parameters"]


class MetaModule(nn.Module):
    """A module whose ``forward`` takes an argument ``params``, a dictionary of the parameters to run with.

    Only parameters of MetaModules adapt: those of ordinary layers within a MetaModule are shared by all tasks.
    """

    def meta_named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names and the parameters that adapt."""
        yield from self._named_members(
            lambda module: module._parameters.items() if isinstance(module, MetaModule) else (),
            prefix=prefix,
            recurse=recurse,
        )

    def meta_parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield the parameters that adapt."""
        for _, parameter in self.meta_named_parameters(recurse=recurse):
            yield parameter

    def get_subdict(
        self, params: Mapping[str, Tensor] | None, key: str | None = None
    ) -> OrderedDict[str, Tensor] | None:
        """Return the entries of ``params`` that belong to the submodule ``key``, by its own names.

        Without a ``key``, all entries. None if ``params`` is None, or, after a warning, if it has no such entries: then
        the submodule runs with its own parameters.
        """
        if params is None:
            return None
        if key is None:
            return OrderedDict(params)
        start = f"{key}."
        found = OrderedDict((name[len(start) :], each) for name, each in params.items() if name.startswith(start))
        if not found:
            warnings.warn(
                f"params has no entry for the submodule {key!r} of {type(self).__name__}, which runs with its own "
                f"parameters; params has {', '.join(params)}",
                stacklevel=2,
            )
            return None
        return found


def with_parameters(module: nn.Module, params: Mapping[str, Tensor]) -> Any:
    """Return a module that equals ``module``, buffers included, but for the parameters that ``params`` replaces."""
    twin: Any = object.__new__(type(module))
    own = {name: each for name, each in params.items() if name in module._parameters}
    vars(twin).update(vars(module), _parameters={**module._parameters, **own}, _modules={**module._modules})
    for name, part in module._modules.items():
        start = f"{name}."
        of_part = {key[len(start) :]: each for key, each in params.items() if key.startswith(start)}
        if of_part and part is not None:
            twin._modules[name] = with_parameters(part, of_part)
    return twin
