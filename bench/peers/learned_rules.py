"""Learned optimizers as a tutorial writes them; see ``algorithms.py``."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from peers.naive_loop import NaiveLoop

if TYPE_CHECKING:
    from maml_fast.algorithms import Settings


class PlainLSTM(nn.Module):
    """One layer; gates in the order input, forget, output, cell."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        shapes = (4 * hidden, inputs), (4 * hidden, hidden), (4 * hidden,)
        starts = (torch.empty(shape).uniform_(-(hidden**-0.5), hidden**-0.5) for shape in shapes)
        weight_ih, weight_hh, bias = map(nn.Parameter, starts)
        self.bias, self.weight_hh, self.weight_ih = bias, weight_hh, weight_ih  # in maml_fast's order

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Hidden state and cell [P, H], from inputs [P, I]."""
        hidden, cell = state or (x.new_zeros(len(x), self.weight_hh.shape[1]),) * 2
        gates = F.linear(x, self.weight_ih, self.bias) + F.linear(hidden, self.weight_hh)
        admit, keep, expose, new = gates.chunk(4, dim=1)
        cell = keep.sigmoid() * cell + admit.sigmoid() * new.tanh()
        return expose.sigmoid() * cell.tanh(), cell


def size_and_sign(numbers: Tensor) -> Tensor:
    """Andrychowicz et al. 2016, appendix A: [P, 2] of [P]."""
    large = numbers.abs() >= math.exp(-10)
    size = torch.where(large, numbers, 1).abs().log() / 10
    return torch.stack(
        [torch.where(large, size, -1), torch.where(large, numbers.sign(), math.exp(10) * numbers)], dim=1
    )


class LearnedRuleLoop(NaiveLoop):
    """A learned optimizer: every parameter by itself, all of whose numbers are a batch of its LSTM."""

    @abstractmethod
    def move(self, weight: Tensor, gradient: Tensor, loss: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The numbers [P] of a parameter after a step, and the state for the next one."""

    def objective(self, losses: list[Tensor]) -> Tensor:
        """Of the query losses after every step."""
        return losses[-1]

    def task_loss(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> Tensor:
        weights, losses = dict(self.model.named_parameters()), []
        states: dict[str, Any] = dict.fromkeys(weights)
        second_order = self.settings.order == 2
        for _ in range(self.settings.inner_steps):
            loss = F.cross_entropy(functional_call(self.model, weights, (x_spt,)), y_spt)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=second_order)
            told = loss if second_order else loss.detach()
            for (name, weight), gradient in zip(list(weights.items()), gradients, strict=True):
                moved, states[name] = self.move(weight.flatten(), gradient.flatten(), told, states[name])
                weights[name] = moved.view_as(weight)
            losses.append(F.cross_entropy(functional_call(self.model, weights, (x_qry,)), y_qry))
        return self.objective(losses)


class LearnedOptimizerLoop(LearnedRuleLoop):
    """Andrychowicz et al. 2016, section 2, in the loss along the trajectory."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__(model, settings)
        layers = PlainLSTM(2, 20), PlainLSTM(20, 20)
        self.out = nn.ParameterList([torch.empty(1, 20).uniform_(-(20**-0.5), 20**-0.5), torch.zeros(1)])
        self.layers = nn.ModuleList(layers)
        self.to(next(model.parameters()).dtype)

    def move(self, weight: Tensor, gradient: Tensor, loss: Tensor, state: Any) -> tuple[Tensor, Any]:
        hidden, states = size_and_sign(gradient), []
        for layer, before in zip(self.layers, state or (None, None), strict=True):
            states.append(layer(hidden, before))
            hidden = states[-1][0]
        return weight + self.settings.inner_lr * F.linear(hidden, *self.out)[:, 0], states

    def objective(self, losses: list[Tensor]) -> Tensor:
        return torch.stack(losses).mean()


class MetaLSTMLoop(LearnedRuleLoop):
    """Ravi & Larochelle 2017, equations 2 and 3."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__(model, settings)
        self.lstm = PlainLSTM(4, 20)
        first_input = math.log(settings.inner_lr / (1 - settings.inner_lr))
        self.gates = nn.ParameterList()
        for bias in (5.0, first_input):
            self.gates.extend([torch.tensor([bias]), torch.empty(1, 22).uniform_(-0.01, 0.01)])
        self.to(next(model.parameters()).dtype)

    def move(self, weight: Tensor, gradient: Tensor, loss: Tensor, state: Any) -> tuple[Tensor, Any]:
        lstm, forget, admit = state or (None, torch.zeros_like(weight), torch.zeros_like(weight))
        seen = torch.cat([size_and_sign(gradient), size_and_sign(loss[None]).expand(len(weight), 2)], dim=1)
        lstm = self.lstm(seen, lstm)
        forget, admit = (
            F.linear(torch.cat([lstm[0], weight[:, None], before[:, None]], dim=1), of_gate, bias).sigmoid()[:, 0]
            for before, (bias, of_gate) in ((forget, self.gates[:2]), (admit, self.gates[2:]))
        )
        return forget * weight - admit * gradient, (lstm, forget, admit)
