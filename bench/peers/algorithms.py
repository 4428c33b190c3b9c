"""Every algorithm as a tutorial writes it: an ordinary module, plain autograd, one task after another.

No line of maml_fast is in them but the numbers that they are given. A new algorithm's loop is an entry in ``LOOPS``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from peers.learned_rules import LearnedOptimizerLoop, MetaLSTMLoop
from peers.naive_loop import NaiveLoop
from peers.nets import LibraryBatchNorm

if TYPE_CHECKING:
    from maml_fast.algorithms import Settings


class MAMLLoop(NaiveLoop):
    """Finn et al. 2017, algorithm 2."""

    def rates(self) -> dict[str, float | Tensor]:
        """The step size of every weight that adapts."""
        return dict.fromkeys((name for name, _ in self.model.named_parameters()), self.settings.inner_lr)

    def task_loss(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> Tensor:
        weights, rates = dict(self.model.named_parameters()), self.rates()
        for _ in range(self.settings.inner_steps):
            loss = F.cross_entropy(functional_call(self.model, weights, (x_spt,)), y_spt)
            adapted = [weights[name] for name in rates]
            gradients = torch.autograd.grad(loss, adapted, create_graph=self.settings.order == 2)
            for (name, rate), gradient in zip(rates.items(), gradients, strict=True):
                weights[name] = weights[name] - rate * gradient
        return F.cross_entropy(functional_call(self.model, weights, (x_qry,)), y_qry)


class FOMAMLLoop(MAMLLoop):
    """Finn et al. 2017, section 5.2: inner gradients are constants."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__(model, replace(settings, order=1))


class ANILLoop(NaiveLoop):
    """Raghu et al. 2020: features once, then steps of the classifier alone."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__(model, settings)
        (*_, (name, head)) = model.named_children()
        setattr(model, name, nn.Identity())
        self.head = head

    def task_loss(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> Tensor:
        support, queries = self.model(x_spt), self.model(x_qry)
        weights = list(self.head.parameters())
        for _ in range(self.settings.inner_steps):
            loss = F.cross_entropy(F.linear(support, *weights), y_spt)
            gradients = torch.autograd.grad(loss, weights, create_graph=self.settings.order == 2)
            weights = [w - self.settings.inner_lr * g for w, g in zip(weights, gradients, strict=True)]
        return F.cross_entropy(F.linear(queries, *weights), y_qry)


class BOILLoop(MAMLLoop):
    """Oh et al. 2021: all but the classifier adapts."""

    def rates(self) -> dict[str, float | Tensor]:
        return dict(list(super().rates().items())[:-2])


class MetaSGDLoop(MAMLLoop):
    """Li et al. 2017, algorithm 1: a learned rate for every weight."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__(model, settings)
        weights = list(model.parameters())
        self.learned = nn.ParameterList(torch.full_like(w, settings.inner_lr, requires_grad=False) for w in weights)

    def rates(self) -> dict[str, float | Tensor]:
        return dict(zip(super().rates(), self.learned, strict=True))


