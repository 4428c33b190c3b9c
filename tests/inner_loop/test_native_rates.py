"""Inner rates of every kind, and weights of the scored steps, in the native inner loop.

The operator against a plain loop under autograd, task by task; MAML's native loop against its composed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from native_nets import NETS, make
from small import make_episodes
from torch import Tensor, nn
from torch.func import functional_call

from maml_fast import MAML, Episodes, ops, use_engine
from maml_fast.algorithms import MetaSGD
from maml_fast.inner_loop._native import block_inputs
from maml_fast.program import ConvNet, Programs, read_conv_net

pytestmark = pytest.mark.native

NATIVE = "native, "


class Problem(NamedTuple):
    """An inner loop: ``rates`` of all parameters, [R] or [R, *parameter.shape]; learned where they require grad."""

    model: nn.Module
    nets: tuple[ConvNet, ConvNet]  # as it takes support and query images
    theta: list[Tensor]  # of every step where it has one dimension more than the model's
    episodes: Episodes
    rates: list[Tensor]
    steps: int
    order: int
    weights: dict[int, float]  # of the scored steps

    @property
    def net(self) -> ConvNet:
        return self.nets[0]

    def learned(self) -> list[Tensor]:
        return [rate for rate in self.rates if rate.requires_grad]

    def to_float32(self) -> Problem:
        rates = [rate.detach().float().requires_grad_(rate.requires_grad) for rate in self.rates]
        theta = [each.detach().float() for each in self.theta]
        return self._replace(theta=theta, episodes=self.episodes.to(torch.float32), rates=rates)


class Outcome(NamedTuple):
    losses: Tensor  # [S, T]
    gradient: list[Tensor]
    rate_gradient: list[Tensor]


@cache
def net_and_forms(name: str) -> tuple[nn.Module, tuple[ConvNet, ConvNet]]:
    """A net, which nothing changes, and its native form for support and query images."""
    model = make(name)
    programs, (x_spt, _, x_qry, _) = Programs(model, "batch"), make_episodes(shape=model.shape)
    forms = tuple(read_conv_net(programs.of(x)) for x in (x_spt, x_qry))
    assert all(isinstance(form, ConvNet) for form in forms), forms
    return model, forms


def problem(
    net: str = "conv2",
    *,
    entries: Sequence[int] = (1,),
    of_weights: Sequence[bool] = (False,),
    learned: Sequence[bool] = (True,),
    steps: int = 3,
    order: int = 2,
    weights: dict[int, float] | None = None,
    n_tasks: int = 2,
    of_every_step: str = "",
    only_head: bool = False,
) -> Problem:
    """Parameters take turns at ``entries``, ``of_weights`` and ``learned``; some may have a value for every step.

    ``only_head``: nothing else adapts.
    """
    model, forms = net_and_forms(net)
    torch.manual_seed(1)
    parameters, theta, rates = dict(model.named_parameters()), [], []
    for p, name in enumerate(forms[0].names):
        parameter = parameters[name].detach()
        if of_every_step and of_every_step in name:
            theta.append(parameter + 0.1 * torch.randn(max(steps, 1), *parameter.shape, dtype=torch.float64))
            rates.append(torch.zeros(1, dtype=torch.float64))
            continue
        theta.append(parameter)
        if only_head and name in forms[0].names_of_blocks():
            rates.append(torch.zeros(1, dtype=torch.float64))
            continue
        shape = parameter.shape if of_weights[p % len(of_weights)] else ()
        rate = 0.02 + 0.1 * torch.rand(entries[p % len(entries)], *shape, dtype=torch.float64)
        rates.append(rate.requires_grad_(learned[p % len(learned)]))
    episodes = make_episodes(n_tasks, shape=NETS[net][1])
    weights = weights or {steps: 1.0}
    return Problem(model, forms, [each.requires_grad_() for each in theta], episodes, rates, steps, order, weights)


def by_the_operator(p: Problem, tasks_at_once: int = 8, step_weights: list[float] | None = None) -> Outcome:
    x_spt, y_spt, x_qry, y_qry = p.episodes
    images = (block_inputs(p.nets[0], x_spt), y_spt, block_inputs(p.nets[1], x_qry), y_qry)
    _, losses, _, _, *gradients = ops.inner_loops(
        p.net.description,
        [parameter.detach() for parameter in p.theta],
        images,
        [rate.detach() for rate in p.rates],
        [rate.requires_grad for rate in p.rates],
        steps=p.steps,
        order=p.order,
        scored=list(p.weights),
        step_weights=list(p.weights.values()) if step_weights is None else step_weights,
        tasks_at_once=tasks_at_once,
        needs_gradient=True,
    )
    return Outcome(losses, *gradients)


def by_autograd(p: Problem) -> Outcome:
    losses = torch.stack([_task_losses(p, task) for task in range(len(p.episodes.x_spt))], dim=1)
    total = losses.new_tensor(list(p.weights.values())) @ losses.mean(dim=1)
    sources = [*p.theta, *p.learned()]
    gradients = torch.autograd.grad(total, sources, allow_unused=True, materialize_grads=True)
    return Outcome(losses.detach(), list(gradients[: len(p.rates)]), list(gradients[len(p.rates) :]))


def _task_losses(p: Problem, task: int) -> Tensor:
    """The query losses of one task after the scored steps, [S]."""
    x_spt, y_spt, x_qry, y_qry = (part[task] for part in p.episodes)
    parameters = dict(p.model.named_parameters())

    def loss(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(p.model, dict(zip(p.net.names, weights, strict=True)), (x,)), y)

    of_every_step = [each.dim() > parameters[name].dim() for name, each in zip(p.net.names, p.theta, strict=True)]

    def at_step(weights: list[Tensor], step: int) -> list[Tensor]:
        return [each[step] if by_step else each for by_step, each in zip(of_every_step, weights, strict=True)]

    weights, losses = p.theta, []
    for step in range(p.steps + 1):
        if step in p.weights:
            losses.append(loss(at_step(weights, max(step - 1, 0)), x_qry, y_qry))
        if step < p.steps:
            at = at_step(weights, step)
            at = at if p.order == 2 else [weight.detach().requires_grad_() for weight in at]
            taken = torch.autograd.grad(loss(at, x_spt, y_spt), at, create_graph=p.order == 2)
            rates = [rate[0 if len(rate) == 1 else step] for rate in p.rates]
            weights = [
                weight if by_step else weight - rate * g
                for by_step, weight, rate, g in zip(of_every_step, weights, rates, taken, strict=True)
            ]
    return torch.stack(losses)


def assert_close(got: Outcome, wanted: Outcome, tolerance: float = 1e-10) -> None:
    """Every tensor but for rounding, of which those that should be 0 (a bias before a batch norm) have some too."""
    largest = max(float(each.norm()) for each in wanted.gradient)
    torch.testing.assert_close(got.losses, wanted.losses, rtol=tolerance, atol=0)
    for ours, theirs in zip(got[1:], wanted[1:], strict=True):
        assert [each.shape for each in ours] == [each.shape for each in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert (one - other).norm() <= tolerance * (other.norm() + 1e-3 * largest)


def assert_same(p: Problem, tasks_at_once: int = 8) -> None:
    wanted = by_autograd(p)
    assert len(wanted.rate_gradient) == len(p.learned())
    if p.learned() and any(weight != 0 for step, weight in p.weights.items() if step > 0):
        assert any(each.norm() > 0 for each in wanted.rate_gradient)
    assert_close(by_the_operator(p, tasks_at_once), wanted)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("of_weights", [False, True], ids=["numbers", "of_weights"])
@pytest.mark.parametrize("per_step", [False, True], ids=["same", "per_step"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_rates(order: int, of_weights: bool, per_step: bool, steps: int) -> None:
    entries = steps if per_step else 1
    assert_same(problem(order=order, entries=[entries], of_weights=[of_weights], steps=steps))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("tasks_at_once", [1, 2, 9])
@pytest.mark.parametrize("weights", [{3: 1.0}, {0: 0.3, 1: 0.0, 2: 0.5, 3: 0.7}], ids=["last", "multi_step"])
def test_rates_of_all_kinds_at_once(order: int, tasks_at_once: int, weights: dict[int, float]) -> None:
    kinds = {"entries": [1, 3, 3], "of_weights": [False, True], "learned": [True, False, True, True, False]}
    assert_same(problem(order=order, weights=weights, n_tasks=5, **kinds), tasks_at_once)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("net", NETS)
def test_every_net(net: str, order: int) -> None:
    kinds = {"entries": [1, 2], "of_weights": [False, True, True]}
    assert_same(problem(net, order=order, steps=2, weights={0: 0.2, 1: 0.3, 2: 0.5}, **kinds))


STEP_WEIGHTS = [
    {3: 2.5},
    {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25},
    {0: 0.0, 1: 0.5, 2: 0.0, 3: 0.5},
    {1: 0.5, 3: 0.0},
    {0: 1.0, 3: 0.0},
    {0: -0.5, 2: 0.0, 3: 1.0},
]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("weights", STEP_WEIGHTS, ids=str)
def test_step_weights(order: int, learned: bool, weights: dict[int, float]) -> None:
    assert_same(problem(order=order, learned=[learned], entries=[3], weights=weights))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("which", ["norm.", "norm.weight", "classifier", "bias", "features.1"])
def test_parameters_of_every_step(order: int, steps: int, which: str) -> None:
    kinds = {"entries": [1, steps], "of_weights": [False, True, True], "of_every_step": which}
    assert_same(
        problem(order=order, steps=steps, weights={step: 0.3 + 0.1 * step for step in range(steps + 1)}, **kinds)
    )
    assert_same(problem(order=order, steps=steps, n_tasks=3, **kinds), tasks_at_once=2)


@pytest.mark.parametrize("net", ["tutorial", "blocks", "strided"])
def test_parameters_of_every_step_in_other_nets(net: str) -> None:
    assert_same(problem(net, steps=2, weights={1: 0.5, 2: 0.5}, of_every_step="norm"))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("of_weights", [False, True], ids=["numbers", "of_weights"])
@pytest.mark.parametrize("per_step", [False, True], ids=["same", "per_step"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_rates_of_the_head_alone(order: int, of_weights: bool, per_step: bool, steps: int) -> None:
    kinds = {"entries": [steps if per_step else 1], "of_weights": [of_weights], "only_head": True}
    assert_same(problem(order=order, steps=steps, **kinds))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("weights", STEP_WEIGHTS, ids=str)
def test_step_weights_of_the_head_alone(order: int, weights: dict[int, float]) -> None:
    assert_same(problem(order=order, entries=[3], weights=weights, n_tasks=5, only_head=True), tasks_at_once=2)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("net", NETS)
def test_the_head_alone_of_every_net(net: str, order: int) -> None:
    kinds = {"entries": [1, 2], "of_weights": [False, True, True], "only_head": True}
    assert_same(problem(net, order=order, steps=2, weights={0: 0.2, 1: 0.3, 2: 0.5}, **kinds))


@pytest.mark.parametrize("which", ["norm.", "classifier"])
def test_the_head_alone_with_parameters_of_every_step(which: str) -> None:
    assert_same(problem(steps=2, of_every_step=which, only_head=True))


@pytest.mark.parametrize("only_head", [False, True])
def test_steps_of_no_weight_change_no_bit(only_head: bool) -> None:
    last, every = (
        by_the_operator(problem(weights=weights, only_head=only_head))
        for weights in ({3: 1.0}, {0: 0.0, 2: 0.0, 3: 1.0})
    )
    for one, other in zip((*last.gradient, *last.rate_gradient), (*every.gradient, *every.rate_gradient), strict=True):
        assert torch.equal(one, other)


def test_a_rate_for_every_weight_is_a_number_where_all_are_equal() -> None:
    fixed = problem(learned=[False])
    spread = [
        rate.reshape(1, *(1,) * w.dim()).expand(3, *w.shape) for rate, w in zip(fixed.rates, fixed.theta, strict=True)
    ]
    one, other = by_the_operator(fixed), by_the_operator(fixed._replace(rates=spread))
    assert torch.equal(one.losses, other.losses)
    assert all(torch.equal(a, b) for a, b in zip(one.gradient, other.gradient, strict=True))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("only_head", [False, True])
def test_a_learned_rate_changes_no_bit_of_the_rest(order: int, only_head: bool) -> None:
    kinds = {"order": order, "only_head": only_head}
    fixed, learned = (by_the_operator(problem(learned=[each], **kinds)) for each in (False, True))
    assert torch.equal(fixed.losses, learned.losses)
    assert all(torch.equal(a, b) for a, b in zip(fixed.gradient, learned.gradient, strict=True))


def test_threads_and_chunks_change_no_bit() -> None:
    p = problem(
        "strided",
        entries=[1, 3],
        of_weights=[False, True, True],
        weights={1: 0.5, 3: 1.0},
        n_tasks=7,
        of_every_step="norm",
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        wanted = by_the_operator(p)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            for tasks_at_once in (1, 3, 9):
                got = by_the_operator(p, tasks_at_once)
                for ours, theirs in zip(got[1:], wanted[1:], strict=True):
                    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    finally:
        torch.set_num_threads(before)


def test_float32_is_as_close_as_its_rounding() -> None:
    p = problem("winograd", entries=[1, 2], of_weights=[False, True, True], steps=2, weights={1: 0.5, 2: 1.0})
    wanted = by_autograd(p)
    got = by_the_operator(p.to_float32())
    exact = Outcome(got.losses.double(), *([each.double() for each in part] for part in got[1:]))
    assert_close(exact, wanted, 1e-3)


def gradients(maml: MAML, episodes: Episodes, sources: Sequence[Tensor], wanted: str) -> Outcome:
    with use_engine("native" if wanted == NATIVE else "batched"):
        out = maml(episodes)
    assert f"inner loop: {wanted}" in maml.describe()
    of_sources = torch.autograd.grad(out.loss, [*maml.model.parameters(), *sources])
    n = len(of_sources) - len(sources)
    return Outcome(out.loss.detach()[None], list(of_sources[:n]), list(of_sources[n:]))


def assert_native_is_composed(
    model: nn.Module, lr: object, order: int = 2, learn: bool | str = True, **choices: object
) -> None:
    """MAML with these rates, and the gradients of its parameters and of its rates' parameters."""
    episodes = make_episodes(shape=model.shape)
    got, wanted = (
        gradients(maml, episodes, [p for name, p in maml.named_parameters() if name.startswith("inner_lr")], runs)
        for maml, runs in (
            (MAML(model, inner_lr=lr, inner_steps=2, order=order, learn_inner_lr=learn, **choices), NATIVE),
            (
                MAML(model, inner_lr=lr, inner_steps=2, order=order, learn_inner_lr=learn, **choices),
                "operation by operation",
            ),
        )
    )
    assert len(wanted.rate_gradient) > 0 or not learn
    assert_close(got, wanted)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "lr",
    [
        0.1,
        {"*": 0.1, "features": 0.05, "classifier.bias": 0.2},
        {"*": torch.tensor([0.1]), "classifier.weight": torch.linspace(0.1, 0.2, 5)[:, None].double()},
        {"*": 0.1, "features.*.norm.*": torch.linspace(0, 0.2, 8).double()},
    ],
    ids=["one", "by_key", "broadcast", "shared"],
)
def test_maml_with_learned_rates(lr: object, order: int) -> None:
    assert_native_is_composed(make("conv4"), lr, order)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("learn", [True, "per_step"], ids=str)
