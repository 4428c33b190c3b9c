"""The fused model: a structural copy of the user's, some of whose modules run a rewritten recording of ``forward``."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import nn

from maml_fast.fusion.fuser import Fuser
from maml_fast.fusion.structure import set_batch_norm_policy, structural_copy
from maml_fast.program.report import FusionPolicy, FusionReport

__all__ = ["FusedModel", "fuse"]


def fuse(model: nn.Module, *, batch_norm: FusionPolicy = "batch") -> FusedModel:
    """Return a module that computes what ``model`` does, its conv-BN-ReLU-pool runs as one operation each.

    The runs are found in any nesting of ``nn.Sequential`` and in ordinary Python ``forward`` methods (torch.fx): ReLU
    and max-pool as modules, functions or methods, in place or not, in any order that computes the same, batch norm
    before or after ReLU, with or without a pool. What is no such run stays as it is, and ``forward`` methods that
    can't be recorded (control flow that depends on data, ...) run as they were written, their parts fused one by one;
    ``str(result.report)`` lists all of it.

    The result shares the model's parameters and buffers under the same names, whatever is done to either later
    (``.to()``, ``.double()``, ``load_state_dict``, an optimiser's step, ``torch.func.functional_call``). Python
    attributes and the structure of the model are those of this moment: fuse again after changing them. The model
    itself is not changed, and its ``train()`` and ``eval()`` are not followed: the result has its own.

    Recording calls every ``forward`` with stand-ins for tensors, a few times, while torch.fx patches ``nn.Module`` for
    the whole process: fuse before other threads run modules.

    Args:
        model: any ``nn.Module`` of one task.
        batch_norm: where every batch norm layer of the result takes its statistics from, fused or not, in ``train()``
            and ``eval()`` alike. ``"batch"``: from the batch (transductive, as in Finn's code); running statistics are
            neither read nor written. ``"running"``: from the running statistics, which are not updated; nothing that
            holds a batch norm is fused then. ``"as_written"``: from where PyTorch takes them, which ``train()`` and
            ``eval()`` decide, and running statistics are updated as PyTorch does; a recorded ``forward`` is fused where
            all batch norms below it are in one mode, and that takes the batch's statistics.

    Raises:
        TypeError: if ``model`` is not a module, or a scripted or compiled one.
        ValueError: for another policy, ``"running"`` on layers that keep no running statistics, a part that is fused
            with the other policy, or lazy layers whose parameters are not there yet.
    """
    if batch_norm not in get_args(FusionPolicy):
        raise ValueError(f"batch_norm must be 'batch', 'running' or 'as_written', got {batch_norm!r}")
    if isinstance(model, FusedModel):
        return model if model.report.batch_norm == batch_norm else FusedModel(model.original, batch_norm)
    _check_model(model, batch_norm)
    return FusedModel(model, batch_norm)


def _check_model(model: Any, batch_norm: FusionPolicy) -> None:
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TypeError(f"expected a module, got the class {model.__name__}; pass an instance, {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        what = f"{name or 'the model'} is a {type(module).__name__}"
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"{what}, whose layers can't be seen; pass the module before torch.jit")
        if isinstance(module, FusedModel) and module.report.batch_norm != batch_norm:
            raise ValueError(f"{what} with batch_norm={module.report.batch_norm!r}; put its .original in its place")
        if hasattr(module, "_orig_mod"):
            raise TypeError(f"{what}, whose layers can't be seen; pass the module before torch.compile")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"{name} has no shape yet; run the model once on an example before fusing it")


class FusedModel(nn.Module):
    """What :func:`fuse` returns.

    Attributes:
        report: what was fused, and what was left and why.
        original: the model it was made from.
    """

    report: FusionReport
    original: nn.Module

    def __init__(self, model: nn.Module, batch_norm: FusionPolicy) -> None:
        super().__init__()
        root = structural_copy(model)
        strangers = set_batch_norm_policy(root, batch_norm)
        fuser = Fuser(batch_norm)
        fuser.fuse(root, "")
        why = "a batch norm with a forward of its own; the policy reaches F.batch_norm in it, if it could be recorded"
        fuser.left += [f"{name or 'the model'}: {why}" for name in strangers]
        # The copy's own dictionaries: its tree is this module's tree, and functional_call reaches it by the same names.
        self.__dict__.update({name: vars(root)[name] for name in ("_parameters", "_buffers", "_modules")})
        self.__dict__.update(_non_persistent_buffers_set=root._non_persistent_buffers_set, training=model.training)
        self.__dict__.update(_root=root, original=model)  # not submodules
        self.__dict__["_forwards"] = fuser.forwards
        self.report = FusionReport(batch_norm, tuple(fuser.fused), tuple(fuser.left))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; takes and returns what the original takes and returns."""
        return self.__dict__["_root"](*args, **kwargs)

    @property
    def is_rewritten(self) -> bool:
        """Whether any ``forward`` of the original has a fused form, in any training mode."""
        return bool(self.__dict__["_forwards"])

    def run_on(self, twin: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Call a copy of the original, with the copy's parameters, buffers and training modes, in the fused form.

        The copy's modules are those of the original at the time of :func:`fuse`, one for one and in their order.
        """
        copies = dict(zip(self.__dict__["_root"].modules(), twin.modules(), strict=True))
        lent = {copies[forward.module]: forward.on(copies) for forward in self.__dict__["_forwards"]}
        own = {module: vars(module)["forward"] for module in lent if "forward" in vars(module)}
        try:
            for module, forward in lent.items():
                vars(module)["forward"] = forward
            return twin(*args, **kwargs)
        finally:
            for module in lent:
                vars(module).pop("forward", None)
            for module, forward in own.items():
                vars(module)["forward"] = forward

    def train(self, mode: bool = True) -> FusedModel:
        """Set the training mode, which matters to dropout but not to batch norm."""
        super().train(mode)
        self.__dict__["_root"].training = mode
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
        """Say the policy and the number of fused runs."""
        return f"batch_norm={self.report.batch_norm!r}, fused={len(self.report.fused)}"

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__["_root"]._save_to_state_dict(*args, **kwargs)  # with its extra state, if its class has any

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__["_root"]._load_from_state_dict(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> FusedModel:
        result = FusedModel(copy.deepcopy(self.original, memo), self.report.batch_norm)
        memo[id(self)] = result
        return _with_training(result, _training(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.original, self.report.batch_norm, _training(self))


def _rebuild(model: nn.Module, batch_norm: FusionPolicy, training: list[bool]) -> FusedModel:
    return _with_training(FusedModel(model, batch_norm), training)


def _training(model: FusedModel) -> list[bool]:
    return [module.training for module in model.modules()]


def _with_training(model: FusedModel, training: list[bool]) -> FusedModel:
    model.train(training[0])
    for module, mode in zip(model.modules(), training, strict=True):
        module.training = mode
    return model
