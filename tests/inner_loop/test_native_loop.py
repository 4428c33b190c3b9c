"""The native inner loop against the same loop composed of single operations; where it runs, and what it refuses.

Against independent oracles and finite differences it is tested in test_meta_gradient.py, as everything is.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from native_nets import NETS, make
from small import make_episodes
from torch import nn

from maml_fast import MAML, Episodes, evaluate, use_engine
from maml_fast.models import Conv4

pytestmark = pytest.mark.native

NATIVE, COMPOSED = "native, ", "operation by operation"


@pytest.fixture(params=NETS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return make(request.param)


def outcome(maml: MAML, episodes: Episodes, wanted: str, **options: object) -> tuple[torch.Tensor, ...]:
    """Losses, accuracies and the whole meta-gradient, after a check of what ran."""
    with use_engine("batched") if wanted == COMPOSED else nullcontext():
        out = maml(episodes, per_step=True, **options)
    parameters = [parameter for parameter in maml.parameters() if parameter.requires_grad]
    gradient = torch.autograd.grad(out.loss, parameters)
    assert f"inner loop: {wanted}" in maml.describe()
    flat = torch.cat([g.flatten() for g in gradient])
    return out.loss, out.query_losses, out.query_accuracies, flat


def assert_same(model: nn.Module, episodes: Episodes, *, steps: int = 2, lr: object = 0.1, **options: object) -> None:
    """Native and composed must agree to the last digits."""
    native = outcome(MAML(model, inner_lr=lr, inner_steps=steps, **options), episodes, NATIVE)
    composed = outcome(MAML(model, inner_lr=lr, inner_steps=steps, **options), episodes, COMPOSED)
    for one, other in zip(native, composed, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() <= 1e-10 * other.norm()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_equals_the_composed_loop(model: nn.Module, order: int, n_tasks: int) -> None:
    assert_same(model, make_episodes(n_tasks, shape=model.shape), order=order)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_any_number_of_steps(steps: int) -> None:
    model = make("conv4")
    assert_same(model, make_episodes(shape=model.shape), steps=steps)


def test_orders_differ() -> None:
    model = make("conv4")
    episodes = make_episodes(shape=model.shape)
    first, second = (
        outcome(MAML(model, inner_lr=0.1, inner_steps=2, order=order), episodes, NATIVE)[-1] for order in (1, 2)
    )
    assert (first - second).norm() > 1e-3 * second.norm()


@pytest.mark.parametrize("order", [1, 2])
def test_what_does_not_adapt_is_meta_learned_all_the_same(order: int) -> None:
    model = make("strided")
    assert_same(
        model, make_episodes(shape=model.shape), order=order, adapted=["features.*.conv.*", "classifier.weight"]
    )


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("adapted", ["head", ["classifier.bias"]], ids=str)
def test_only_the_head_adapts(adapted: object, steps: int, order: int) -> None:
    model = make("strided")
    assert_same(model, make_episodes(shape=model.shape), order=order, steps=steps, adapted=adapted)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_only_the_head_of_every_net_adapts(model: nn.Module, order: int, n_tasks: int) -> None:
    assert_same(model, make_episodes(n_tasks, shape=model.shape), order=order, adapted="head")


def test_blocks_that_do_not_adapt_are_blocks_of_no_rate() -> None:
    model = make("conv4")
    episodes = make_episodes(shape=model.shape)
    still = outcome(MAML(model, inner_lr=0.1, inner_steps=2, adapted="head"), episodes, NATIVE)
    zero = outcome(MAML(model, inner_lr={"*": 0.1, "features": 0.0}, inner_steps=2), episodes, NATIVE)
    assert all(torch.equal(one, other) for one, other in zip(still, zero, strict=True))


def test_a_frozen_parameter_takes_no_gradient() -> None:
    model = make("conv4")
    model.features[1].norm.weight.requires_grad_(False)
    assert_same(model, make_episodes(shape=model.shape))
    MAML(model, inner_lr=0.1)(make_episodes(shape=model.shape)).loss.backward()
    assert model.features[1].norm.weight.grad is None


def test_every_parameter_has_its_own_rate() -> None:
    model = make("conv4")
    rates = {"features": 0.2, "features.0": 0.0, "features.*.norm.bias": 0.05, "classifier": 0.4}
    assert_same(model, make_episodes(shape=model.shape), lr=rates)


def test_scores_the_steps_that_are_asked_for() -> None:
    model = make("conv4")
    episodes = make_episodes(shape=model.shape)
    maml = MAML(model, inner_lr=0.1, inner_steps=4)
    every, some = maml(episodes, per_step=True), maml(episodes, per_step=(3, 0))
    assert torch.equal(every.query_losses[[0, 3, 4]], some.query_losses)
    assert torch.equal(every.query_accuracies[[0, 3, 4]], some.query_accuracies)
    assert maml(episodes).query_losses is None
    assert torch.equal(maml(episodes).loss, every.loss)


@pytest.mark.parametrize("adapted", [None, "head"])
@pytest.mark.parametrize("n_tasks", [1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["winograd", "strided", "blocks"])
def test_threads_and_chunks_change_no_bit(name: str, dtype: torch.dtype, n_tasks: int, adapted: str | None) -> None:
    model, before = make(name, dtype), torch.get_num_threads()
    episodes = make_episodes(n_tasks, shape=model.shape, dtype=dtype)
    try:
        torch.set_num_threads(1)
        maml = MAML(model, inner_lr=0.1, inner_steps=2, adapted=adapted)
        expected = outcome(maml, episodes, NATIVE)
        for threads in (2, 3, 4):
            torch.set_num_threads(threads)
            for chunk in ("auto", 1, 3):
                maml.task_chunk = chunk
                got = outcome(maml, episodes, NATIVE)
                assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    finally:
        torch.set_num_threads(before)


def test_many_tasks() -> None:
    """More than are kept before their gradients are added up."""
    model = make("blocks")
    assert_same(model, make_episodes(70, n_query=3, shape=model.shape), steps=1)


def test_float32_is_as_close_as_its_rounding() -> None:
    model = make("winograd")
    episodes = make_episodes(shape=model.shape)
    exact = outcome(MAML(model, inner_lr=0.1, inner_steps=1), episodes, NATIVE)
    rounded = outcome(MAML(model.float(), inner_lr=0.1, inner_steps=1), episodes.to(torch.float32), NATIVE)
    assert (rounded[-1] - exact[-1]).norm() <= 1e-4 * exact[-1].norm()


@pytest.mark.parametrize("adapted", [None, "head"])
def test_evaluation_runs_on_it(adapted: str | None) -> None:
    model = make("conv4")
    maml, episodes = MAML(model, inner_lr=0.1, inner_steps=2, adapted=adapted), make_episodes(6, shape=model.shape)
    with torch.no_grad():
        native = maml.task_results(episodes, per_step=True)
    assert NATIVE in maml.describe()
    composed = maml.task_results(episodes, per_step=True)
    assert COMPOSED in maml.describe()
    torch.testing.assert_close(native.losses, composed.losses, rtol=1e-10, atol=0)
    assert torch.equal(native.correct, composed.correct)
    assert torch.equal(native.predictions, composed.predictions)
    evaluate(maml, [episodes], n_episodes=6)
    assert NATIVE in maml.describe()


def test_a_nan_reaches_loss_gradient_and_predictions() -> None:
    model = make("conv4")
    episodes = make_episodes(shape=model.shape)
    with torch.no_grad():
        model.classifier.bias[2] = math.nan
    maml = MAML(model, inner_lr=0.1, inner_steps=1)
    out = maml(episodes, per_step=True)
    with use_engine("batched"):
        wanted = maml(episodes, per_step=True)
    assert out.query_losses.isnan().all()
    assert wanted.query_losses.isnan().all()
    assert torch.equal(out.query_accuracies, wanted.query_accuracies)
    (gradient,) = torch.autograd.grad(out.loss, model.classifier.weight)
    assert gradient.isnan().any()


def test_images_and_labels_of_any_strides() -> None:
    model = make("color")
    plain = make_episodes(shape=model.shape)
    strided = Episodes(*(part.repeat_interleave(2, dim=1)[:, ::2] for part in plain))
    assert not strided.x_spt.is_contiguous()
    one, other = (outcome(MAML(model, inner_lr=0.1, inner_steps=1), episodes, NATIVE) for episodes in (plain, strided))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("order", [1, 2])
def test_parameters_of_any_strides(order: int) -> None:
    model = make("conv4").to(memory_format=torch.channels_last)
    assert not model.features[1].conv.weight.is_contiguous()
    assert_same(model, make_episodes(shape=model.shape), order=order)


def by_values(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets) * (1 if logits.sum() > 0 else 2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss_fn": by_values}, "the loss: forward depends on the values of tensors"),
        ({"inner_lr": torch.tensor(0.1)}, "the inner learning rate of features.0.conv.weight is torch.float32 on cpu"),
        ({"fused": False}, "fusion is switched off"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_says_why_it_is_composed(options: dict[str, object], reason: str) -> None:
    model = make("conv4")
    maml = MAML(model, **options)
    assert "forward: recorded at the first call" in maml.describe()
    maml(make_episodes(shape=model.shape)).loss.backward()
    assert f"inner loop: {COMPOSED} ({reason})" in maml.describe()


class Branches(Conv4):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features[:3](x)
        return self.classifier(self.features[3](x).mean(dim=(2, 3)) + x.mean(dim=(2, 3)))


class TwoLayers(Conv4):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1).relu())


class Tied(Conv4):
    def __init__(self) -> None:
        super().__init__(hidden=8, image_size=16)
        self.features[2].conv.weight = self.features[1].conv.weight


class Flat(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(256, 5))


@pytest.mark.parametrize(
    "model",
    [Branches(hidden=8, image_size=16), TwoLayers(hidden=8, image_size=16), Tied(), Flat()],
    ids=lambda model: type(model).__name__,
)
def test_other_nets_are_programs(model: nn.Module) -> None:
    assert_same(model.double(), make_episodes(shape=(1, 16, 16)))


def own_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 0.5 * F.cross_entropy(logits, targets)


@pytest.mark.parametrize(
    "options",
    [
        {"loss_fn": own_loss, "metric": "accuracy"},
        {"adapted": ["features.1.norm.bias", "classifier"]},
        {"adapted": ["features.1", "classifier"]},
    ],
    ids="-".join,
)
def test_other_problems_of_blocks_are_programs(options: dict[str, object]) -> None:
    model = make("conv4")
    assert_same(model, make_episodes(shape=model.shape), **options)


def test_a_gradient_of_the_images_is_composed() -> None:
    model = make("conv4")
    episodes = make_episodes(shape=model.shape)
    episodes.x_qry.requires_grad_()
    maml = MAML(model, inner_lr=0.1, inner_steps=1)
    (gradient,) = torch.autograd.grad(maml(episodes).loss, episodes.x_qry)
    assert gradient.norm() > 0
    assert "the images take a gradient" in maml.describe()


def test_autocast_and_transforms_are_composed() -> None:
    model = make("conv4", torch.float32)
    episodes = make_episodes(shape=model.shape, dtype=torch.float32)
    maml = MAML(model, inner_lr=0.1, inner_steps=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maml(episodes)
    assert "autocast is on" in maml.describe()
    parameters = {name: parameter.detach() for name, parameter in maml.named_parameters()}
    torch.func.grad(lambda at: torch.func.functional_call(maml, at, (episodes,)).loss)(parameters)
    assert "a transform of torch.func is active" in maml.describe()


def test_the_graph_is_gone_and_the_error_says_what_keeps_it() -> None:
    model = make("conv4")
    loss = MAML(model, inner_lr=0.1, inner_steps=1, order=1)(make_episodes(shape=model.shape)).loss
    gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match=r"task_results\(episodes\)"):
        sum(gradient.square().sum() for gradient in gradients).backward()


@pytest.mark.parametrize(("part", "label"), [("y_spt", 5), ("y_qry", 9)])
def test_labels_out_of_range(part: str, label: int) -> None:
    model = make("conv4")
    episodes = make_episodes(shape=model.shape)
    wrong = getattr(episodes, part).clone()
    wrong[1, 2] = label
    maml = MAML(model, inner_lr=0.1, inner_steps=1)
    with pytest.raises(ValueError, match=f"{part} holds the label {label}, but the model has 5 outputs"):
        maml(episodes._replace(**{part: wrong}))


def test_images_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"made for images \[B, 1, 17, 17\]"):
        MAML(make("conv4"), inner_lr=0.1, inner_steps=1)(make_episodes(shape=(1, 16, 16)))
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).double()
    with pytest.raises((ValueError, RuntimeError), match="100"):
        MAML(plain, inner_lr=0.1, inner_steps=1)(make_episodes(shape=(1, 7, 7)))


def test_per_step_names_what_is_wrong() -> None:
    maml = MAML(make("conv4"), inner_lr=0.1, inner_steps=2)
    for wrong in ((3,), (-1,), (0.5,), 2):
        with pytest.raises(ValueError, match="per_step must be True, False or steps from 0 to 2"):
            maml(make_episodes(shape=(1, 17, 17)), per_step=wrong)


SHAPES = (4, 1, 3, 3), (4,), (5, 36), (5,)


def of_every_step(entries: int) -> list[torch.Tensor]:
    """Parameters of which the last has a value for every step."""
    *others, last = SHAPES
    return [*(torch.randn(shape) for shape in others), torch.randn(entries, *last)]


def operator_arguments() -> dict[str, object]:
    """Good arguments of the private operator: one block of 4 channels on 6x6, two tasks."""
    torch.manual_seed(0)
    return {
        "theta": [torch.randn(shape) for shape in SHAPES],
        "x_spt": torch.randn(2, 5, 1, 6, 6),
        "y_spt": torch.arange(5).expand(2, 5).contiguous(),
        "x_qry": torch.randn(2, 7, 1, 6, 6),
        "y_qry": torch.randint(5, (2, 7)),
        "blocks": [4, 3, 1, 1, 1, 0, 1, 0, 0],
        "eps": [1e-5],
        "head": [0, 5, 1],
        "rates": [torch.full((1,), 0.1), torch.rand(2), torch.rand(2, 5, 36), torch.rand(1, 5)],
        "rate_needs_gradient": [False, True, True, False],
        "scored": [0, 2],
        "step_weights": [0.0, 1.0],
        "steps": 2,
        "second_order": True,
        "tasks_at_once": 4,
        "steps_kept": 1,
        "needs_gradient": True,
    }


@pytest.mark.parametrize(
    "other", [{}, {"theta": of_every_step(2), "rates": [torch.zeros(1)] * 4}], ids=["one", "steps"]
)
def test_opcheck(other: dict[str, object]) -> None:
    arguments = operator_arguments() | other
    torch.library.opcheck(torch.ops.maml_fast.inner_loops.default, tuple(arguments.values()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"theta": [torch.randn(shape) for shape in SHAPES[1:]]},
        {"theta": [torch.randn(shape) for shape in SHAPES[::-1]]},
        {"theta": [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]},
        {"theta": [torch.randn(*shape, 2)[..., 0] for shape in SHAPES]},
        {"x_spt": torch.randn(2, 5, 6, 6)},
        {"x_spt": torch.randn(2, 5, 1, 6, 6, dtype=torch.float64)},
        {"x_spt": torch.randn(2, 5, 2, 6, 6)},
        {"x_qry": torch.randn(3, 7, 1, 6, 6)},
        {"x_qry": torch.randn(2, 7, 1, 6, 5)},
        {"x_qry": torch.randn(2, 0, 1, 6, 6)},
        {"x_spt": torch.randn(2, 5, 1, 6, 12)[..., ::2]},
        {"y_spt": torch.full((2, 5), 5)},
        {"y_spt": torch.full((2, 5), -1)},
        {"y_qry": torch.zeros(2, 7)},
        {"y_qry": torch.zeros(2, 6, dtype=torch.int64)},
        {"x_spt": torch.full((2, 5, 1, 6, 6), torch.nan)},
        {"x_qry": torch.full((2, 7, 1, 6, 6), torch.inf)},
        {"blocks": [4, 3, 1, 1, 1, 0, 1, 0]},
        {"blocks": [0, 3, 1, 1, 1, 0, 1, 0, 0]},
        {"blocks": [4, 3, 0, 1, 1, 0, 1, 0, 0]},
        {"blocks": [4, 9, 1, 0, 1, 0, 1, 0, 0]},
        {"blocks": [4, 3, 1, 50_000, 1, 0, 1, 0, 0]},
        {"blocks": [], "eps": []},
        {"head": [0, 0, 1]},
        {"head": [0, 5]},
        {"rates": [torch.rand(1)] * 3},
        {"rates": [torch.rand(())] * 4},
        {"rates": [torch.rand(3)] * 4},
        {"rates": [torch.rand(0)] * 4},
        {"rates": [torch.rand(3, *shape) for shape in SHAPES]},
        {"rates": [torch.rand(1, *shape) for shape in SHAPES[::-1]]},
        {"rates": [torch.rand(shape) for shape in SHAPES]},
        {"rates": [torch.rand(1, dtype=torch.float64)] * 4},
        {"rates": [torch.rand(4)[::2]] * 4},
        {"rate_needs_gradient": [True] * 3},
        {"needs_gradient": False},
        {"theta": [torch.randn(2, *shape) for shape in SHAPES]},
        {"theta": of_every_step(2), "rate_needs_gradient": [False, True, True, True]},
        {"theta": of_every_step(2), "rates": [torch.zeros(1)] * 3 + [torch.zeros(2)]},
        {"theta": of_every_step(1), "rates": [torch.zeros(1)] * 4},
        {"theta": of_every_step(3), "rates": [torch.zeros(1)] * 4},
        {"step_weights": [1.0]},
        {"step_weights": [0.0, 0.0, 1.0]},
        {"scored": []},
        {"scored": [0, 1]},
        {"scored": [-1, 2]},
        {"scored": [0, 0, 2]},
        {"steps": -1},
        {"tasks_at_once": 0},
        {"steps_kept": 0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_operator_refuses_what_it_can_not_do(wrong: dict[str, object]) -> None:
    arguments = operator_arguments() | wrong
    with pytest.raises(RuntimeError):
        torch.ops.maml_fast.inner_loops(*arguments.values())
