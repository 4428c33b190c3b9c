"""The zoo: maml_fast computes on every net what the plain loop does, who does not is refused, and the table is made."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec

import measurements
import parity
import pytest
import report
import torch
from bench_command import run
from bench_record import make_record, table_row
from peers import OURS, TRUTH, ZOO_PEERS
from peers.metalearn import MetaLearn
from peers.processes import Processes
from peers.vmap import Vmap
from torch import nn
from wrong_peers import FirstOrder, NoGradient, NotANumber, WrongLoss
from zoo import ZOO
from zoo.workload import QUICK, WORKLOADS, ZooWorkload, with_elementary_norms

from maml_fast import use_engine


def small(net: str, order: int = 2) -> ZooWorkload:
    return ZooWorkload(net, order, small=True)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR", "maml_fast")


def test_there_are_enough_nets_in_both_orders() -> None:
    assert len(ZOO) >= 40
    for workloads in (WORKLOADS, QUICK):
        assert {(each.net, each.order) for each in workloads} == {(net, order) for net in ZOO for order in (1, 2)}


@pytest.mark.parametrize("workload", QUICK, ids=lambda workload: workload.name)
def test_every_net_is_computed_as_the_plain_loop_does(workload: ZooWorkload) -> None:
    errors = parity.check(workload.for_parity(), TRUTH)
    assert max(errors.loss, errors.gradient) <= parity.TOLERANCE


def engine_of(workload: ZooWorkload) -> str | None:
    """What runs it, if what is asked for can."""
    try:
        return workload.learner(workload.start(torch.float64)).engine_for(workload.episodes(torch.float64))
    except RuntimeError as error:
        if "engine can't run this" not in str(error):
            raise
        return None


@pytest.mark.parametrize("engine", ["batched", "loop"])
@pytest.mark.parametrize("workload", QUICK, ids=lambda workload: workload.name)
def test_every_other_engine_computes_it_so(workload: ZooWorkload, engine: str) -> None:
    workload = workload.for_parity()
    by_itself = engine_of(workload)
    with use_engine(engine):
        if engine_of(workload) not in (None, by_itself):
            errors = parity.check(workload, TRUTH)
            assert max(errors.loss, errors.gradient) <= parity.TOLERANCE


def test_most_nets_have_a_form_for_all_tasks_at_once() -> None:
    with use_engine("batched"):
        assert sum(engine_of(small(net)) is not None for net in ZOO) >= 55
    with use_engine("loop"):
        assert all(engine_of(small(net)) for net in ZOO)


@pytest.mark.parametrize("wrong", [WrongLoss, FirstOrder, NoGradient, NotANumber])
@pytest.mark.parametrize("net", ["conv4", "conv4-group-norm", "sine-tanh"])
def test_a_wrong_result_is_refused(net: str, wrong: type) -> None:
    with pytest.raises(parity.ParityError, match=rf"{net}-order2: {wrong.title} against maml_fast"):
        parity.check(small(net).for_parity(), wrong)


@pytest.mark.parametrize("net", ["conv4", "conv4-one-logit", "u-net", "omniglot-fc", "conv4-group-norm", "transformer"])
@pytest.mark.parametrize("order", [1, 2])
def test_vmap_takes_what_it_can(net: str, order: int) -> None:
    parity.check(small(net, order).for_parity(), Vmap)


@pytest.mark.skipif(find_spec("metalearn") is None, reason="parallel-metalearn is not installed")
@pytest.mark.parametrize("net", ["conv4", "conv4-mse", "sine-relu"])
@pytest.mark.parametrize("order", [1, 2])
def test_parallel_metalearn_computes_the_same(net: str, order: int) -> None:
    parity.check(small(net, order).for_parity(), MetaLearn)


def test_the_loop_in_processes_takes_any_loss() -> None:
    workload = small("sine-relu").for_parity()
    learner = Processes(workload, workload.start(torch.float64))
    try:
        losses = learner.backward(workload.episodes(torch.float64))
    finally:
        learner.close()
    expected, _ = parity.losses_and_gradient(workload, OURS, torch.float64)
    assert parity.relative_error([losses], [expected]) < parity.TOLERANCE


def test_dropout_is_on_but_where_parity_is_judged() -> None:
    workload = small("conv4-dropout")
    rates = [
        [part.p for part in each.model().modules() if isinstance(part, nn.Dropout)]
        for each in (workload, workload.for_parity())
    ]
    assert rates == [[0.5], [0.0]]


def test_every_task_has_its_own_buffers_where_forward_writes_to_them() -> None:
    """The second task's loss in the plain loop does not depend on the first."""
    workload = small("spectral-norm").for_parity()
    start, episodes = workload.start(torch.float64), workload.episodes(torch.float64)
    second_alone = type(episodes)(*(each[1:] for each in episodes))
    losses = []
    for given in (episodes, second_alone):
        learner = TRUTH(workload, start)
        tasks = [learner.task_backward(task, 1.0)[-1] for task in zip(*given, strict=True)]
        losses.append(float(tasks[-1].detach()))
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(3), (5, 3)),
        (nn.BatchNorm2d(3, affine=False), (2, 3, 4, 5)),
        (nn.InstanceNorm2d(3, affine=True), (2, 3, 4, 5)),
        (nn.GroupNorm(2, 4), (2, 4, 3, 3)),
        (nn.LayerNorm(4), (2, 3, 4)),
    ],
    ids=lambda each: type(each).__name__,
)
def test_elementary_norms_are_the_same_functions(norm: nn.Module, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    expected = norm.double()(x)
    torch.testing.assert_close(with_elementary_norms(nn.Sequential(norm))(x), expected)


def test_parity_is_judged_on_less() -> None:
    few = replace(WORKLOADS[0]).for_parity()
    assert (few.meta_batch_size, few.size.queries, few.net) == (4, 7, "conv4")
    assert len(few.episodes().x_qry[0]) == 7
    assert WORKLOADS[0].meta_batch_size == 8


def zoo_record() -> dict:
    found = measurements.Measurements()
    for order, speed in ((2, 4.0), (1, 2.0)):
        ours, loop = (found.row("zoo", "a-net", "a net in words", who.title, order) for who in (OURS, TRUTH))
        ours.seconds, loop.seconds = [1e-3, 2e-3, 1e-3], [speed * 1e-3, speed * 2e-3, speed * 2e-3]
        ours.parity = {"loss": 1e-16, "gradient": order * 1e-15, "float32_loss": 0.0}
        ours.ran, ours.peak_mib, loop.peak_mib = "forward: all tasks at once; inner loop: native, each", 10.4, 20.4
        ours.process_mib, loop.process_mib = 210.4, 220.4
    found.row("zoo", "a-net", "a net in words", Vmap.title, 2).seconds = [10e-3]
    found.row("zoo", "a-net", "a net in words", Vmap.title, 1).failed = "torch.func.vmap on a-net-order1 failed: no"
    found.row("zoo", "a-net", "a net in words", ZOO_PEERS[-1].title, 2).skipped = "this net is not written in JAX"
    broken = found.row("zoo", "broken", "one that fails", OURS.title, 2)
    broken.failed = "maml_fast and the loop on broken-order2 was killed by SIGSEGV"
    return {**make_record(), "rows": found.record({}, {"numpy": 100.0})["rows"]}


def test_the_table_has_a_line_for_every_net() -> None:
    text = report.markdown(zoo_record())
    cells = ["a-net", "native inner loop", "1 / 1", "8 / 4", "4.00× (4–6)", "2.00× (2–3)"]
    assert table_row(text, "| a-net") == [*cells, "10.0× / failed", "10 / 20 (210 / 220)", "1e-16, 2e-15"]
    assert table_row(text, "| broken")[1:4] == ["–", "–", "–"]
    assert table_row(text, "| broken")[-1] == "failed"


def test_what_ran_and_who_did_not_is_told() -> None:
    text = report.markdown(zoo_record())
    assert "- forward: all tasks at once; inner loop: native, each: a-net\n" in text
    assert "- a-net: a net in words\n" in text
    assert "- torch.func.vmap: torch.func.vmap on the net failed: no: a-net\n" in text
    assert f"- {ZOO_PEERS[-1].title}: this net is not written in JAX: a-net\n" in text
    assert "maml_fast and the loop on the net was killed by SIGSEGV: broken" in text


@pytest.mark.native
def test_quick_run_of_one_net(tmp_path) -> None:
    out = tmp_path / "zoo"
    assert (
        run(quick=True, out=out, seconds=0.01, workloads="sine-relu", peers="vmap", pytest_arguments=["-k", "zoo"]) == 0
    )
    rows = json.loads((out / "bench.json").read_text())["rows"]
    measured = {(row["subject"], row["at"], row["who"]) for row in rows if row["rounds"]}
    assert measured == {("sine-relu", order, who) for order in (1, 2) for who in (OURS.title, TRUTH.title, Vmap.title)}
    assert all(row["peak_mib"] is None or 0 < row["peak_mib"] < 4096 for row in rows)
    ours = next(row for row in rows if row["who"] == OURS.title)
    assert ours["ran"].startswith("forward: all tasks at once; inner loop: ")
    assert max(ours["parity"]["loss"], ours["parity"]["gradient"]) < parity.TOLERANCE
    assert "| sine-relu |" in (out / "bench.md").read_text()
