"""Models made of torchmeta's MetaModules, in which ordinary layers do not adapt."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

__all__ = ["warn_of_shared_layers"]

MAX_NAMED = 4


def warn_of_shared_layers(model: nn.Module) -> None:
    """Warn if some parameters of a MetaModule belong to layers that are none, such as ``nn.BatchNorm2d``.

    torchmeta's own inner step leaves these as they are.
    """
    named: Any = getattr(model, "meta_named_parameters", None)
    if named is None:
        return
    adapting = {name for name, _ in named()}
    shared = [name for name, each in model.named_parameters() if each.requires_grad and name not in adapting]
    if not shared:
        return
    rest = f" and {len(shared) - MAX_NAMED} more" if len(shared) > MAX_NAMED else ""
    warnings.warn(
        f"torchmeta does not adapt {', '.join(shared[:MAX_NAMED])}{rest}, which belong to no MetaModule, but MAML "
        "adapts all parameters. For torchmeta's results, use adapted=[name for name, _ in "
        "model.meta_named_parameters()]; to adapt all without this warning, adapted=['*']",
        UserWarning,
        stacklevel=4,  # past __init__ and its decorator
    )
