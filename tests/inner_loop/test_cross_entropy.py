"""Cross-entropy of all tasks in few kernels: PyTorch's own, with all its derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast.inner_loop._cross_entropy import ClassLabels, class_losses, has_class_losses

T, N, C = 3, 5, 4


def logits(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(T, N, C, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def labels(ignored: int = 0) -> Tensor:
    given = torch.randint(C, (T, N), generator=torch.Generator().manual_seed(1))
    given[1, :ignored] = -100
    return given


def ours(x: Tensor, y: Tensor) -> Tensor:
    return class_losses(x, ClassLabels.of(y, x))


def torchs(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(*task) for task in zip(x, y, strict=True)])


@pytest.mark.parametrize("ignored", [0, 2])
def test_equals_pytorchs_in_three_derivatives(ignored: int) -> None:
    generator = torch.Generator().manual_seed(2)
    along = [torch.randn(T, N, C, generator=generator, dtype=torch.float64) for _ in range(2)]
    found = []
    for function in (ours, torchs):
        x, of_losses = logits(), torch.linspace(1, 2, T, dtype=torch.float64).requires_grad_()
        losses = function(x, labels(ignored))
        (first,) = torch.autograd.grad(losses, x, of_losses, create_graph=True)
        second = torch.autograd.grad((first * along[0]).sum(), (x, of_losses), create_graph=True)
        third = torch.autograd.grad((second[0] * along[1]).sum(), (x, of_losses))
        found.append([losses, first, *second, *third])
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_passes_gradgradcheck() -> None:
    assert torch.autograd.gradcheck(lambda x: ours(x, labels()), logits())
    assert torch.autograd.gradgradcheck(lambda x: ours(x, labels()), logits())


def test_a_task_of_ignored_labels_alone_has_no_mean() -> None:
    losses = ours(logits(), labels(ignored=N))
    assert losses.isnan().tolist() == torchs(logits(), labels(ignored=N)).isnan().tolist() == [False, True, False]


def test_classes_that_are_ruled_out_are_no_trouble() -> None:
    x = logits().detach()
    y = labels(ignored=2)
    x[:, :, 0] = -torch.inf
    y[y == 0] = 1
    torch.testing.assert_close(ours(x, y), torchs(x, y))


def test_half_precision_is_computed_in_float32() -> None:
    losses = ours(logits(torch.bfloat16), labels())
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torchs(logits(torch.bfloat16).float(), labels()))


@pytest.mark.parametrize(
    ("shape", "targets"),
    [((T, N, C, 2), torch.zeros(T, N, 2, dtype=torch.int64)), ((T, N, C), torch.zeros(T, N, C))],
    ids=["per pixel", "probabilities"],
)
def test_other_targets_are_pytorchs(shape: tuple[int, ...], targets: Tensor) -> None:
    assert not has_class_losses(torch.zeros(shape), targets)
