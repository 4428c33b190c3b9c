"""``adapted="head"`` is what the output is computed with last, or an error that says what that is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small import make_episodes
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from maml_fast import MAML
from maml_fast.algorithms import ANIL, BOIL

EPISODES = make_episodes(shape=(4,))


class WithHead(nn.Module):
    """A body, and a head that may be registered before it."""

    def __init__(self, head: nn.Module, first: bool = False) -> None:
        super().__init__()
        for name in ("head", "body") if first else ("body", "head"):
            setattr(self, name, head if name == "head" else nn.Linear(4, 6))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


class OfBareParameters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.zeros(5))
        self.body = nn.Linear(4, 6)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x)) @ self.w + self.b


class Cosine(nn.Module):
    """Of features and classes, times a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mid, self.head = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.first.weight
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(self.first(x).tanh()).tanh())


class Summed(nn.Module):
    """Two heads side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 5), nn.Linear(6, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


ORIGINALS = ("head.bias", "head.parametrizations.weight.original0", "head.parametrizations.weight.original1")
RIGHT = {
    "linear": (lambda: WithHead(nn.Linear(6, 5)), ("head.weight", "head.bias")),
    "and a softmax": (
        lambda: WithHead(nn.Sequential(nn.Linear(6, 5), nn.LogSoftmax(1))),
        ("head.0.weight", "head.0.bias"),
    ),
    "cosine": (lambda: WithHead(Cosine()), ("head.weight", "head.scale")),
    "weight norm": (lambda: WithHead(parametrizations.weight_norm(nn.Linear(6, 5))), ORIGINALS),
    "spectral norm": (
        lambda: WithHead(parametrizations.spectral_norm(nn.Linear(6, 5))),
        ("head.bias", "head.parametrizations.weight.original"),
    ),
    "tied": (Tied, ("first.weight",)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_head_and_body(name: str) -> None:
    make, head = RIGHT[name]
    model = make()
    body = {name for name, _ in model.named_parameters()}.difference(head)
    for algorithm, wanted in ((ANIL, set(head)), (BOIL, body)):
        learner = algorithm(model)
        learner(EPISODES).loss.backward()
        assert set(learner.adapted) == wanted
        described = learner.describe().splitlines()[1]
        assert described.startswith(f"adapted: {len(wanted)} of {len(head) + len(body)} parameters: ")
        assert all(name in described for name in wanted)


WRONG = {
    "registered first": (lambda: WithHead(nn.Linear(6, 5), first=True), "head.weight, head.bias"),
    "bare parameters": (OfBareParameters, "w, b"),
    "half of a sum": (lambda: WithHead(Summed()), "head.one.weight, head.one.bias, head.other.weight"),
    "normalized": (
        lambda: WithHead(nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))),
        "head.0.weight, head.0.bias, head.1.weight, head.1.bias",
    ),
}


@pytest.mark.parametrize("part", ["head", "body"])
@pytest.mark.parametrize("name", WRONG)
def test_another_head_is_named(name: str, part: str) -> None:
    make, head = WRONG[name]
    model = make()
    learner = MAML(model, inner_lr=0.1, adapted=part)
    calls = (lambda: learner(EPISODES), lambda: learner.adapt(EPISODES.x_spt, EPISODES.y_spt))
    for call in calls:
        with pytest.raises(
            ValueError, match=f"adapted='{part}' took .* its output is computed last with {head};"
        ) as caught:
            call()
    remedy = str(caught.value).rpartition("as in ")[2]
    mended = eval(remedy, {"MAML": MAML, "model": model})
    mended(EPISODES).loss.backward()
    chosen = set(head.split(", "))
    others = {name for name, _ in model.named_parameters()} - chosen
    assert set(mended.adapted) == (chosen if part == "head" else others)


def test_many_names_are_not_listed() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(6)], nn.Linear(4, 5)).double()
    described = MAML(model, adapted="body").describe().splitlines()[1]
    assert described == "adapted: 12 of 14 parameters: all but 6.weight, 6.bias"
    half = MAML(model, adapted=["0", "1", "2", "3", "4.weight"]).describe().splitlines()[1]
    assert half == "adapted: 9 of 14 parameters: all but 4.bias, 5.weight, 5.bias, 6.weight, 6.bias"
