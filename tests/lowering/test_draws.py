"""Dropout natively: its masks are fair, independent, those of the seed, and the same wherever a pass is run again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from native_against_loop import CLASSES, episodes_of
from torch import Tensor, nn

from maml_fast import MAML, Episodes

pytestmark = pytest.mark.native


def mlp(p: float = 0.4) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(p), nn.Linear(16, CLASSES)).double()


def conv_net() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 6 * 6, CLASSES)).double()


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (6,)),
    "conv net": (conv_net, (2, 6, 6)),
}


def outcome(maml: MAML, episodes: Episodes, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """The loss, and the meta-gradient, of what a seed draws."""
    torch.manual_seed(seed)
    maml.zero_grad()
    loss = maml(episodes).loss
    loss.backward()
    assert "inner loop: native" in maml.describe()
    return loss.detach(), [parameter.grad for parameter in maml.parameters()]


def assert_equal(one: tuple[Tensor, list[Tensor]], other: tuple[Tensor, list[Tensor]]) -> None:
    assert torch.equal(one[0], other[0])
    assert all(map(torch.equal, one[1], other[1]))


@pytest.mark.parametrize("net", NETS)
def test_meta_gradient_against_finite_differences(net):
    make, shape = NETS[net]
    model, episodes = make(), episodes_of(*shape)
    maml = MAML(model, inner_lr=0.2, inner_steps=3)
    _, gradients = outcome(maml, episodes)
    torch.manual_seed(7)
    directions = [torch.randn_like(parameter) for parameter in maml.parameters()]
    expected = sum((gradient * direction).sum() for gradient, direction in zip(gradients, directions, strict=True))

    def loss_at(step: float) -> Tensor:
        with torch.no_grad():
            for parameter, direction in zip(maml.parameters(), directions, strict=True):
                parameter += step * direction
            torch.manual_seed(0)
            loss = maml(episodes).loss
            for parameter, direction in zip(maml.parameters(), directions, strict=True):
                parameter -= step * direction
        return loss

    size = 1e-5
    assert (loss_at(size) - loss_at(-size)) / (2 * size) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("net", NETS)
def test_masks_do_not_depend_on_threads_chunks_or_recomputation(net, order):
    make, shape = NETS[net]
    episodes, threads = episodes_of(*shape), torch.get_num_threads()

    def with_options(**options: object) -> tuple[Tensor, list[Tensor]]:
        return outcome(MAML(make(), inner_lr=0.2, inner_steps=4, order=order, **options), episodes)

    whole = with_options()
    assert_equal(whole, with_options(task_chunk=1))
    assert_equal(whole, with_options(inner_memory=1))
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert_equal(whole, with_options())
    finally:
        torch.set_num_threads(threads)


def test_seed_decides():
    episodes, maml = episodes_of(6), MAML(mlp(), inner_lr=0.2, inner_steps=2)
    assert_equal(outcome(maml, episodes, seed=3), outcome(maml, episodes, seed=3))
    first = outcome(maml, episodes, seed=3)[0]
    assert first != outcome(maml, episodes, seed=4)[0]
    assert first != maml(episodes).loss  # the generator has gone on
    maml.eval()
    assert torch.equal(maml(episodes).loss, maml(episodes).loss)


class Masked(nn.Module):
    """Its loss is the share of a mask's elements that are kept, whatever the step and the weight."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.dropout = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(torch.ones_like(x)) * self.weight


def kept(p: float, n_tasks: int, seed: int = 0) -> Tensor:
    """Shares of kept elements of every task's query mask, scaled by 1 / (1 - p)."""
    x, y = torch.zeros(n_tasks, 50, 40, dtype=torch.float64), torch.zeros(n_tasks, 50, dtype=torch.float64)

    def mean(logits: Tensor, _: Tensor) -> Tensor:
        return logits.mean()

    maml = MAML(Masked(p), loss_fn=mean, inner_lr=0.0, inner_steps=1)
    torch.manual_seed(seed)
    results, _ = maml.results_and_loss(Episodes(x, y, x, y))
    assert "inner loop: native" in maml.describe()
    return results.losses[-1]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_keep_as_many_as_they_should(p):
    shares = kept(p, n_tasks=50)  # of 2000 elements each
    sigma = (p / (1 - p) / 2000) ** 0.5
    assert shares.mean().item() == pytest.approx(1.0, abs=5 * sigma / 50**0.5)
    assert shares.std().item() == pytest.approx(sigma, rel=0.5)
    assert len(shares.unique()) > 25  # every task has a mask of its own


def test_everything_or_nothing_is_kept():
    assert torch.equal(kept(0.0, 2), torch.ones(2, dtype=torch.float64))
    assert torch.equal(kept(1.0, 2), torch.zeros(2, dtype=torch.float64))
