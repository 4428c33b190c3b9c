"""The operators for GPUs: their kernels and glue, run by a host that plays a GPU, and by a GPU where there is one."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from episode_samplers import assert_same, ragged_bank, samplers
from hypothesis import HealthCheck, given, settings
from op_parity import assert_close, assert_equals_reference, both_dtypes, derivatives
from op_table import CASES, GRADCHECKED, NAMES, Case, tensors
from operator_arguments import operator_arguments
from small import three_way_net
from torch import Tensor

from maml_fast import MAML, Episodes, native, ops
from maml_fast import _reference as reference
from maml_fast.data._episodes import EpisodeSampler
from maml_fast.data._gpu_sampler import GpuSampler
from maml_fast.ops._conv_block import Arithmetic

pytestmark = pytest.mark.native


@pytest.fixture
def device(gpu_device: torch.device) -> torch.device:
    """Where tensors must be for the kernels under test to run."""
    return gpu_device


def block_on(device: torch.device) -> Callable[..., Tensor]:
    """``ops.conv_block`` there, of arguments and to a result on the CPU."""

    def block(*arguments: Tensor | None, **options: object) -> Tensor:
        there = (None if a is None else a.to(device) for a in arguments)
        return ops.conv_block(*there, **options).cpu()

    return block


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@both_dtypes
def test_equals_reference(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    assert_equals_reference(block_on(device), case, dtype)


FIRST_LAYERS = [case for case in CASES if case.in_channels <= 3]


@pytest.mark.parametrize("case", FIRST_LAYERS, ids=[case.name for case in FIRST_LAYERS])
@both_dtypes
def test_first_layers_equal_reference(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    """Where nobody asks for the gradient of pixels, thin blocks have closed forms."""
    truth = derivatives(reference.conv_block, case, torch.float64, values=dtype, of_pixels=False)
    first, again = (derivatives(block_on(device), case, dtype, of_pixels=False) for _ in range(2))
    assert_close(first, truth, dtype)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("case", GRADCHECKED, ids=[case.name for case in GRADCHECKED])
def test_gradcheck_and_gradgradcheck(case: Case, device: torch.device) -> None:
    arguments = tensors(case, torch.float64)

    def block(*inputs: Tensor) -> Tensor:
        given = iter(inputs)
        return block_on(device)(*(None if a is None else next(given) for a in arguments), **case.options)

    inputs = [a for a in arguments if a is not None]
    along = device.type == "cpu"  # the played GPU is slow: along random directions, not for each number by itself
    assert torch.autograd.gradcheck(block, inputs, fast_mode=along)
    assert torch.autograd.gradgradcheck(block, inputs, fast_mode=along)


@pytest.mark.parametrize("index", [0, 1, 2], ids=["forward", "backward", "double_backward"])
def test_opcheck(index: int, device: torch.device) -> None:
    name = ("conv_block_forward", "conv_block_backward", "conv_block_double_backward")[index]
    arguments = operator_arguments(3, device)[index]
    torch.library.opcheck(getattr(torch.ops.maml_fast, name).default, arguments)


def test_runs_agree_to_the_bit(device: torch.device) -> None:
    case = Case("determinism", tasks=3, batch=5, in_channels=5, size=(13, 11), out_channels=20)
    first, second = (derivatives(block_on(device), case, torch.float32) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_says_what_a_gpu_cannot_count(device: torch.device) -> None:
    x, weight = torch.rand(1, 1, 1, 2**20, 1), torch.rand(1, 4, 1, 3, 3)
    with pytest.raises(RuntimeError, match="too high or too wide for a GPU: 2\\^20 pixels"):
        block_on(device)(x, weight, pool=None)


@contextmanager
def products(kind: Arithmetic, device: torch.device) -> Iterator[None]:
    """Let float32 products be formed so: by PyTorch's own settings, where they count."""
    if device.type == "cpu":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "_arithmetic", lambda _: kind)
            yield
        return
    half = {Arithmetic.BFLOAT16: torch.bfloat16, Arithmetic.FLOAT16: torch.float16}.get(kind)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if kind is Arithmetic.TF32 else "highest")
    try:
        with torch.autocast("cuda", dtype=half, enabled=half is not None):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(Arithmetic.TF32, 1e-3), (Arithmetic.FLOAT16, 1e-3), (Arithmetic.BFLOAT16, 8e-3)],
    ids=["TF32", "FLOAT16", "BFLOAT16"],
)
def test_tensor_cores_round_factors_and_no_more(kind: Arithmetic, tolerance: float, device: torch.device) -> None:
    x, weight, *_ = tensors(Case("rounding", in_channels=16, out_channels=24), torch.float32, requires_grad=False)
    exact = block_on(device)(x, weight)
    with products(kind, device):
        rounded = block_on(device)(x, weight)
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).norm() / exact.norm()) < tolerance
    assert torch.equal(block_on(device)(x, weight), exact)


