"""What a call runs on is planned once, and anew as soon as anything changes that the plan follows from."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import make_episodes, two_blocks
from torch import Tensor, nn

import maml_fast as mf
from maml_fast import native
from maml_fast.inner_loop._plans import Plans
from maml_fast.maml import MAML
from maml_fast.maml import _maml as maml_learner

PACKAGE = str(Path(mf.__file__).parent)


def gradients(maml: MAML, **options: Any) -> list[Tensor]:
    out = maml(make_episodes(), **options)
    found = torch.autograd.grad(out.loss, [p for p in maml.parameters() if p.requires_grad], allow_unused=True)
    return [out.loss.detach(), *(torch.zeros(()) if each is None else each for each in found)]


def small_mlp() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(100, 6), nn.Tanh(), nn.Linear(6, 5))
    return net.double()


NETS = {"conv4": two_blocks, "mlp": small_mlp}


def freeze(maml: MAML) -> None:
    next(maml.model.parameters()).requires_grad_(False)


def replace_parameter(maml: MAML) -> None:
    part = [part for part in maml.model.modules() if isinstance(part, nn.Linear)][-1]
    part.weight = nn.Parameter(torch.randn_like(part.weight) / 3)


def double_outputs(maml: MAML) -> None:
    maml.model.register_forward_hook(lambda _module, _inputs, output: 2 * output)


def patch_forward(maml: MAML) -> None:
    def forward(self: nn.Sequential, x: Tensor) -> Tensor:
        return nn.Sequential.forward(self, x) + x.mean()

    maml.model.forward = MethodType(forward, maml.model)  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[MAML], object]] = {
    "values": lambda maml: [p.data.mul_(1.1) for p in maml.model.parameters()],
    "freeze": freeze,
    "parameter": replace_parameter,
    "hook": double_outputs,
    "forward": patch_forward,
    "order": lambda maml: setattr(maml, "order", 1),
    "steps": lambda maml: setattr(maml, "inner_steps", 1),
    "rate": lambda maml: setattr(maml, "inner_lr", 0.01),
    "rate-tensor": lambda maml: setattr(maml, "inner_lr", torch.tensor(0.01, dtype=torch.float64)),
    "loss": lambda maml: setattr(maml, "loss_fn", lambda logits, y: F.cross_entropy(logits, y, label_smoothing=0.1)),
    "chunk": lambda maml: setattr(maml, "task_chunk", 1),
    "memory": lambda maml: setattr(maml, "inner_memory", 1),
    "eval": lambda maml: maml.eval(),
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_calls_counts(net: str, change: str) -> None:
    """As if the learner had been made after it."""
    maml = MAML(NETS[net](), inner_lr=0.3, inner_steps=2)
    before = gradients(maml)
    for again, first in zip(gradients(maml), before, strict=True):
        assert torch.equal(again, first)
    assert len(maml._plans) == 1
    CHANGES[change](maml)
    fresh = copy.deepcopy(maml)
    assert not fresh._plans
    for found, expected in zip(gradients(maml), gradients(fresh), strict=True):
        assert torch.equal(found, expected)


def test_a_rate_that_is_learned_from_now_on() -> None:
    maml = MAML(two_blocks(), inner_lr=0.3, inner_steps=2, learn_inner_lr=True)
    maml.inner_lr.requires_grad_(False)  # type: ignore[union-attr]
    assert len(gradients(maml)) == len(list(maml.parameters()))
    maml.inner_lr.requires_grad_(True)  # type: ignore[union-attr]
    *_, of_rate = torch.autograd.grad(maml(make_episodes()).loss, [*maml.model.parameters(), maml.inner_lr])
    assert of_rate != 0


def test_a_loss_function_that_learns_from_now_on() -> None:
    temperature = torch.ones((), dtype=torch.float64)
    maml = MAML(
        two_blocks(), inner_lr=0.3, inner_steps=1, loss_fn=lambda logits, y: F.cross_entropy(logits * temperature, y)
    )
    maml(make_episodes())
    temperature.requires_grad_()
    (found,) = torch.autograd.grad(maml(make_episodes()).loss, [temperature])
    assert found != 0


def test_annealing_goes_on() -> None:
    maml = MAML(two_blocks(), inner_lr=0.3, inner_steps=2, first_order_iterations=2)
    orders = []
    for _ in range(4):
        first = MAML(maml.model, inner_lr=0.3, inner_steps=2, order=1)
        same = all(map(torch.equal, gradients(maml), gradients(first)))
        orders.append(1 if same else 2)
    assert orders == [1, 1, 2, 2]


def test_the_dtype_of_the_model_changes_in_place() -> None:
    maml = MAML(two_blocks(), inner_lr=0.3, inner_steps=2)
    maml(make_episodes())
    maml.float()
    with pytest.raises(ValueError, match=r"x_spt is torch.float64, the model torch.float32"):
        maml(make_episodes())
    assert maml(make_episodes(dtype=torch.float32)).loss.dtype == torch.float32


@pytest.mark.native
def test_engine_and_backend_are_asked_at_every_call() -> None:
    maml, episodes = MAML(two_blocks(), inner_lr=0.3, inner_steps=2), make_episodes()
    assert maml.engine_for(episodes) == "native"
    with mf.use_engine("loop"):
        assert maml.engine_for(episodes) == "loop"
    with native.use_backend("reference"):
        assert maml.engine_for(episodes) == "batched"
    with torch.autocast("cpu"):
        assert maml.engine_for(episodes) == "batched"
    assert maml.engine_for(episodes) == "native"
    assert maml.engine_for(episodes._replace(x_spt=episodes.x_spt.requires_grad_())) == "batched"


@pytest.mark.parametrize("net", NETS)
def test_values_are_looked_at_in_every_call(net: str) -> None:
    maml, episodes = MAML(NETS[net](), inner_lr=0.3, inner_steps=2), make_episodes()
    maml(episodes)
    bad = episodes.x_qry.clone()
    bad[1, 2, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="x_qry holds NaN or infinity, first in image 2 of episode 1"):
        maml(episodes._replace(x_qry=bad))
    with pytest.raises(ValueError, match="y_spt holds label -1"):
        maml(episodes._replace(y_spt=episodes.y_spt - 1))
    with pytest.raises(ValueError, match="y_qry holds the label 5, but the model has 5 outputs"):
        maml(episodes._replace(y_qry=episodes.y_qry + 1))


def test_old_plans_are_let_go() -> None:
    maml = MAML(small_mlp(), inner_lr=0.3, inner_steps=1)
    for images in range(1, Plans.MOST + 4):
        maml(make_episodes(n_query=5 * images))
    assert len(maml._plans) == Plans.MOST


def test_an_algorithm_of_its_own_is_asked_every_time() -> None:
    asked = []

    class Own(MAML):
        def problem(self, *args: Any, **kwargs: Any) -> Any:
            asked.append(args)
            return super().problem(*args, **kwargs)

    maml = Own(small_mlp(), inner_lr=0.3, inner_steps=1)
    for _ in range(3):
        maml(make_episodes())
    assert len(asked) == 3


@pytest.mark.native
@pytest.mark.parametrize("steps", [1, 5])
def test_the_way_in_is_short(steps: int) -> None:
    """From ``maml(episodes)`` to the kernels and back."""
    maml, episodes = MAML(two_blocks(), inner_lr=0.3, inner_steps=steps), make_episodes()
    maml(episodes)
    entered: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            entered.append(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        maml(episodes)
    finally:
        sys.setprofile(None)
    assert len(set(entered)) <= 10
    assert len(entered) <= 150


@pytest.mark.parametrize(("per_step", "plans"), [(False, 1), (True, 1), ((0, 1), 1), ([0, 1], 2)], ids=str)
def test_steps_that_are_asked_for_are_planned_once(per_step: Any, plans: int, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    made = maml_learner.plan_of
    monkeypatch.setattr(maml_learner, "plan_of", lambda *a: planned.append(a) or made(*a))
    maml = MAML(two_blocks(), inner_lr=0.1, inner_steps=2)
    one, other = gradients(maml, per_step=per_step), gradients(maml, per_step=per_step)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(planned) == plans
    with pytest.raises(ValueError, match="per_step"):
        maml(make_episodes(), per_step=(False, True))