class MAMLPlusPlusLoop(MAMLLoop):
    """Antoniou et al. 2019 at the first iteration: rates and batch norms of every step, and all steps' losses alike."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__(model, settings)
        steps = settings.inner_steps
        norms = [module for module in model.modules() if isinstance(module, LibraryBatchNorm)]
        in_norms = {parameter for norm in norms for parameter in norm.parameters()}
        named = dict(model.named_parameters())
        self.norm_names = [name for name, parameter in named.items() if parameter in in_norms]
        self.adapted = [name for name in named if name not in self.norm_names]
        self.norms = nn.ParameterList(named[name].detach().expand(steps, -1).clone() for name in self.norm_names)
        dtype = named[self.adapted[0]].dtype
        self.learned = nn.ParameterList(torch.full([steps], settings.inner_lr, dtype=dtype) for _ in self.adapted)

    def task_loss(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> Tensor:
        named, losses = dict(self.model.named_parameters()), []
        weights = {name: named[name] for name in self.adapted}
        for step in range(self.settings.inner_steps):
            norms = {name: of_steps[step] for name, of_steps in zip(self.norm_names, self.norms, strict=True)}
            loss = F.cross_entropy(functional_call(self.model, {**weights, **norms}, (x_spt,)), y_spt)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=self.settings.order == 2)
            rates = [of_steps[step] for of_steps in self.learned]
            weights = {
                name: weight - rate * gradient
                for (name, weight), rate, gradient in zip(weights.items(), rates, gradients, strict=True)
            }
            losses.append(F.cross_entropy(functional_call(self.model, {**weights, **norms}, (x_qry,)), y_qry))
        return torch.stack(losses).mean()


class ReptileLoop(NaiveLoop):
    """Nichol et al. 2018, batched: every task trains a copy by Adam with β1 = 0, in TensorFlow's form.

    As maml_fast's: one order of minibatches for all tasks; Adam begins with the mean of what the tasks' Adams knew
    after the meta-batch before.
    """

    DECAY, EPS = 0.999, 1e-8

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__(model, settings)
        self.steps = 0
        self.squares = [torch.zeros_like(weight, requires_grad=False) for weight in model.parameters()]

    def backward(self, episodes: Sequence[Tensor]) -> Tensor:
        x_spt, y_spt, x_qry, y_qry = episodes
        x, y = torch.cat([x_spt, x_qry], dim=1), torch.cat([y_spt, y_qry], dim=1)  # [T, N + M, ...]
        batches = self.minibatches(x.shape[1])
        trained = [self.train_task(*task, batches) for task in zip(x, y, strict=True)]
        losses, ends, squares = zip(*trained, strict=True)
        for weight, *after in zip(self.model.parameters(), *ends, strict=True):
            ahead = weight.detach() - torch.stack(after).mean(dim=0)
            weight.grad = ahead if weight.grad is None else weight.grad + ahead
        self.steps += len(batches)
        self.squares = [torch.stack(after).mean(dim=0) for after in zip(*squares, strict=True)]
        return torch.stack(losses).mean()

    def train_task(self, x: Tensor, y: Tensor, batches: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The last minibatch's loss, before its step; the weights, and Adam's mean squares, after it."""
        model, squares = copy.deepcopy(self.model), [square.clone() for square in self.squares]
        weights = list(model.parameters())
        for step, batch in enumerate(batches, self.steps + 1):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            gradients = torch.autograd.grad(loss, weights)
            rate = self.settings.inner_lr * (1 - self.DECAY**step) ** 0.5
            with torch.no_grad():
                for weight, square, gradient in zip(weights, squares, gradients, strict=True):
                    square.mul_(self.DECAY).addcmul_(gradient, gradient, value=1 - self.DECAY)
                    weight.addcdiv_(gradient, square.sqrt().add_(self.EPS), value=-rate)
        return loss.detach(), [weight.detach() for weight in weights], squares

    def minibatches(self, images: int) -> list[Tensor]:
        """Indices of every step's images: shuffled anew when too few are left."""
        size = min(self.settings.inner_batch, images)
        left, batches = torch.randperm(images), []
        for _ in range(self.settings.inner_steps):
            if len(left) < size:
                left = torch.cat([left, torch.randperm(images)])
            batches.append(left[:size])
            left = left[size:]
        return batches

    def make_optimizer(self, meta_lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=meta_lr, fused=True)


class ProtoNetLoop(NaiveLoop):
    """Snell et al. 2017, algorithm 1, by squared Euclidean distances; all images of a task in one batch."""

    def task_loss(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> Tensor:
        support, queries = self.model(torch.cat([x_spt, x_qry])).split([len(x_spt), len(x_qry)])
        prototypes = torch.stack([support[y_spt == label].mean(dim=0) for label in y_spt.unique()])  # [n_way, D]
        distances = (queries[:, None] - prototypes).square().sum(dim=2)  # [M, n_way]
        return F.cross_entropy(-distances, y_qry)


LOOPS: dict[str, type[NaiveLoop]] = {  # by the names of maml_fast.algorithms.ALGORITHMS
    "maml": MAMLLoop,
    "fomaml": FOMAMLLoop,
    "anil": ANILLoop,
    "boil": BOILLoop,
    "meta-sgd": MetaSGDLoop,
    "maml++": MAMLPlusPlusLoop,
    "learned-optimizer": LearnedOptimizerLoop,
    "meta-lstm": MetaLSTMLoop,
    "reptile": ReptileLoop,
    "protonet": ProtoNetLoop,
}
