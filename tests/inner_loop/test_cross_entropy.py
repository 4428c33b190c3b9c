"""Cross-entropy of all tasks by the kernels for GPUs, played by the host: PyTorch's own, with all its derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast.inner_loop._cross_entropy import MOST_CLASSES, class_losses, has_class_losses

pytestmark = pytest.mark.native

T, N, C = 3, 70, 4  # more predictions than a thread block has threads


@pytest.fixture
def device(gpu_device: torch.device) -> torch.device:
    return gpu_device


def logits(device: torch.device, dtype: torch.dtype = torch.float64, n: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(T, n, C, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()


def labels(device: torch.device, ignored: int = 0, n: int = N) -> Tensor:
    given = torch.randint(C, (T, n), generator=torch.Generator().manual_seed(1))
    given[1, :ignored] = -100
    return given.to(device)


def torchs(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(*task) for task in zip(x, y, strict=True)])


def three_derivatives(function, x: Tensor, y: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    along = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for _ in range(2)]
    of_losses = torch.linspace(1, 2, T).to(x).requires_grad_()
    losses = function(x, y)
    (first,) = torch.autograd.grad(losses, x, of_losses, create_graph=True)
    alone = torch.autograd.grad((first * along[0]).sum(), (x, of_losses), retain_graph=True)  # by the second kernel
    second = torch.autograd.grad((first * along[0]).sum(), (x, of_losses), create_graph=True)
    third = torch.autograd.grad((second[0] * along[1]).sum() + (second[1] ** 2).sum(), (x, of_losses))
    return [losses, first, *alone, *second, *third]


@pytest.mark.parametrize("ignored", [0, 2])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["double", "float"]
)
def test_equals_pytorchs_in_three_derivatives(
    ignored: int, dtype: torch.dtype, tolerance: float, device: torch.device
) -> None:
    found = three_derivatives(class_losses, logits(device, dtype), labels(device, ignored))
    expected = three_derivatives(
        torchs, logits(device, dtype).double().detach().requires_grad_(), labels(device, ignored)
    )
    for actual, e in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, e.to(dtype), rtol=tolerance, atol=tolerance)


def test_passes_gradgradcheck(device: torch.device) -> None:
    x, y = logits(device, n=3), labels(device, n=3)
    assert torch.autograd.gradcheck(lambda x: class_losses(x, y), x)
    assert torch.autograd.gradgradcheck(lambda x: class_losses(x, y), x)


def test_one_kernel_for_each(gpu_library, gpu_on_host: None) -> None:
    here, x, before = torch.device("cpu"), logits(torch.device("cpu")), gpu_library()
    (first,) = torch.autograd.grad(class_losses(x, labels(here)).sum(), x, create_graph=True)
    assert gpu_library() == before + 1
    torch.autograd.grad(first.sum(), x)
    assert gpu_library() == before + 2


def test_a_task_of_ignored_labels_alone_has_no_mean(device: torch.device) -> None:
    x, y = logits(device), labels(device, ignored=N)
    losses = class_losses(x, y)
    assert losses.isnan().tolist() == torchs(x, y).isnan().tolist() == [False, True, False]
    (ours,), (theirs,) = (torch.autograd.grad(f(x, y)[::2].sum(), x) for f in (class_losses, torchs))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("wrong", [C, -1])
def test_a_label_that_is_no_class_gives_nan(wrong: int, device: torch.device) -> None:
    y = labels(device)
    y[2, 5] = wrong
    x = logits(device)
    losses = class_losses(x, y)
    assert losses.isnan().tolist() == [False, False, True]
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    assert gradient[2, 5].isnan().all()


def test_classes_that_are_ruled_out_are_no_trouble(device: torch.device) -> None:
    x = logits(device).detach()
    y = labels(device, ignored=2)
    x[:, :, 0] = -torch.inf
    y[y == 0] = 1
    torch.testing.assert_close(class_losses(x, y), torchs(x, y))


def test_half_precision_is_computed_in_float32(device: torch.device) -> None:
    x, y = logits(device, torch.bfloat16), labels(device)
    losses = class_losses(x, y)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torchs(x.float(), y))


OTHERS = {
    "per pixel": ((T, N, C, 2), torch.zeros(T, N, 2, dtype=torch.int64)),
    "probabilities": ((T, N, C), torch.zeros(T, N, C)),
    "many classes": ((T, N, MOST_CLASSES + 1), torch.zeros(T, N, dtype=torch.int64)),
    "no prediction": ((T, 0, C), torch.zeros(T, 0, dtype=torch.int64)),
}


@pytest.mark.parametrize(("shape", "targets"), OTHERS.values(), ids=OTHERS)
def test_other_targets_are_pytorchs(shape: tuple[int, ...], targets: Tensor, device: torch.device) -> None:
    assert not has_class_losses(torch.zeros(shape, device=device), targets.to(device))


def test_a_cpu_has_no_such_kernels() -> None:
    assert not has_class_losses(torch.zeros(T, N, C), torch.zeros(T, N, dtype=torch.int64))


MISUSE = {
    "dimensions": (torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), "logits must be"),
    "labels of floats": (torch.zeros(1, 3, 4), torch.zeros(1, 3), "labels must be int64"),
    "too few labels": (torch.zeros(1, 3, 4), torch.zeros(1, 2, dtype=torch.int64), "labels must be int64"),
    "half precision": (torch.zeros(1, 3, 4).half(), torch.zeros(1, 3, dtype=torch.int64), "float32 or float64"),
}


@pytest.mark.parametrize(("x", "y", "message"), MISUSE.values(), ids=MISUSE)
def test_the_operator_refuses_what_would_crash(x: Tensor, y: Tensor, message: str, device: torch.device) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.maml_fast.class_losses(x.to(device), y.to(device))
