"""The benchmarks' naive loops: one for every algorithm, equal to maml_fast's, and wrong ones are not timed."""

from __future__ import annotations

from dataclasses import replace

import parity
import pytest
import torch
import workloads
from peers import NAIVE, OURS, algorithms
from peers.algorithms import LOOPS, FOMAMLLoop, MAMLLoop, MetaSGDLoop, ProtoNetLoop, ReptileLoop
from peers.learned_rules import LearnedOptimizerLoop

from maml_fast.algorithms import ALGORITHMS


def quick(algorithm: str, **changes: object) -> workloads.Workload:
    return replace(workloads.named(f"QA-{algorithm}"), **changes)


def test_every_algorithm_has_a_loop_and_a_row() -> None:
    """A new algorithm's loop goes into bench/peers/algorithms.py; its row comes by itself."""
    assert set(LOOPS) == set(ALGORITHMS)
    for of_algorithms in (workloads.OF_ALGORITHMS, workloads.QUICK_OF_ALGORITHMS):
        assert [workload.algorithm for workload in of_algorithms] == list(ALGORITHMS)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_loop_computes_what_maml_fast_does(algorithm: str, order: int) -> None:
    """More steps than the quick workload has; of Reptile's four minibatches two are across the end of an order."""
    workload = quick(algorithm, name=f"order {order}", order=order, inner_steps=4, k_query=2)
    errors = parity.check(workload, NAIVE)
    assert errors.loss <= parity.TOLERANCE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_still_does_in_the_second_iteration(algorithm: str) -> None:
    """After the outer step, and with what Reptile remembers."""
    workload = quick(algorithm)
    after = []
    for peer in (OURS, NAIVE):
        torch.manual_seed(0)
        learner, episodes = peer(workload, workload.start(torch.float64)), workload.episodes(torch.float64)
        learner.optimizer.param_groups[0]["eps"] = 1e-3  # Adam itself would make steps of what is rounding alone
        losses = [learner.iteration(episodes) for _ in range(3)]
        after.append([*losses, *learner.parameters])
    assert parity.relative_error(*after) < 1e-9


class Constant(MetaSGDLoop):
    def rates(self) -> dict[str, float | torch.Tensor]:
        return {name: rate.detach() for name, rate in super().rates().items()}


class Forgetful(ReptileLoop):
    DECAY = 0.99


class Lazy(LearnedOptimizerLoop):
    def objective(self, losses: list[torch.Tensor]) -> torch.Tensor:
        return losses[-1]


class Unsquared(ProtoNetLoop):
    def task_loss(self, x_spt, y_spt, x_qry, y_qry) -> torch.Tensor:
        return super().task_loss(x_spt, y_spt, x_qry, y_qry) ** 0.5


@pytest.mark.parametrize(
    ("algorithm", "wrong"),
    [
        ("maml", FOMAMLLoop),
        ("fomaml", MAMLLoop),
        ("anil", MAMLLoop),
        ("boil", MAMLLoop),
        ("meta-sgd", Constant),
        ("maml++", MetaSGDLoop),
        ("learned-optimizer", Lazy),
        ("meta-lstm", LearnedOptimizerLoop),
        ("reptile", Forgetful),
        ("protonet", Unsquared),
    ],
)
def test_another_algorithm_is_not_timed(algorithm: str, wrong: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(algorithms.LOOPS, algorithm, wrong)
    with pytest.raises(parity.ParityError, match=rf"{wrong.__name__}: naive per-task loop against maml_fast.*float64"):
        parity.check(quick(algorithm, name=wrong.__name__), NAIVE)


def test_what_ran_is_told() -> None:
    learner = OURS(quick("reptile"), quick("reptile").start(torch.float32))
    learner.iteration(quick("reptile").episodes())
    assert learner.ran() == "fused blocks: 2"


@pytest.mark.native
def test_a_native_inner_loop_is_told() -> None:
    learner = OURS(quick("maml"), quick("maml").start(torch.float32))
    learner.iteration(quick("maml").episodes())
    assert learner.ran().startswith("fused blocks: 2; inner loop: native")
