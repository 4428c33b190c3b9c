"""Drop-in replacements for the classes of a widely copied MAML tutorial."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from maml_fast._arguments import flag, many, tensor
from maml_fast.compat._first_order import Array, FirstOrderLearner, accuracies_of
from maml_fast.compat.dragen1860 import Meta
from maml_fast.data._episodes import Episodes
from maml_fast.models import TutorialNet

__all__ = ["MetaLearner", "TutorialBaseNet"]


class TutorialBaseNet(TutorialNet):
    """:class:`maml_fast.models.TutorialNet` with the interface of the tutorial's ``BaseNet``.

    ``parameters()`` and ``vars`` are the 18 parameters as a list, and ``net(x, params=fast_weights)`` runs with other
    parameters. State dicts of the original (``vars.0``, ...) load, without its running statistics, which the original
    never reads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_rename_tutorial_keys)

    def forward(self, x: Tensor, params: Iterable[Tensor] | None = None, bn_training: bool = True) -> Tensor:
        """Return logits [B, 5] of images [B, 1, 28, 28], computed with ``params`` if they are given."""
        if not flag("bn_training", bn_training):
            raise ValueError("bn_training=False needs running statistics, which are not kept; leave bn_training=True")
        if params is None:
            return super().forward(x)
        names, tensors = [name for name, _ in self.named_parameters()], many(tensor)("params", params)
        if len(tensors) != len(names):
            raise ValueError(f"params must hold {len(names)} tensors, as parameters() does, got {len(tensors)}")
        return functional_call(self, dict(zip(names, tensors, strict=True)), (x,))

    def parameters(self, recurse: bool = True) -> nn.ParameterList:  # type: ignore[override]
        """The 18 parameters: weight and bias of convolution and batch norm, four times, then of the linear layer."""
        return nn.ParameterList(super().parameters(recurse))

    @property
    def vars(self) -> nn.ParameterList:
        """The tutorial's name for :meth:`parameters`."""
        return self.parameters()


class MetaLearner(FirstOrderLearner):
    """The tutorial's ``MetaLearner``: first-order MAML with five inner steps of SGD and Adam as outer optimizer.

    The attributes may be changed at any time, as in the original: ``update_step`` and ``update_step_test`` (inner steps
    of training and of :meth:`finetunning`), ``base_lr`` (learning rate of these steps), ``net`` and ``meta_optim``.
    ``meta_lr`` is the learning rate that ``meta_optim`` was made with. ``inner_lr`` and ``outer_lr`` are not used, as
    in the original.

    The returned arrays hold one number per inner step, from step 0 on. The original leaves index 1 at zero; here it is
    filled.

    Args:
        args, config: for the class of this name in programs that took it over from dragen1860's MAML-Pytorch:
            ``MetaLearner(args, config)`` makes a :class:`maml_fast.compat.dragen1860.Meta`.
    """

    def __new__(cls, args: Any = None, config: Any = None) -> Any:
        """Make the tutorial's class, or dragen1860's if there are arguments."""
        return super().__new__(cls) if args is None and config is None else Meta(args, config)

    def __init__(self) -> None:
        super().__init__(TutorialBaseNet(), meta_lr=2e-4, update_step=5, update_step_test=5)
        self.base_lr = 4 * 1e-2
        self.inner_lr = 0.4
        self.outer_lr = 1e-2

    def forward(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> tuple[Array, Array]:
        """Train on one meta-batch of images [T, N, C, H, W] and labels [T, N].

        Returns:
            The query accuracies and the query losses, both [update_step + 1].
        """
        results = self._train_on(Episodes(x_spt, y_spt, x_qry, y_qry))
        return accuracies_of(results), results.losses.double().mean(dim=1).cpu().numpy()

    def _inner_lr(self) -> float:
        return self.base_lr


def _rename_tutorial_keys(net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Rename the entries of a tutorial's state dict to the names used here; drop its running statistics."""
    for index, (name, _parameter) in enumerate(net.named_parameters()):
        old = f"{prefix}vars.{index}"
        if old in state_dict:
            state_dict[prefix + name] = state_dict.pop(old)
    for key in [key for key in state_dict if key.startswith(f"{prefix}vars_bn.")]:
        del state_dict[key]