@pytest.mark.parametrize(
    "lr", [0.1, {"*": 0.1, "classifier.weight": torch.linspace(0.1, 0.2, 8).double()}], ids=["one", "each"]
)
def test_anil_with_learned_rates(lr: object, learn: bool | str, order: int) -> None:
    assert_native_is_composed(make("conv4"), lr, order, learn, adapted="head")


def test_maml_with_fixed_tensors() -> None:
    assert_native_is_composed(make("conv4"), {"*": 0.1, "features.1": torch.tensor(0.3).double()}, learn=False)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_sgd(order: int, steps: int) -> None:
    model = make("strided")
    episodes = make_episodes(shape=model.shape)
    got, wanted = (
        gradients(maml, episodes, list(maml.inner_lr.parameters()), runs)
        for maml, runs in (
            (MetaSGD(model, inner_lr=0.1, inner_steps=steps, order=order), NATIVE),
            (MetaSGD(model, inner_lr=0.1, inner_steps=steps, order=order), "operation by operation"),
        )
    )
    assert_close(got, wanted)


def test_a_rate_that_is_computed() -> None:
    model = make("conv4")
    episodes, maml = make_episodes(shape=model.shape), MAML(model, inner_lr=0.1, inner_steps=2, learn_inner_lr=True)
    log_rate = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)

    def loss(engine: str) -> Tensor:
        with use_engine(engine):
            return functional_call(maml, {"inner_lr": log_rate.exp()}, (episodes,)).loss

    (got,) = torch.autograd.grad(loss("native"), log_rate)
    (wanted,) = torch.autograd.grad(loss("batched"), log_rate)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=0)


