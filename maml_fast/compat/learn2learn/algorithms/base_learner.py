"""The base class of learners: a module that is called through its wrapper.

Calling a wrapper or a clone runs the module's conv-BN-ReLU-pool on the fused kernels, one task at a time, wherever
batch norm uses the batch's statistics: in ``train()`` mode, or without running statistics. Where it uses running
statistics, in ``eval()`` mode, the module runs as it is written. Either way the results are those of PyTorch. So are
the updates of running statistics: as in learn2learn, clones share them with the model and update them in ``train()``
mode. Calls of ``learner.module`` itself, or of a part of it, run as written. ``maml.fusion`` lists what was fused in
the last call, what was not, and why.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from maml_fast._arguments import nn_module, optional, takes
from maml_fast.compat.learn2learn._fused_calls import fused_calls_of, renew
from maml_fast.fusion import FusionReport

__all__ = ["BaseLearner", "Fusing"]


class Fusing(nn.Module):
    """A wrapper that is called like its ``module``, by recordings that the module shares with its clones."""

    module: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module returns for these arguments."""
        module = self.module
        return fused_calls_of(module)(module, *args, **kwargs)

    @property
    def fusion(self) -> FusionReport:
        """What ran on the fused operation in the last call of this learner or any clone, what did not, and why."""
        return fused_calls_of(self.module).report


class BaseLearner(Fusing):
    """A wrapper that is called like its ``module`` and has the module's attributes.

    Args:
        module: the module; subclasses may set ``self.module`` later.
    """

    @takes(module=optional(nn_module))
    def __init__(self, module: nn.Module | None = None) -> None:
        super().__init__()
        if module is not None:
            renew(module)
            self.module = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)
