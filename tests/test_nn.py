from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.overrides import TorchFunctionMode

from maml_fast.nn import BatchStatNorm2d, ConvBlock, batch_stat_norm, conv_block

OPTIONS = [
    {},
    {"stride": 2, "pool": None},
    {"kernel_size": 5, "stride": 3, "padding": 2, "pool": None},
    {"kernel_size": 1, "padding": 0},
    {"padding": 2, "relu_first": True},
    {"bias": False, "eps": 0.1},
    {"affine": False},
    {"gamma": False, "eps": 1e-3},
    {"relu_first": True, "pool": None, "bias": False, "gamma": False},
]


def layered(block: ConvBlock, x: Tensor) -> Tensor:
    """The block's meaning in torch.nn.functional."""
    conv, norm = block.conv, block.norm
    y = F.conv2d(x, conv.weight, conv.bias, stride=conv.stride, padding=conv.padding)
    gamma = torch.ones_like(norm.bias) if norm.weight is None and norm.bias is not None else norm.weight
    y = y.relu() if block.relu_first else y
    y = F.batch_norm(y, None, None, gamma, norm.bias, training=True, eps=norm.eps)
    y = y if block.relu_first else y.relu()
    return y if block.pool is None else F.max_pool2d(y, 2)


def randomized(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.1, 0.5)
    return module.double()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_conv_block_equals_its_layers(options: dict[str, object], training: bool) -> None:
    torch.manual_seed(0)
    block = randomized(ConvBlock(2, 3, **options)).train(training)
    x = torch.randn(4, 2, 11, 11, dtype=torch.float64, requires_grad=True)
    actual, expected = block(x), layered(block, x)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)
    wrt = [x, *block.parameters()]
    for got, wanted in zip(
        torch.autograd.grad(actual.sin().sum(), wrt), torch.autograd.grad(expected.sin().sum(), wrt), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_conv_block_has_ordinary_names_and_initial_values() -> None:
    torch.manual_seed(0)
    block = ConvBlock(3, 4, 5)
    assert list(block.state_dict()) == ["conv.weight", "conv.bias", "norm.weight", "norm.bias"]
    torch.manual_seed(0)
    assert torch.equal(block.conv.weight, nn.Conv2d(3, 4, 5).weight)
    assert torch.equal(block.norm.weight, torch.ones(4))
    assert list(ConvBlock(3, 4, bias=False, gamma=False).state_dict()) == ["conv.weight", "norm.bias"]
    assert list(ConvBlock(3, 4, affine=False).state_dict()) == ["conv.weight", "conv.bias"]


def test_conv_block_says_what_it_is() -> None:
    assert "pool=None, relu_first=True" in repr(ConvBlock(1, 2, pool=None, relu_first=True))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_conv_block_over_tasks_equals_one_by_one(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    block = randomized(ConvBlock(2, 3, **options))
    params = {n: torch.randn(3, *p.shape, dtype=p.dtype) for n, p in block.named_parameters()}
    x = torch.randn(3, 4, 2, 9, 9, dtype=torch.float64)
    together = vmap(lambda p, x: functional_call(block, p, (x,)))(params, x)
    for t in range(3):
        alone = functional_call(block, {n: p[t] for n, p in params.items()}, (x[t],))
        torch.testing.assert_close(together[t], alone)


def two_gradients(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.cos().sum(), x)
    return first.detach(), second


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (5, 3, 4, 2), (5, 3, 2, 2, 3)])
@pytest.mark.parametrize(("gamma", "beta"), [(True, True), (False, True), (True, False), (False, False)])
def test_batch_stat_norm_equals_batch_norm(shape: tuple[int, ...], gamma: bool, beta: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, dtype=torch.float64) if gamma else None
    bias = torch.randn(3, dtype=torch.float64) if beta else None
    ones = torch.ones(3, dtype=torch.float64) if weight is None else weight
    actual = batch_stat_norm(x, weight, bias, 1e-3)
    expected = F.batch_norm(x, None, None, ones, bias, training=True, eps=1e-3)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(two_gradients(actual, x), two_gradients(expected, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_batch_stat_norm_2d_is_a_batch_norm_2d_without_memory(training: bool) -> None:
    ours, torchs = BatchStatNorm2d(3, 0.1), nn.BatchNorm2d(3, 0.1, track_running_stats=False)
    assert list(ours.state_dict()) == list(torchs.state_dict())
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(ours.train(training)(x), torchs(x))
    assert isinstance(ours, nn.BatchNorm2d)
    torch.nn.init.zeros_(ours.weight)
    ours.reset_parameters()
    assert torch.equal(ours.weight, torch.ones(3))


def test_vmap_of_grad_of_grad_equals_the_loop() -> None:
    """Over ``F.batch_norm`` it does not: see there why this one is written out."""
    torch.manual_seed(0)
    norm = randomized(BatchStatNorm2d(3))
    x = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    params = {name: torch.randn(2, 3, dtype=torch.float64) for name in ("weight", "bias")}

    def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(norm, p, (x + x**2,)).tanh().sum(dim=1).sin().mean()

    def after_a_step(p: dict[str, Tensor], x: Tensor) -> Tensor:
        g = grad(loss)(p, x)
        return loss({n: p[n] - 0.5 * g[n] for n in p}, x)

    together = vmap(grad(after_a_step))(params, x)
    for t in range(2):
        start = {n: p[t].clone().requires_grad_() for n, p in params.items()}
        inner = torch.autograd.grad(loss(start, x[t]), list(start.values()), create_graph=True)
        fast = {n: p - 0.5 * g for (n, p), g in zip(start.items(), inner, strict=True)}
        alone = torch.autograd.grad(loss(fast, x[t]), list(start.values()))
        for (name, actual), wanted in zip(together.items(), alone, strict=True):
            torch.testing.assert_close(actual[t], wanted, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_channels": 0}, ValueError, "in_channels must be at least 1, got 0"),
        ({"out_channels": 2.5}, TypeError, "out_channels must be an integer, got 2.5"),
        ({"kernel_size": 0}, ValueError, "kernel_size must be at least 1, got 0"),
        ({"kernel_size": (3, 3)}, TypeError, r"kernel_size must be an integer, got \(3, 3\)"),
        ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ({"padding": "same"}, TypeError, "padding must be an integer, got 'same'"),
        ({"pool": 3}, ValueError, "pool must be 2 or None, got 3"),
        ({"pool": True}, ValueError, "pool must be 2 or None, got True"),
        ({"eps": 0.0}, ValueError, "eps must be finite and above 0, got 0.0"),
        ({"eps": float("nan")}, ValueError, "eps must be finite and above 0, got nan"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ConvBlock(**{"in_channels": 1, "out_channels": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "num_features must be at least 1, got 0"), ((3, -1.0), "eps must be finite and above 0, got -1.0")],
)
def test_bad_arguments_of_batch_norm(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchStatNorm2d(*arguments)


@pytest.mark.parametrize("shape", [(1, 9, 9), (2, 4, 1, 9, 9), ()])
def test_images_of_another_rank_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected images \[B, C, H, W\], got a tensor of shape \["):
        ConvBlock(1, 2)(torch.zeros(shape))


def test_conv_block_keeps_its_precision_under_autocast() -> None:
    block, x = ConvBlock(2, 3), torch.randn(4, 2, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(x.bfloat16()).dtype == torch.float32


class Seen(TorchFunctionMode):
    """Takes down what is called, and does not look into it."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[object] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


def test_functions_are_seen_as_one_call() -> None:
    x, w = torch.randn(2, 1, 4, 4), torch.randn(3, 1, 3, 3)
    with Seen() as seen:
        y = conv_block(x, w, None, None, None, stride=1, padding=1, pool=2, eps=1e-5, relu_first=False)
        batch_stat_norm(y, None, None, 1e-5)
    assert seen.functions == [conv_block, batch_stat_norm]
