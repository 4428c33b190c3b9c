"""The fused model: what is called in the place of a user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maml_fast._arguments import choice, nn_module
from maml_fast.fusion._runner import Runner
from maml_fast.program import FusionPolicy, FusionReport

__all__ = ["FusedModel", "fuse"]


def fuse(model: nn.Module, *, batch_norm: FusionPolicy = "batch") -> FusedModel:
    """Return a module that computes what ``model`` does, its conv-BN-ReLU-pool runs as one operation each.

    The model is recorded at the first call with inputs of a kind (shape, type, device), and anew when anything but its
    tensors changes: training modes, attributes, hooks, layers. The runs are found however they are written, batch norm
    before or after ReLU, with or without a pool. A recording is compared with the model itself, outputs and gradients,
    before it is used. Where there is none (control flow that depends on data, outputs that are not one tensor,
    arguments that are not tensors by place, transforms of ``torch.func``, ...) or nothing to fuse, the model runs as it
    is written, under the same batch-norm policy. ``str(result.report)`` says what the last call did.

    The result shares the model's parameters, buffers, layers and training modes: whatever is done to one of the two
    (``.to()``, ``eval()``, ``load_state_dict``, an optimizer's step, ``torch.func.functional_call``) is done to both.

    Args:
        model: any ``nn.Module`` of one task.
        batch_norm: where every batch norm takes its statistics from, fused or not, in ``train()`` and ``eval()`` alike.
            ``"batch"``: from the batch (transductive, as in Finn's code); running statistics are neither read nor
            written. ``"running"``: from the running statistics, which are not updated; nothing that holds a batch norm
            is fused then. ``"as_written"``: from where PyTorch takes them, which ``train()`` and ``eval()`` decide, and
            running statistics are updated as PyTorch does; what takes the batch's statistics is fused.

    Raises:
        TypeError: if ``model`` is not a module, or a scripted or compiled one.
        ValueError: for another policy, ``"running"`` on layers that keep no running statistics, a part that is fused
            with the other policy, or lazy layers whose parameters are not there yet.
    """
    choice(*get_args(FusionPolicy), said="'batch', 'running' or 'as_written'")("batch_norm", batch_norm)
    if isinstance(model, FusedModel):
        return model if model.report.batch_norm == batch_norm else fuse(model.original, batch_norm=batch_norm)
    _check_model(model, batch_norm)
    return FusedModel(model, batch_norm)


class FusedModel(nn.Module):
    """What :func:`fuse` returns.

    Attributes:
        original: the model it was made from.
    """

    original: nn.Module
    _runner: Runner

    def __init__(self, model: nn.Module, batch_norm: FusionPolicy) -> None:
        mode = model.training
        vars(self).update(original=model, _runner=Runner(model, batch_norm))  # not submodules
        super().__init__()
        model.training = mode
        # The model's own dictionaries: its tree is this one's, and functional_call reaches it by the same names.
        shared = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
        vars(self).update({name: vars(model)[name] for name in shared})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; takes and returns what the original takes and returns."""
        return self._runner(self.original, args, kwargs)

    @property
    def report(self) -> FusionReport:
        """What was fused in the last call, and what was left and why; empty before the first."""
        return self._runner.report

    @property
    def training(self) -> bool:
        """The original's training mode."""
        return self.original.training

    @training.setter
    def training(self, mode: bool) -> None:
        self.original.training = mode

    def train(self, mode: bool = True) -> FusedModel:
        """Set the original's training mode."""
        self.original.train(mode)
        return self

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """List every module once, under its first name, whatever is asked for.

        ``torch.func.functional_call`` looks for shared parameters by all names, would put those of a module that has
        two names in place twice, and leave them there.
        """
        return super().named_modules(memo, prefix, remove_duplicate=True)

    def extra_repr(self) -> str:
        """Say the policy."""
        return f"batch_norm={self.report.batch_norm!r}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FusedModel:
        self.original._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.original._save_to_state_dict(*args, **kwargs)  # with its extra state, if its class has any

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.original._load_from_state_dict(*args, **kwargs)


def _check_model(model: Any, batch_norm: FusionPolicy) -> None:
    nn_module("model", model)
    for name, module in model.named_modules():
        what = f"{name or 'the model'} is a {type(module).__name__}"
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"{what}, whose layers can't be seen; pass the module before torch.jit")
        if isinstance(module, FusedModel) and module.report.batch_norm != batch_norm:
            raise ValueError(f"{what} with batch_norm={module.report.batch_norm!r}; put its .original in its place")
        if hasattr(module, "_orig_mod"):
            raise TypeError(f"{what}, whose layers can't be seen; pass the module before torch.compile")
        if batch_norm == "running" and isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"batch_norm='running' needs running statistics, and {name or 'the model'} keeps none "
                f"(track_running_stats=False); use batch_norm='batch'"
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"{name} has no shape yet; run the model once on an example before fusing it")
