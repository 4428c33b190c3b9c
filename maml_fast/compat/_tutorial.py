"""Drop-in replacements for the classes of a widely copied MAML tutorial."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from maml_fast._arguments import flag, many, takes, tensor
from maml_fast.data._episodes import Episodes
from maml_fast.maml import MAML, TaskResults
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


class MetaLearner(nn.Module):
    """The tutorial's ``MetaLearner``: first-order MAML with five inner steps of SGD and Adam as outer optimizer.

    The attributes may be changed at any time, as in the original: ``update_step`` and ``update_step_test`` (inner steps
    of training and of :meth:`finetunning`), ``base_lr`` (learning rate of these steps), ``net`` and ``meta_optim``.
    ``meta_lr`` is the learning rate that ``meta_optim`` was made with. ``inner_lr`` and ``outer_lr`` are not used, as
    in the original.

    The returned arrays hold one number per inner step, from step 0 on. The original leaves index 1 at zero; here it is
    filled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.update_step = 5
        self.update_step_test = 5
        self.net: nn.Module = TutorialBaseNet()
        self.meta_lr = 2e-4
        self.base_lr = 4 * 1e-2
        self.inner_lr = 0.4
        self.outer_lr = 1e-2
        self.meta_optim: torch.optim.Optimizer = torch.optim.Adam(self.net.parameters(), lr=self.meta_lr)
        self._maml: list[MAML] = []  # in a list: a submodule would appear in the state dict

    def forward(
        self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor
    ) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
        """Train on one meta-batch of images [T, N, C, H, W] and labels [T, N].

        Returns:
            The query accuracies and the query losses, both [update_step + 1].
        """
        episodes = Episodes(x_spt, y_spt, x_qry, y_qry)
        results, loss = self._current_maml().results_and_loss(episodes, per_step=True, inner_steps=self.update_step)
        self.meta_optim.zero_grad()
        loss.backward()
        self.meta_optim.step()
        return _accuracies(results), results.losses.double().mean(dim=1).cpu().numpy()

    @takes(x_spt=tensor, y_spt=tensor, x_qry=tensor, y_qry=tensor)
    def finetunning(
        self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Adapt to one task of images [N, C, H, W] and labels [N], without changing the network.

        Returns:
            The query accuracies [update_step_test + 1].

        Raises:
            ValueError: if ``x_spt`` does not hold the images of one task.
        """
        if x_spt.dim() != 4:
            raise ValueError(f"finetunning takes the images of one task, [N, C, H, W], got x_spt {list(x_spt.shape)}")
        with torch.no_grad():
            one = Episodes(x_spt[None], y_spt[None], x_qry[None], y_qry[None])
            results = self._current_maml().task_results(one, per_step=True, inner_steps=self.update_step_test)
            return _accuracies(results)

    def _current_maml(self) -> MAML:
        if not self._maml or self._maml[0].model is not self.net:
            self._maml = [MAML(self.net, order=1)]
        self._maml[0].inner_lr = self.base_lr
        return self._maml[0]


def _accuracies(results: TaskResults) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert results.correct is not None  # the loss is cross-entropy
    assert results.predictions is not None
    return results.correct.sum(dim=1).cpu().numpy() / int(results.predictions.sum())


def _rename_tutorial_keys(net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Rename the entries of a tutorial's state dict to the names used here; drop its running statistics."""
    for index, (name, _parameter) in enumerate(net.named_parameters()):
        old = f"{prefix}vars.{index}"
        if old in state_dict:
            state_dict[prefix + name] = state_dict.pop(old)
    for key in [key for key in state_dict if key.startswith(f"{prefix}vars_bn.")]:
        del state_dict[key]
