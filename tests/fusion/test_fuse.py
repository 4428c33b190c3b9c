from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from fuse_nets import layers
from fuse_zoo import CASES, Case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from maml_fast.fusion import FusedModel, fuse

Params = dict[str, Tensor]


def made(case: Case, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the case's model, all its parameters and statistics random, and an input, in float64."""
    torch.manual_seed(seed)
    model = case.build().double()
    with torch.no_grad():
        for parameter in model.parameters():
            value = torch.randn_like(parameter) * 0.5
            # Scales of batch norm away from zero: the next one divides by them.
            parameter.copy_(value + 0.1 if value.dim() > 1 else value + value.sign() * 0.5)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model, tuple(torch.randn(shape, dtype=torch.float64) for shape in case.shapes)


def with_batch_statistics(model: nn.Module) -> nn.Module:
    """Return a copy whose batch norm layers are torch's own, told to take the batch's statistics."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    return model.train()


def called(model: nn.Module, inputs: tuple[Tensor, ...]) -> object:
    """Call a model on copies of the inputs, which some models overwrite."""
    return model(*(x.clone() for x in inputs))


def run(model: nn.Module, params: Params, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return the loss of a model."""
    # Untied, for a module that has two names would keep the parameters it is called with (not so in a FusedModel).
    tied = isinstance(model, FusedModel)
    output = functional_call(model, params, tuple(x.clone() for x in inputs), tie_weights=tied)
    outputs = output.values() if isinstance(output, dict) else [output]
    return (
        sum((torch.sin(o) * torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view(o.shape)).mean() for o in outputs) * 20
    )


def parameters_of(model: nn.Module) -> Params:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def meta_gradient(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Params, Params]:
    """Return the loss after two differentiable inner steps, its gradient before them, and through them."""
    fast = start = parameters_of(model)
    first = {}
    for _ in range(2):
        grads = torch.autograd.grad(run(model, fast, inputs), list(fast.values()), create_graph=True, allow_unused=True)
        first = first or detached(dict(zip(start, grads, strict=True)))
        fast = {n: p if g is None else p - 0.1 * g for (n, p), g in zip(fast.items(), grads, strict=True)}
    loss = run(model, fast, inputs)
    second = torch.autograd.grad(loss, list(start.values()), allow_unused=True)
    return loss.detach(), first, dict(zip(start, second, strict=True))


def gradient(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the loss, and the gradient of its gradient's sum of squares, in the parameters' order."""
    params = parameters_of(model)
    loss = run(model, params, inputs)
    first = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    second = torch.autograd.grad(sum(g.pow(2).sum() for g in first) + loss, list(params.values()))
    return loss, *first, *second


def detached(tensors: dict[str, Tensor | None]) -> Params:
    return {name: t.detach() for name, t in tensors.items() if t is not None}


def assert_equal(actual: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    actual, expected = detached(actual), detached(expected)
    assert actual.keys() == expected.keys()
    for name, wanted in expected.items():
        close = {"rtol": 0, "atol": 1e-10 * max(1.0, float(wanted.abs().max()))}
        torch.testing.assert_close(actual[name], wanted, **close, msg=lambda m, n=name: f"{n}: {m}")


@dataclass(frozen=True)
class Fused:
    """A case whose model was fused once, for all tests that leave its parameters alone; and what it was before."""

    case: Case
    model: nn.Module
    inputs: tuple[Tensor, ...]
    state: Params
    layers: list[tuple[str, type[nn.Module], set[str]]]
    fused: FusedModel


@pytest.fixture(scope="module", params=CASES, ids=str)
def once(request: pytest.FixtureRequest) -> Fused:
    model, inputs = made(request.param)
    state = copy.deepcopy(model.state_dict())
    layers = [(name, module.__class__, set(vars(module))) for name, module in model.named_modules()]
    return Fused(request.param, model, inputs, state, layers, fuse(model))


def test_fused_model_equals_the_original(once: Fused) -> None:
    fused, inputs, oracle = once.fused, once.inputs, with_batch_statistics(once.model)
    loss, first, second = meta_gradient(fused.train(), inputs)
    assert len(fused.report.fused) == once.case.fused, str(fused.report)
    wanted_loss, wanted_first, wanted_second = meta_gradient(oracle, inputs)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-10, atol=1e-10)
    assert_equal(first, wanted_first)
    assert_equal(second, wanted_second)
    in_eval = run(fused.eval(), {}, inputs)  # the policy does not depend on the mode
    torch.testing.assert_close(in_eval, run(oracle, {}, inputs), rtol=1e-10, atol=1e-10)


def test_state_and_names_are_shared_and_statistics_untouched(once: Fused) -> None:
    model, fused = once.model, once.fused
    for mode in (True, False):
        called(fused.train(mode), once.inputs)
    assert list(fused.state_dict()) == list(model.state_dict())
    for name, value in fused.state_dict().items():
        assert torch.equal(value, once.state[name]), name
    for actual, wanted in zip(fused.named_parameters(), model.named_parameters(), strict=True):
        assert actual[0] == wanted[0]
        assert actual[1] is wanted[1]
    for (name, kind, attributes), (now, module) in zip(once.layers, model.named_modules(), strict=True):
        assert (name, kind) == (now, module.__class__)
        assert vars(module).keys() - attributes <= {"seen", "last"}  # which some set


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_dict_round_trip(case: Case) -> None:
    model, inputs = made(case)
    other, _ = made(case)
    fused = fuse(other)
    for value in model.state_dict().values():
        value.copy_(value * 1.5)
    fused.load_state_dict(model.state_dict())
    wanted = run(with_batch_statistics(model), {}, inputs)
    torch.testing.assert_close(run(fused, {}, inputs), wanted, rtol=1e-10, atol=1e-10)
    third, _ = made(case)
    third.load_state_dict(fused.state_dict())
    for each in (fused, third):
        assert_same_state(each, model)


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    actual, wanted = one.state_dict(), other.state_dict()
    assert list(actual) == list(wanted)
    assert all(torch.equal(actual[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "fused before"], ids=str)
def test_as_written_equals_the_original_in_both_modes_and_keeps_its_statistics(case: Case) -> None:
    model, inputs = made(case)
    fused = fuse(model, batch_norm="as_written")
    original, _ = made(case)  # the same, with statistics of its own
    actual, wanted = (meta_gradient(each.train(), inputs) for each in (fused, original))
    expected = 0 if case.name == "Functional" else case.fused  # its running statistics are parameters
    assert len(fused.report.fused) == expected, str(fused.report)
    torch.testing.assert_close(actual[0], wanted[0], rtol=1e-10, atol=1e-10)
    assert_equal(actual[1], wanted[1])
    assert_equal(actual[2], wanted[2])
    assert_equal(dict(model.named_buffers()), dict(original.named_buffers()))
    actual, wanted = (run(each.eval(), {}, inputs) for each in (fused, original))
    torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


def is_drawable(letters: str) -> bool:
    return letters.count("P") <= 3  # more would leave no pixels


@given(
    letters=st.text("CCBBRRPI", min_size=1, max_size=9).filter(is_drawable),
    inplace=st.booleans(),
    stride=st.sampled_from([1, 1, 2]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_any_sequence_of_layers_equals_the_original(letters: str, inplace: bool, stride: int, seed: int) -> None:
    inplace = inplace and "RR" not in letters.replace("I", "")  # PyTorch can't differentiate two in place
    parts = [nn.Identity() if x == "I" else layers(x, cin=3, inplace=inplace)[0] for x in letters]
    first = nn.Conv2d(3, 3, 3, stride, padding=1)
    model, inputs = made(Case(letters, lambda: nn.Sequential(first, *parts), 0, ((3, 3, 17, 17),)), seed)
    fused, oracle = fuse(model), with_batch_statistics(model)
    called(fused, inputs)
    assert len(fused.report.fused) + len(fused.report.left) == 1 + letters.count("C")
    expected = gradient(oracle, inputs)
    scale = max(1.0, *(float(wanted.detach().abs().max()) for wanted in expected))
    for actual, wanted in zip(gradient(fused, inputs), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-9 * scale)
