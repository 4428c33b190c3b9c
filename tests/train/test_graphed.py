"""Training whose meta-iterations are replayed as a CUDA graph, from the drawing of episodes to Adam's step."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small import three_way_net
from tiny_run import TINY, assert_same_run, state
from torch import nn

from maml_fast.algorithms import ProtoNet, Reptile
from maml_fast.inner_loop._graphed import WARM_UP
from maml_fast.maml import Learner
from maml_fast.train import TrainConfig, resume, train
from maml_fast.train._meta_iteration import GraphedIterations, make_iterations
from maml_fast.train._readings import Reading
from maml_fast.train._trainer import Trainer
from maml_fast.train._workbench import Workbench

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("plain_pictures")]

META_LR = 2**-7  # the same number in float32, which is what a GPU holds, as in Python
ITERATIONS = WARM_UP + 3  # of which the last three are replayed
SMALL = {"image_size": 8, "eval_episodes": 2, "test_episodes": 2}


def small_net(*_: Any) -> nn.Module:
    return three_way_net().float()


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.cuda)])
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A run of a small net on a GPU, or on one that the host plays."""
    monkeypatch.setattr("maml_fast.train._workbench.make_model", small_net)
    tiny = dataclasses.replace(TINY, meta_lr=META_LR, iterations=ITERATIONS, eval_every=ITERATIONS - 1, **SMALL)
    if request.param == "cuda":
        return dataclasses.replace(tiny, device="cuda")
    for name in ("gpu_on_host", "graphs_on_host"):
        request.getfixturevalue(name)
    monkeypatch.setattr("maml_fast.data._episodes.can_draw", lambda _: True)
    monkeypatch.setattr("maml_fast.inner_loop._engines.native_loop", lambda *_: "as on a GPU")
    return tiny


def captures(caplog: pytest.LogCaptureFixture) -> int:
    return sum("captured as a CUDA graph" in each.message for each in caplog.records)


