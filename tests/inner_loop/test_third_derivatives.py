"""The meta-gradient differentiated again: right, or refused with a remedy that is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small import make_episodes
from torch import Tensor, nn

import maml_fast
from maml_fast import MAML

EPISODES = make_episodes(n_query=6, shape=(1, 6, 6))


def net(norm: Callable[[], nn.Module], convolution: bool) -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 4, 3)] if convolution else [nn.Flatten(), nn.Linear(36, 4)]
    return nn.Sequential(*first, norm(), nn.Tanh(), nn.Flatten(), nn.Linear(64 if convolution else 4, 5)).double()


NETS = {
    "layer norm": (lambda: net(lambda: nn.LayerNorm(4), False), "layer norm"),
    "batch norm": (lambda: net(lambda: nn.BatchNorm1d(4), False), "batch norm"),
    "batch norm of images": (lambda: net(lambda: nn.BatchNorm2d(4), True), "batch norm"),
    "instance norm": (lambda: net(lambda: nn.InstanceNorm2d(4), True), "batch norm"),
    "group norm": (lambda: net(lambda: nn.GroupNorm(2, 4), True), None),
    "none": (lambda: net(nn.Identity, False), None),
}


def loss_of_results(maml: MAML) -> Tensor:
    return maml.task_results(EPISODES).losses[-1].mean()


def loss_of_adapted(maml: MAML) -> Tensor:
    fast = maml.adapt(EPISODES.x_spt, EPISODES.y_spt)
    return sum(weight.square().mean() for weight in fast.values()) / len(fast)


def by_graph(make: Callable[[], nn.Module], loss: Callable[[MAML], Tensor]) -> float:
    """The derivative of the meta-gradient's squared norm along a direction."""
    model = make()
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(loss(MAML(model, inner_lr=0.1)), parameters, create_graph=True)
    again = torch.autograd.grad(sum(each.square().sum() for each in gradient), parameters)
    return sum(float((a * d).sum()) for a, d in zip(again, directions(model), strict=True))


def by_differences(make: Callable[[], nn.Module], loss: Callable[[MAML], Tensor], step: float = 1e-5) -> float:
    def squared_norm(shift: float) -> float:
        model = make()
        with torch.no_grad():
            for parameter, direction in zip(model.parameters(), directions(model), strict=True):
                parameter.add_(shift * direction)
        gradient = torch.autograd.grad(loss(MAML(model, inner_lr=0.1)), list(model.parameters()))
        return sum(float(each.square().sum()) for each in gradient)

    return (squared_norm(step) - squared_norm(-step)) / (2 * step)


def directions(model: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model.parameters()]


@pytest.mark.parametrize("loss", [loss_of_results, loss_of_adapted])
@pytest.mark.parametrize("name", NETS)
def test_as_written(name: str, loss: Callable[[MAML], Tensor]) -> None:
    make, norm = NETS[name]
    with maml_fast.use_engine("loop"):
        wanted = by_differences(make, loss)
        if norm is None:
            assert by_graph(make, loss) == pytest.approx(wanted, rel=1e-4)
            return
        with pytest.raises(RuntimeError, match=f"third derivative of {norm} is wrong") as caught:
            by_graph(make, loss)
    with maml_fast.use_engine("batched"), maml_fast.use_backend("reference"):  # as it says
        assert "use_engine('batched')" in str(caught.value)
        assert "use_backend('reference')" in str(caught.value)
        assert by_graph(make, loss) == pytest.approx(wanted, rel=1e-4)
