"""Parity of ``conv_block``: the active backend against the reference and against per-task torch.nn.functional."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from op_parity import (
    FAR_FROM_ZERO,
    TOLERANCE,
    assert_close,
    assert_equals_reference,
    assert_rounds_no_worse_than_torch,
    both_dtypes,
    derivatives,
)
from op_table import CASES, GRADCHECKED, NAMES, Case, tensors
from peers.block import per_task_block
from torch import Tensor

from maml_fast import _reference as reference
from maml_fast import native, ops

all_cases = pytest.mark.parametrize("case", CASES, ids=NAMES)


@all_cases
@both_dtypes
def test_equals_reference(case: Case, dtype: torch.dtype) -> None:
    assert_equals_reference(ops.conv_block, case, dtype)


@all_cases
def test_equals_torch_layers_task_by_task(case: Case) -> None:
    expected = derivatives(per_task_block, case, torch.float64)
    assert_close(derivatives(ops.conv_block, case, torch.float64), expected, torch.float64)


@all_cases
@both_dtypes
def test_statistics_are_those_of_what_is_normalized(case: Case, dtype: torch.dtype) -> None:
    arguments = tensors(case, dtype)
    x, weight, bias, *_ = (None if a is None else a.detach().double() for a in arguments)
    out, *statistics = ops.conv_block_with_statistics(*arguments, **case.options)
    assert torch.equal(out, ops.conv_block(*arguments, **case.options))
    for t in range(case.tasks):
        y = F.conv2d(x[t], weight[t], None if bias is None else bias[t], stride=case.stride, padding=case.padding)
        y = y.relu() if case.relu_first else y
        wanted = y.mean(dim=(0, 2, 3)), y.var(dim=(0, 2, 3), correction=0)
        for actual, expected in zip(statistics, wanted, strict=True):
            assert not actual.requires_grad
            error = (actual[t].double() - expected).abs().max() / y.abs().max().clamp(min=1) ** 2
            assert error < TOLERANCE[dtype]


@pytest.mark.parametrize("eps", [0.0, 1e-3, 1.0])
def test_eps(eps: float) -> None:
    arguments = tensors(CASES[0], torch.float64)
    actual = ops.conv_block(*arguments, eps=eps)
    torch.testing.assert_close(actual, reference.conv_block(*arguments, eps=eps), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", GRADCHECKED, ids=[case.name for case in GRADCHECKED])
def test_gradcheck_and_gradgradcheck(case: Case) -> None:
    arguments = tensors(case, torch.float64)

    def block(*inputs: Tensor) -> Tensor:
        given = iter(inputs)
        return ops.conv_block(*(None if a is None else next(given) for a in arguments), **case.options)

    inputs = [a for a in arguments if a is not None]
    assert torch.autograd.gradcheck(block, inputs)
    assert torch.autograd.gradgradcheck(block, inputs)


def assert_same(actual: Tensor, expected: Tensor, what: str = "") -> None:
    """Bitwise, where our own kernels run; PyTorch's may choose another algorithm for other strides or threads."""
    if native.library() is not None:
        assert torch.equal(actual, expected), what
    else:
        tolerance = 1e-10 if actual.dtype == torch.float64 else 1e-3
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def strided_views(x: Tensor) -> dict[str, Tensor]:
    """The same images under other strides."""
    tasks, batch, channels, height, width = x.shape
    wide = torch.zeros(tasks, batch, channels, height, 2 * width, dtype=x.dtype)
    wide[..., ::2] = x
    return {
        "channels-last": x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (tasks, batch)),
        "transposed": x.transpose(3, 4).contiguous().transpose(3, 4),
        "every-other-column": wide[..., ::2],
        "tasks-last": x.movedim(0, -1).contiguous().movedim(-1, 0),
    }


def test_strides_of_x_do_not_matter() -> None:
    x, *parameters = tensors(Case("strides", in_channels=5, size=(6, 9)), torch.float64, requires_grad=False)
    expected = ops.conv_block(x, *parameters)
    for name, view in strided_views(x).items():
        assert_same(ops.conv_block(view, *parameters), expected, name)


