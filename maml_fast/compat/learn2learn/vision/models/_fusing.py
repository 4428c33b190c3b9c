"""A sequence of layers that runs on the fused kernels wherever it is called."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from maml_fast.compat.learn2learn._fused_calls import fused_calls_of, share_recordings
from maml_fast.fusion import is_being_recorded

__all__ = ["FusedSequential"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class FusedSequential(nn.Sequential):
    """An ``nn.Sequential`` whose conv-BN-ReLU-pool is fused, outside of a learner too.

    Its clones and deep copies share its recordings. Results and running statistics are those of PyTorch.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        share_recordings(self)

    def forward(self, x: Any) -> Any:
        """Return the output of the last layer."""
        if is_being_recorded():
            return super().forward(x)
        layers = self._as_written()
        calls = fused_calls_of(layers)
        if not calls.fit(layers):  # layers were replaced
            share_recordings(self, anew=True)
            layers = self._as_written()
            calls = fused_calls_of(layers)
        return calls.run(layers, x)

    def _as_written(self) -> nn.Sequential:
        """Return the same layers as a plain ``nn.Sequential``; the hooks of this module have run already."""
        layers: nn.Sequential = object.__new__(nn.Sequential)
        vars(layers).update(vars(self))
        vars(layers).update({name: OrderedDict() for name in _HOOKS})
        return layers