def test_without_gradients_the_rates_have_none_either() -> None:
    model = make("conv4")
    episodes, maml = make_episodes(shape=model.shape), MAML(model, inner_lr=0.1, inner_steps=1, learn_inner_lr=True)
    with torch.no_grad():
        out = maml(episodes)
    assert f"inner loop: {NATIVE}" in maml.describe()
    assert not out.loss.requires_grad
    assert torch.equal(out.loss, maml(episodes).loss)


def test_errors_name_the_rate() -> None:
    p = problem()
    wrong = [*p.rates[:4], torch.rand(1, 7, dtype=torch.float64), *p.rates[5:]]
    with pytest.raises(RuntimeError, match=r"rates\[4\] must have 5 dimensions"):
        by_the_operator(p._replace(rates=wrong))
    wrong = [*p.rates[:4], torch.rand(2, dtype=torch.float64), *p.rates[5:]]
    with pytest.raises(RuntimeError, match=r"rates\[4\] must be of size 3 at dimension 0, got 2"):
        by_the_operator(p._replace(rates=wrong))
    with pytest.raises(RuntimeError, match="step_weights must have one entry for each scored step"):
        by_the_operator(p._replace(weights={0: 1.0, 3: 1.0}), step_weights=[1.0])
    p = problem(of_every_step="norm.bias")
    fixed = [torch.full((1,), 0.1, dtype=torch.float64)] * len(p.rates)
    with pytest.raises(RuntimeError, match=r"rates\[3\] must be 0 .*its parameter has a value for every step"):
        by_the_operator(p._replace(rates=fixed))