def test_strides_of_gradients_do_not_matter() -> None:
    case = Case("strides", in_channels=5, out_channels=6)
    x, weight, *rest = tensors(case, torch.float64)
    out = ops.conv_block(x, weight, *rest)
    grad_out = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = torch.autograd.grad(out, [x, weight], grad_out, retain_graph=True)
    for view in strided_views(grad_out).values():
        for actual, e in zip(torch.autograd.grad(out, [x, weight], view, retain_graph=True), expected, strict=True):
            assert_same(actual, e)
    ones = torch.autograd.grad(out.sum(), weight, retain_graph=True)[0]  # its grad_out is an expanded scalar
    torch.testing.assert_close(ones, torch.autograd.grad(out, weight, torch.ones_like(out))[0])


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 2)])
def test_strides_of_all_do_not_matter(kernel: int, stride: int) -> None:
    """PyTorch's own convolutions write beyond their memory on some of these."""
    case = Case("strides", in_channels=5, out_channels=2, kernel=kernel, stride=stride, padding=0, pool=None)
    x, weight, *_ = tensors(case, torch.float32, requires_grad=False)

    def derivatives_of(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        out = ops.conv_block(x, weight, **case.options)
        first = torch.autograd.grad(out.square().sum(), [x, weight], create_graph=True)
        return out, *first, *torch.autograd.grad(sum(each.square().sum() for each in first), [x, weight])

    flat = x.mean(2, keepdim=True).expand_as(x)  # all channels in one place
    for given in (x, flat):
        expected = derivatives_of(given.contiguous(), weight)
        for of_x in (given, given.permute(4, 2, 0, 3, 1).contiguous().permute(2, 4, 1, 3, 0)):
            for of_weight in (weight, weight.transpose(1, 2).contiguous().transpose(1, 2)):
                for actual, wanted in zip(derivatives_of(of_x, of_weight), expected, strict=True):
                    torch.testing.assert_close(
                        actual, wanted, rtol=1e-4, atol=1e-4 * float(wanted.detach().abs().max())
                    )


@pytest.mark.parametrize("layout", ["dense", "transposed"])
def test_parameters_shared_by_all_tasks(layout: str) -> None:
    case = Case("shared", tasks=3, in_channels=3, out_channels=5)
    x, *parameters = tensors(case, torch.float64)
    if layout == "transposed":
        parameters[0] = parameters[0].detach().transpose(3, 4).contiguous().transpose(3, 4)
    shared = [p.detach()[0].expand(3, *p.shape[1:]).requires_grad_() for p in parameters]
    copied = [p.detach().contiguous().requires_grad_() for p in shared]
    assert all(p.stride(0) == 0 for p in shared)
    results = []
    for ps in (shared, copied):
        out = ops.conv_block(x, *ps)
        grads = torch.autograd.grad((out**2).sum(), [x, *ps], create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in grads), [x, *ps])
        results.append([out, *grads, *second])
    for a, b in zip(*results, strict=True):
        assert_same(a, b)


@both_dtypes
@pytest.mark.parametrize("tasks", [1, 2, 3, 8])
def test_bitwise_equal_for_any_number_of_threads(dtype: torch.dtype, tasks: int) -> None:
    # So much work that all threads share a task where there are few of them.
    case = Case("threads", tasks=tasks, batch=19, in_channels=48, out_channels=36, size=(9, 9))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = derivatives(ops.conv_block, case, dtype)
        for count in (2, 3, 4, 5):
            torch.set_num_threads(count)
            actual = derivatives(ops.conv_block, case, dtype)
            for name, value in expected.items():
                assert_same(actual[name], value, f"{name} with {count} threads")
    finally:
        torch.set_num_threads(threads)


def test_tasks_do_not_see_each_other() -> None:
    arguments = tensors(Case("tasks", tasks=5), torch.float64, requires_grad=False)
    together = ops.conv_block(*arguments)
    for t in range(5):
        assert_same(ops.conv_block(*(a[t : t + 1] for a in arguments))[0], together[t])