VARIANTS = {
    "maml": {},
    "order 1": {"order": 1},
    "falling rate": {"meta_schedule": "linear", "least_meta_lr": 2**-9},
    "clipped": {"clip_value": 0.01, "clip_norm": 0.02},
    "ANIL": {"algorithm": "anil"},
    "MAML++": {"algorithm": "maml++", "learn_inner_lr": False, "multi_step_iterations": 1},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_run_is_the_same(variant: dict, config: TrainConfig, tmp_path: Path, caplog) -> None:
    """And the evaluation between two replays leaves the graph alone."""
    config = dataclasses.replace(config, **variant)
    with caplog.at_level(logging.INFO, "maml_fast"):
        train(dataclasses.replace(config, cuda_graph=False), out=tmp_path / "eager")
        assert captures(caplog) == 0
        train(config, out=tmp_path / "replayed")
        assert captures(caplog) == 1
    assert_same_run(tmp_path / "eager", tmp_path / "replayed")


def test_resumes_as_if_never_stopped(config: TrainConfig, tmp_path: Path) -> None:
    """And with a graph for a part of it alone."""
    train(config, out=tmp_path / "whole")
    train(dataclasses.replace(config, iterations=WARM_UP + 1), out=tmp_path / "resumed")
    resume(tmp_path / "resumed", iterations=WARM_UP + 2, cuda_graph=False)
    resume(tmp_path / "resumed", iterations=config.iterations, cuda_graph=None)
    assert_same_run(tmp_path / "resumed", tmp_path / "whole")


def test_adam_is_told_whether_it_is_captured(config: TrainConfig, tmp_path: Path, monkeypatch) -> None:
    """Also after a checkpoint of a replayed run."""
    seen, step = set(), torch.optim.Adam.step

    def watched(self: torch.optim.Adam) -> None:
        seen.update((group["capturable"], torch.cuda.is_current_stream_capturing()) for group in self.param_groups)
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    train(dataclasses.replace(config, iterations=WARM_UP + 1), out=tmp_path / "run")
    assert seen == {(False, False), (True, True)}
    resume(tmp_path / "run", iterations=WARM_UP + 2, cuda_graph=False)
    assert seen == {(False, False), (True, True)}


def test_a_gradient_that_is_not_finite_never_reaches_the_parameters(config, tmp_path, monkeypatch) -> None:
    """In a replay, too, where Python sees it afterwards."""
    count = torch.zeros((), device=config.device)

    def poisoned_model(*_: Any) -> nn.Module:
        model = small_net()
        next(model.parameters()).register_hook(lambda gradient: gradient + 0 / (6 - count.add_(1)))
        return model

    monkeypatch.setattr("maml_fast.train._workbench.make_model", poisoned_model)
    with pytest.raises(RuntimeError, match=r"is not finite in iteration 6: .* still holds iteration 5"):
        train(dataclasses.replace(config, checkpoint_seconds=0.0), out=tmp_path / "run")
    assert state(tmp_path / "run")["iteration"] == 5


def test_what_follows_a_failed_iteration_changes_nothing(config, tmp_path, monkeypatch) -> None:
    """It is queued before anyone knows that the one before failed."""
    count = torch.zeros((), device=config.device)
    seen: list[torch.Tensor] = []

    def poisoned_model(*_: Any) -> nn.Module:
        model = small_net()
        first = next(model.parameters())
        first.register_hook(lambda gradient: gradient + 0 / (4 - count.add_(1)))
        seen.append(first)
        return model

    monkeypatch.setattr("maml_fast.train._workbench.make_model", poisoned_model)
    with pytest.raises(RuntimeError, match=r"is not finite in iteration 4: .* still holds iteration 0"):
        train(config, out=tmp_path / "run")
    assert int(count) == 5
    train(dataclasses.replace(config, iterations=3, cuda_graph=False), out=tmp_path / "until then")
    assert torch.equal(seen[0], seen[1])


def test_numbers_are_read_when_the_next_iteration_is_queued(config, tmp_path, monkeypatch) -> None:
    told: list[tuple[str, int]] = []
    run, note = GraphedIterations.run, Trainer._note

    def told_run(self: GraphedIterations, iteration: int) -> Reading:
        told.append(("queued", iteration + 1))
        return run(self, iteration)

    def told_note(self: Trainer, unread: Any) -> None:
        told.append(("read", unread.iteration))
        note(self, unread)

    monkeypatch.setattr(GraphedIterations, "run", told_run)
    monkeypatch.setattr(Trainer, "_note", told_note)
    train(dataclasses.replace(config, eval_every=3, iterations=4), out=tmp_path / "run")
    until_evaluated = [("queued", 1), ("queued", 2), ("read", 1), ("queued", 3), ("read", 2), ("read", 3)]
    assert told == [*until_evaluated, ("queued", 4), ("read", 4)]


REFUSALS = {
    "on the CPU": ({"cuda_graph": True}, "cuda_graph needs device cuda"),
    "no boolean": ({"cuda_graph": "yes"}, "cuda_graph must be True or False, got 'yes'"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refuses(changes: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        dataclasses.replace(TINY, **changes)


OTHERS = {
    "reptile": (Reptile, {"algorithm": "reptile", "inner_lr": 1e-3}),
    "protonet": (ProtoNet, {"algorithm": "protonet", "inner_steps": TrainConfig.inner_steps}),
}


@pytest.mark.parametrize(("learner", "settings"), OTHERS.values(), ids=OTHERS)
def test_others_say_why_they_are_not_captured(learner: type[Learner], settings: dict, config: TrainConfig) -> None:
    bench = Workbench.open(dataclasses.replace(config, learn_inner_lr=False, **settings))
    optimizer = bench.learner.make_optimizer(META_LR)
    assert make_iterations(bench, optimizer).describe() == f"none: {learner.never_captured}"
    must = dataclasses.replace(bench, config=SimpleNamespace(**{**vars(bench.config), "cuda_graph": True}))
    with pytest.raises(RuntimeError, match=f"meta-iteration can't be captured: {learner.never_captured}"):
        make_iterations(must, optimizer)
