"""The meta-learner of dragen1860's MAML-Pytorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from maml_fast._arguments import Kind, int_from, many, number, shown, takes, tensor
from maml_fast.compat._first_order import Array, FirstOrderLearner, accuracies_of
from maml_fast.compat.dragen1860._layers import Config
from maml_fast.compat.dragen1860._learner import Learner
from maml_fast.data._episodes import Episodes

__all__ = ["Meta"]

_SETTINGS: Mapping[str, Kind] = {
    "update_lr": number(least=0),
    "meta_lr": number(least=0),
    **dict.fromkeys(("n_way", "k_spt", "k_qry", "task_num", "update_step", "update_step_test"), int_from(1)),
    "imgc": int_from(1),
    "imgsz": int_from(1),
}


class Meta(FirstOrderLearner):
    """First-order MAML of a :class:`Learner`, with Adam as outer optimizer.

    As in the original, ``update_lr``, ``update_step``, ``update_step_test``, ``net`` and ``meta_optim`` may be changed
    at any time. Running statistics stay as they are in training, because nothing reads them.

    Args:
        args: an object with the attributes ``update_lr`` (inner learning rate), ``meta_lr``, ``update_step`` (inner
            steps of training), ``update_step_test`` (of :meth:`finetunning`), ``n_way``, ``k_spt``, ``k_qry``,
            ``task_num``, ``imgc`` and ``imgsz``, such as the Namespace of argparse.
        config: the layers of the net, see :class:`Learner`.

    Raises:
        TypeError, ValueError: ``args`` lacks a setting, or a setting or ``config`` is invalid.
    """

    def __init__(self, args: Any, config: Config) -> None:
        settings = {name: kind(f"args.{name}", _setting(args, name)) for name, kind in _SETTINGS.items()}
        net = Learner(config, settings["imgc"], settings["imgsz"])
        super().__init__(net, settings["meta_lr"], settings["update_step"], settings["update_step_test"])
        self.update_lr: float = settings["update_lr"]
        self.n_way: int = settings["n_way"]
        self.k_spt: int = settings["k_spt"]
        self.k_qry: int = settings["k_qry"]
        self.task_num: int = settings["task_num"]

    def forward(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> Array:
        """Train on one meta-batch of images [T, N, C, H, W] and labels [T, N].

        Returns:
            The query accuracies [update_step + 1], from step 0 on.
        """
        return accuracies_of(self._train_on(Episodes(x_spt, y_spt, x_qry, y_qry)))

    @takes(grad=many(tensor), max_norm=number(least=0))
    def clip_grad_by_norm_(self, grad: Sequence[Tensor], max_norm: float) -> float:
        """Scale gradients in place so that their common norm is at most ``max_norm``.

        Returns:
            The norm before, divided by the number of gradients, as in the original.
        """
        norm = float(torch.nn.utils.get_total_norm(grad))
        if norm > max_norm:
            torch._foreach_mul_(list(grad), max_norm / (norm + 1e-6))
        return norm / len(grad)

    def _inner_lr(self) -> float:
        return self.update_lr


def _setting(args: Any, name: str) -> Any:
    if not hasattr(args, name):
        raise TypeError(f"args must have the attributes {', '.join(_SETTINGS)}; {name} is missing in {shown(args)}")
    return getattr(args, name)