def test_vmap_is_more_tasks() -> None:
    case = Case("vmap", tasks=4, in_channels=3, out_channels=5)
    arguments = tensors(case, torch.float64)

    def one_task(*parts: Tensor) -> Tensor:
        return ops.conv_block(*(part[None] for part in parts), **case.options)[0]

    def results(out: Tensor) -> list[Tensor]:
        grads = torch.autograd.grad((out**3).sum(), arguments, create_graph=True)
        return [out, *grads, *torch.autograd.grad(sum((g**2).sum() for g in grads), arguments)]

    mapped, expected = results(torch.func.vmap(one_task)(*arguments)), results(ops.conv_block(*arguments))
    scale = max(float(e.detach().abs().max()) for e in expected)  # for what is zero: a bias under batch norm
    for m, e in zip(mapped, expected, strict=True):
        torch.testing.assert_close(m, e, rtol=1e-12, atol=1e-12 * scale)


def test_vmap_with_shared_weights_and_another_dimension() -> None:
    x, *parameters = tensors(Case("vmap", tasks=2), torch.float64, requires_grad=False)
    many = torch.stack([x, 2 * x, x.flip(0)], dim=1)  # [T, V, B, C, H, W]
    mapped = torch.func.vmap(lambda x: ops.conv_block(x, *parameters), in_dims=1)(many)
    for v in range(3):
        torch.testing.assert_close(mapped[v], ops.conv_block(many[:, v], *parameters), rtol=1e-11, atol=1e-11)


def test_nested_functional_transforms() -> None:
    x, weight, *_ = tensors(Case("func", tasks=2, in_channels=1, out_channels=2), torch.float64, requires_grad=False)

    def loss(weight: Tensor, x: Tensor) -> Tensor:
        return (ops.conv_block(x[None], weight[None]) ** 3).sum()

    def slope(weight: Tensor, x: Tensor) -> Tensor:
        return (torch.func.grad(loss)(weight, x) ** 2).sum()

    def all_transforms() -> list[Tensor]:
        return [
            torch.func.vmap(torch.func.grad(loss))(weight, x),
            torch.func.vmap(torch.func.grad(slope))(weight, x),
            torch.func.jacrev(torch.func.grad(loss))(weight[0], x[0]),
        ]

    actual = all_transforms()
    with native.use_backend("reference"):
        for a, e in zip(actual, all_transforms(), strict=True):
            torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by Dynamo itself
def test_torch_compile_first_order() -> None:
    arguments = tensors(Case("compile", in_channels=3), torch.float64)
    ops.conv_block(*arguments)  # the library is loaded outside of the trace

    def loss(*inputs: Tensor) -> Tensor:
        return (ops.conv_block(*inputs) ** 2).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    actual = torch.autograd.grad(compiled(*arguments), arguments)
    for a, e in zip(actual, torch.autograd.grad(loss(*arguments), arguments), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)


def test_nan_reaches_the_output() -> None:
    x, *parameters = tensors(Case("nan", tasks=2), torch.float32, requires_grad=False)
    x[0, 0, 0, 3, 3] = float("nan")
    out = ops.conv_block(x, *parameters)
    assert out[0].isnan().all()
    assert not out[1].isnan().any()


def test_first_and_second_order_have_no_side_effects_on_inputs() -> None:
    arguments = tensors(CASES[0], torch.float64)
    before = [a.detach().clone() for a in arguments]
    out = ops.conv_block(*arguments)
    (grad,) = torch.autograd.grad(out.sum(), arguments[1], create_graph=True)
    grad.square().sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))


def test_constant_image_gives_finite_derivatives() -> None:
    """Blank regions are the rule in Omniglot: ties in every window, variance zero in every channel."""
    case = Case("blank")
    x, *parameters = tensors(case, torch.float64)
    x = torch.zeros_like(x).requires_grad_()
    out = ops.conv_block(x, *parameters)
    grads = torch.autograd.grad(out.square().sum(), [x, *parameters], create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in grads), [x, *parameters], materialize_grads=True)
    assert all(g.isfinite().all() for g in (*grads, *second))
    torch.testing.assert_close(out, reference.conv_block(x, *parameters))


