"""The fused model, which is called in place of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maml_fast._arguments import choice, nn_module
from maml_fast.fusion._runner import Runner
from maml_fast.fusion._twins import fill_patched_layers, share, twin_of
from maml_fast.program import FusionPolicy, FusionReport

__all__ = ["FusedModel", "fuse"]


def fuse(model: nn.Module, *, batch_norm: FusionPolicy = "batch") -> FusedModel:
    """Return a module that computes what ``model`` does, with each conv-BN-ReLU-pool sequence as one operation.

    The model is recorded at its first call on each kind of inputs (shape, dtype, device), and again whenever anything
    other than its tensors changes: training modes, attributes, hooks, layers. Sequences are found however they are
    written, with batch norm before or after ReLU, and with or without a pool. Before a recording is used, its outputs
    and gradients are compared with those of the model itself. If a model can't be recorded (control flow that depends
    on data, an output that is not a single tensor, arguments that are not positional tensors, transforms of
    ``torch.func``, ...) or has nothing to fuse, it runs as it is written, under the same batch-norm policy.
    ``str(result.report)`` says what the last call did.

    The result shares the model's parameters, buffers, layers and training modes: any change to one of the two
    (``.to()``, ``eval()``, ``load_state_dict``, an optimizer's step, ``torch.func.functional_call``) changes both.

    Args:
        model: any ``nn.Module`` that computes one task.
        batch_norm: the statistics that every batch norm uses, whether it is fused or not.

            - ``"batch"``: the batch's own (transductive, as in Finn's code), in ``train()`` and ``eval()`` alike.
              Running statistics are neither read nor written.
            - ``"running"``: the running statistics, in ``train()`` and ``eval()`` alike. They are not updated.
              Nothing that contains a batch norm is fused.
            - ``"as_written"``: as in PyTorch, ``train()`` and ``eval()`` decide, and running statistics are updated.
              Sequences that use the batch's statistics are fused.

    Returns:
        The fused model. A model that is already fused is returned as it is, or fused again under the new policy.

    Raises:
        TypeError: if ``model`` is not a module, or if it contains a scripted or compiled one.
        ValueError: for an unknown policy, ``"running"`` on layers without running statistics, a part that is already
            fused under a different policy, or lazy layers without initialized parameters.
    """
    choice(*get_args(FusionPolicy), said="'batch', 'running' or 'as_written'")("batch_norm", batch_norm)
    if isinstance(model, FusedModel):
        return model if model.report.batch_norm == batch_norm else fuse(model.original, batch_norm=batch_norm)
    _check_model(model, batch_norm)
    return FusedModel(model, batch_norm)


class _Held(NamedTuple):
    """A module that is no submodule of its holder."""

    module: nn.Module


class FusedModel(nn.Module):
    """A module that runs another one with fused operations; made by :func:`fuse`.

    The copies that ``higher.innerloop_ctx`` and ``higher.monkeypatch`` make of it are fused too.
    """

    _runner: Runner

    def __init__(self, model: nn.Module, batch_norm: FusionPolicy) -> None:
        super().__init__()
        vars(self).update(_held=_Held(model), _runner=Runner(model, batch_norm))  # not submodules
        # Both have the same submodules and parameters under the same names, also for functional_call.
        share(self, model)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Arguments and results are those of the original."""
        fill_patched_layers(self)
        return self._runner(self.original, args, kwargs)

    @property
    def original(self) -> nn.Module:
        """The model that this one was made from."""
        return self._held.module

    @property
    def _held(self) -> _Held:
        return vars(self)["_held"]

    @_held.setter
    def _held(self, held: _Held) -> None:
        """Hold a twin with the layers of this module; called when higher sets the attributes of a copy of a model."""
        vars(self)["_held"] = _Held(twin_of(held.module, self))

    @property
    def report(self) -> FusionReport:
        """What was fused in the last call, and what was not and why; empty before the first call."""
        return self._runner.report

    @property
    def training(self) -> bool:
        """The original's training mode."""
        return self.original.training

    @training.setter
    def training(self, mode: bool) -> None:
        if "_held" in vars(self):  # not yet so in nn.Module.__init__
            self.original.training = mode

    def train(self, mode: bool = True) -> FusedModel:
        """Set the original's training mode."""
        self.original.train(mode)
        return self

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield every module once, under its first name, whatever ``remove_duplicate`` says.

        ``torch.func.functional_call`` looks up shared parameters under all names. It would replace those of a module
        with two names twice, and then not restore them.
        """
        return super().named_modules(memo, prefix, remove_duplicate=True)

    def extra_repr(self) -> str:
        """Show the batch-norm policy."""
        return f"batch_norm={self.report.batch_norm!r}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FusedModel:
        self.original._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.original._save_to_state_dict(*args, **kwargs)  # this includes the extra state of its class

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