def random_episodes() -> Episodes:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(2, 4, 6, 1, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.arange(3).repeat(2).expand(4, 6)
    return Episodes(x[0], y, x[1], y)


def meta_gradient(order: int, device: torch.device) -> list[Tensor]:
    maml = MAML(three_way_net().to(device), inner_lr=0.4, inner_steps=2, order=order, task_chunk=None)
    loss = maml(random_episodes().to(device)).loss
    return [loss.detach().cpu(), *(g.cpu() for g in torch.autograd.grad(loss, list(maml.parameters())))]


@pytest.mark.parametrize("order", [1, 2])
def test_meta_gradient(order: int, device: torch.device) -> None:
    with native.use_backend("reference"):
        expected = meta_gradient(order, torch.device("cpu"))
    for actual, e in zip(meta_gradient(order, device), expected, strict=True):
        torch.testing.assert_close(actual, e, rtol=1e-9, atol=1e-11)


def test_orders_differ(device: torch.device) -> None:
    first, second = (meta_gradient(order, device)[1] for order in (1, 2))
    assert float((first - second).norm() / second.norm()) > 0.01


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sampler=samplers())
def test_draws_the_episodes_of_the_cpu(device: torch.device, sampler: EpisodeSampler) -> None:
    first = sampler.start_episode
    drawn = GpuSampler(sampler, sampler._table(), device).draw(first)
    assert_same(Episodes(*drawn).to("cpu"), sampler.batch(0))


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1])
def test_draws_the_last_episodes_there_are(seed: int, device: torch.device) -> None:
    start = 2**63 - 1
    sampler = EpisodeSampler(ragged_bank([5, 3, 4]), 2, 1, 2, 3, seed, start_episode=start)
    for i in (0, (2**63 - 3) // 3):  # across the largest int64, and up to the largest uint64
        drawn = GpuSampler(sampler, sampler._table(), device).draw(start + 3 * i)
        assert_same(Episodes(*drawn).to("cpu"), sampler.batch(i))


def test_draws_episodes_whose_shuffles_exceed_shared_memory(device: torch.device) -> None:
    sampler = EpisodeSampler(ragged_bank([160] * 20, (1, 1, 1)), 20, 80, 80, 2, seed=1)
    assert_same(Episodes(*GpuSampler(sampler, sampler._table(), device).draw(0)).to("cpu"), sampler.batch(0))


@pytest.mark.cuda
def test_sampler_stays_on_its_gpu() -> None:
    bank = ragged_bank([7, 5, 6], (1, 4, 4))
    on_gpu = EpisodeSampler(bank, 2, 2, 3, 3, seed=5, rotate=True, batches=4, device="cuda")
    on_cpu = dataclasses.replace(on_gpu, device="cpu")
    assert "made by kernels on cuda:0" in repr(on_gpu)
    for drawn, expected in zip(on_gpu, on_cpu, strict=True):
        assert drawn.x_spt.device == torch.device("cuda", 0)
        assert_same(drawn.to("cpu"), expected)
    assert_same(pickle.loads(pickle.dumps(on_gpu)).batch(3).to("cpu"), on_cpu.batch(3))


MISUSE = {
    "too many tasks": (
        {0: torch.zeros(65536, 1, 1, 1, 1), 1: torch.zeros(1, 1, 1, 1, 1).expand(65536, 1, 1, 1, 1)},
        "65535",
    ),
    "too many channels": (
        {0: torch.zeros(1, 1, 1, 1, 2, dtype=torch.float64), 1: torch.zeros(1, 1, 1, 2, 2**20, dtype=torch.float64)},
        "less than 2\\^20 channels, got 1048576",
    ),
    "no such arithmetic": ({10: 4}, "arithmetic must be 0 to 3, got 4"),
    "wrong channels": ({1: torch.zeros(2, 3, 3, 2, 4, dtype=torch.float64)}, "weight"),
    "wrong dtype": ({1: torch.zeros(2, 3, 3, 3, 4)}, "dtype of x"),
}


@pytest.mark.parametrize(("changes", "message"), MISUSE.values(), ids=MISUSE)
def test_refuses_what_would_crash(changes: dict, message: str, device: torch.device) -> None:
    arguments = [a.to(device) if isinstance(a, Tensor) else a for a in operator_arguments(3, device)[0]]
    for index, value in changes.items():
        arguments[index] = value.to(device) if isinstance(value, Tensor) else value
    if "65535" in message or "channels, got" in message:
        arguments[2:5] = [None] * 3
        arguments[6] = 0
        arguments[7] = False
    with pytest.raises(RuntimeError, match=message):
        torch.ops.maml_fast.conv_block_forward(*arguments)