@pytest.mark.parametrize("in_channels", [3, 5], ids=["thin", "thick"])
def test_where_gamma_is_zero_the_first_pixel_of_a_window_counts(in_channels: int) -> None:
    x, weight, bias, gamma, beta = tensors(Case("ties", in_channels=in_channels), torch.float64)
    gamma = torch.zeros_like(gamma).requires_grad_()
    parameters = [weight, bias, gamma, beta]
    found, expected = (
        torch.autograd.grad(block(x, *parameters).square().sum(), [weight, gamma, beta], materialize_grads=True)
        for block in (ops.conv_block, reference.conv_block)
    )
    assert expected[1].norm() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("every", [1, 4], ids=["far from zero", "every fourth pixel alike"])
@pytest.mark.parametrize("pool", [2, None])
def test_statistics_do_not_cancel(every: int, pool: int | None) -> None:
    """In float32; a filter of one pixel hands the images on as they are."""
    x = torch.randn(2, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    x.flatten(3)[..., ::every] = 1000 + (x.flatten(3)[..., ::every] if every == 1 else 0)
    weight = torch.eye(5).expand(2, 5, 5)[..., None, None].contiguous()
    out = ops.conv_block(x, weight, padding=0, pool=pool)
    truth = reference.conv_block(x.double(), weight.double(), padding=0, pool=pool)
    assert (out - truth).norm() < 1e-4 * truth.norm()


@pytest.mark.native
@pytest.mark.parametrize("center", FAR_FROM_ZERO)
@pytest.mark.parametrize(("in_channels", "of_pixels"), [(3, False), (3, True), (9, True)])
def test_derivatives_do_not_cancel(in_channels: int, of_pixels: bool, center: float) -> None:
    assert_rounds_no_worse_than_torch(center, in_channels, of_pixels)


OUTSIDE = {
    "kernel 7": ({}, (2, 4, 2, 7, 7), {"padding": 3}, "kernel 7x7"),
    "kernel 3x1": ({}, (2, 4, 2, 3, 1), {}, "kernel 3x1"),
    "stride 4": ({}, (2, 4, 2, 3, 3), {"stride": 4, "pool": None}, "stride 4"),
    "pool 3": ({}, (2, 4, 2, 3, 3), {"pool": 3}, "pool 3"),
    "bfloat16": ({"dtype": torch.bfloat16}, (2, 4, 2, 3, 3), {}, "bfloat16"),
}


@pytest.mark.parametrize(("like", "weight_shape", "options", "message"), OUTSIDE.values(), ids=OUTSIDE)
def test_geometry_outside_the_kernels_takes_the_reference_and_says_so_once(
    like: dict, weight_shape: tuple[int, ...], options: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "_announced", set())
    x, weight = torch.randn(2, 3, 2, 9, 9, **like), torch.randn(*weight_shape, **like)
    if native.library() is not None:
        with pytest.warns(RuntimeWarning, match=message):
            out = ops.conv_block(x, weight, **options)
    else:
        out = ops.conv_block(x, weight, **options)
    assert torch.equal(out, reference.conv_block(x, weight, **options))
    assert torch.equal(ops.conv_block(x, weight, **options), out)  # no second warning: warnings are errors here


@pytest.mark.native
@pytest.mark.parametrize("block", [ops.conv_block, ops.conv_block_with_statistics])
def test_its_warning_points_at_the_caller(block: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_announced", set())
    with pytest.warns(RuntimeWarning, match="stride 4") as caught:
        block(torch.randn(2, 3, 2, 9, 9), torch.randn(2, 4, 2, 3, 3), stride=4, pool=None)
    assert [warning.filename for warning in caught] == [__file__]


def arguments_of(**changes: object) -> dict:
    x, weight, bias, gamma, beta = tensors(CASES[0], torch.float32, requires_grad=False)
    return {"x": x, "weight": weight, "bias": bias, "gamma": gamma, "beta": beta, **changes}


BAD = {
    "x integer": ({"x": torch.zeros(2, 3, 2, 8, 8, dtype=torch.uint8)}, TypeError, "floating-point.*uint8"),
    "x 4-d": ({"x": torch.zeros(3, 2, 8, 8)}, ValueError, r"x must be \[T, B, Cin, H, W\].*\(3, 2, 8, 8\)"),
    "x empty": ({"x": torch.zeros(2, 0, 2, 8, 8)}, ValueError, r"not empty.*\(2, 0, 2, 8, 8\)"),
    "weight 4-d": ({"weight": torch.zeros(4, 2, 3, 3)}, ValueError, r"weight must be.*\(4, 2, 3, 3\)"),
    "weight tasks": ({"weight": torch.zeros(3, 4, 2, 3, 3)}, ValueError, "T=2"),
    "weight channels": ({"weight": torch.zeros(2, 4, 3, 3, 3)}, ValueError, "Cin=2"),
    "weight dtype": ({"weight": torch.zeros(2, 4, 2, 3, 3, dtype=torch.float64)}, TypeError, "weight is.*float64"),
    "weight device": ({"weight": torch.zeros(2, 4, 2, 3, 3, device="meta")}, TypeError, "weight is.*meta"),
    "bias shape": ({"bias": torch.zeros(4)}, ValueError, r"bias must be.*\(2, 4\).*\(4,\)"),
    "gamma shape": ({"gamma": torch.zeros(2, 5)}, ValueError, "gamma must be"),
    "beta dtype": ({"beta": torch.zeros(2, 4, dtype=torch.float64)}, TypeError, "beta is"),
    "stride 0": ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    "padding -1": ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    "pool 0": ({"pool": 0}, ValueError, "pool must be at least 1, got 0"),
    "eps nan": ({"eps": float("nan")}, ValueError, "eps must be finite and at least 0, got nan"),
    "eps infinite": ({"eps": float("inf")}, ValueError, "eps must be finite and at least 0, got inf"),
    "too much padding": ({"padding": 30000}, ValueError, r"60006 x 60006 pixels .* 2\*\*31 are too many"),
    "kernel too large": ({"weight": torch.zeros(2, 4, 2, 11, 11)}, ValueError, "have no output"),
    "nothing to pool": ({"x": torch.zeros(2, 3, 2, 1, 1)}, ValueError, "have no output"),
}


BAD_STATISTICS = {
    "mean": ({"mean": torch.zeros(5)}, ValueError, r"mean must be \[Cout\] = \(4,\), got \(5,\)"),
    "mean of tasks": ({"mean": torch.zeros(2, 4)}, ValueError, r"mean must be .* got \(2, 4\)"),
    "integer": ({"variance": torch.ones(4, dtype=torch.int64)}, TypeError, "variance is torch.int64 on cpu"),
    "device": ({"mean": torch.zeros(4, device="meta")}, TypeError, "mean is torch.float32 on meta.* on cpu, as x is"),
    "negative": ({"variance": torch.tensor([1.0, 2, -3, 4])}, ValueError, "variance must not be negative, got -3.0"),
    "pixels": ({"pool": 9}, ValueError, "have no output"),
    "kernel": ({"weight": torch.zeros(2, 4, 2, 11, 11)}, ValueError, "have no output"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD_STATISTICS.values(), ids=BAD_STATISTICS)
def test_bad_statistics(changes: dict, error: type[Exception], message: str) -> None:
    statistics = {"mean": torch.zeros(4), "variance": torch.ones(4)}
    with pytest.raises(error, match=message):
        ops.conv_block_by_statistics(**{**arguments_of(), **statistics, **changes})


@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.conv_block(**arguments_of(**changes))


def test_output_may_be_changed_in_place() -> None:
    arguments = tensors(CASES[0], torch.float64)
    out = ops.conv_block(*arguments)
    (expected,) = torch.autograd.grad((3 * out).square().sum(), arguments[1])
    (actual,) = torch.autograd.grad(ops.conv_block(*arguments).mul_(3).square().sum(), arguments[1])
    torch.testing.assert_close(actual, expected)
