"""Loss and meta-gradient as a replayed CUDA graph: equal to those of plain calls, played by the host and on a GPU."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from maml_fast import MAML, Episodes
from maml_fast.algorithms import LearnedOptimizer, MAMLPlusPlus, MetaLSTM, MetaSGD
from maml_fast.inner_loop import _engines as engines
from maml_fast.inner_loop._graphed import MOST_SIZES, WARM_UP
from maml_fast.maml import Learner

CALLS = WARM_UP + 3
TASKS = 4

# When a graph is captured, and when it is given up, does not depend on the kernels that it holds.
on_any_backend = pytest.mark.backendless


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "host":
        request.getfixturevalue("graphs_on_host")
        request.getfixturevalue("monkeypatch").setattr(engines, "native_loop", lambda *_: "as on a GPU")
    return torch.device("cuda" if request.param == "cuda" else "cpu")


def net() -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(4 * 16, 3)).double()


def batch(seed: int, tasks: int = TASKS) -> Episodes:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, tasks, 6, 1, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.arange(3).repeat(2).expand(tasks, 6)
    return Episodes(x[0], y, x[1], y)


def trajectory(maml: Learner, device: torch.device, calls: int = CALLS) -> list[Tensor]:
    """Losses, accuracies, gradients and parameters of several iterations."""
    maml.to(device)
    optimizer = torch.optim.Adam(maml.parameters(), lr=1e-2)
    told: list[Tensor] = []
    for i in range(calls):
        maml.begin_iteration(i)
        out = maml(batch(i).to(device), per_step=True)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        told += [
            out.loss,
            out.query_accuracy,
            out.query_losses,
            *(p.grad for p in maml.parameters() if p.grad is not None),
        ]
    return [each.detach().cpu() for each in (*told, *maml.parameters(), *maml.buffers())]


def one_against_the_rest(logits: Tensor, labels: Tensor) -> Tensor:
    classes = torch.arange(logits.shape[1], device=labels.device)
    return nn.functional.binary_cross_entropy_with_logits(logits, (labels[:, None] == classes).to(logits.dtype))


CASES: dict[str, Callable[..., MAML]] = {
    "order 2": lambda **k: MAML(net(), inner_lr=0.4, inner_steps=2, order=2, **k),
    "order 1": lambda **k: MAML(net(), inner_lr=0.4, inner_steps=2, order=1, **k),
    "a learned rate": lambda **k: MAML(net(), inner_lr=0.4, inner_steps=2, learn_inner_lr=True, **k),
    "a rate in a tensor": lambda **k: MAML(net(), inner_lr=torch.tensor(0.4, dtype=torch.float64), inner_steps=1, **k),
    "another loss": lambda **k: MAML(
        net(),
        inner_lr=0.4,
        inner_steps=1,
        loss_fn=lambda a, b: nn.functional.cross_entropy(a, b) ** 2,
        metric="accuracy",
        **k,
    ),
    "from zeros": lambda **k: MAML(net(), inner_lr=0.4, inner_steps=2, head="zero", **k),
    "from one row": lambda **k: MAML(
        net(), inner_lr=0.4, inner_steps=2, head="tied", loss_fn=one_against_the_rest, metric="accuracy", **k
    ),
    "from prototypes": lambda **k: MAML(net(), inner_lr=0.4, inner_steps=2, head="proto", **k),
    "adapts the head": lambda **k: MAML(net(), inner_lr=0.4, inner_steps=2, adapted="head", **k),
    "not fused": lambda **k: MAML(net(), inner_lr=0.4, inner_steps=1, fused=False, **k),
    "inner Adam": lambda **k: MAML(net(), inner_lr=1e-2, inner_steps=2, inner_optimizer="adam", **k),
    "MAML++": lambda **k: MAMLPlusPlus(net(), inner_steps=2, multi_step_iterations=0, **k),
    "statistics of every step": lambda **k: MAMLPlusPlus(
        net(), inner_steps=2, multi_step_iterations=0, batch_norm="per_step_running", **k
    ),
    "Meta-SGD": lambda **k: MetaSGD(net(), inner_lr=0.1, inner_steps=2, **k),
    "learned optimizer": lambda **k: LearnedOptimizer(net(), inner_lr=0.1, inner_steps=2, hidden=3, **k),
    "LSTM": lambda **k: MetaLSTM(net(), inner_steps=2, hidden=3, **k),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_equals_plain_calls(make: Callable[..., MAML], device: torch.device) -> None:
    plain = trajectory(make(task_chunk=None), device)
    maml = make(task_chunk=None, cuda_graph=True)
    replayed = trajectory(maml, device)
    assert maml._graphed.is_captured
    assert "cuda graph: loss and meta-gradient, replayed" in maml.describe()
    assert len(plain) == len(replayed)
    for a, b in zip(plain, replayed, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)


@on_any_backend
@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_of_tasks_are_captured_too(chunk: int, graphs_on_host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maml_fast.inner_loop._engines.native_loop", lambda *_: "as on a GPU")
    plain, replayed = (
        trajectory(MAML(net(), inner_lr=0.4, inner_steps=2, task_chunk=chunk, cuda_graph=graph), torch.device("cpu"))
        for graph in (False, True)
    )
    for a, b in zip(plain, replayed, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)


def captured(maml: MAML, device: torch.device, tasks: int = 4) -> MAML:
    """The learner after so many calls that the next is a replay."""
    maml.to(device)
    for i in range(WARM_UP + 1):
        maml(batch(i, tasks).to(device)).loss.backward()
    assert maml._graphed.is_captured
    maml.zero_grad()
    return maml


def change_steps(maml: MAML) -> None:
    maml.inner_steps = 2


def change_order(maml: MAML) -> None:
    maml.order = 1


def change_rate(maml: MAML) -> None:
    maml.inner_lr = 0.1


def freeze(maml: MAML) -> None:
    next(maml.parameters()).requires_grad_(False)


def move(maml: MAML) -> None:
    for parameter in maml.parameters():
        parameter.data = parameter.data.clone() + 0.01


def change_modes(maml: MAML) -> None:
    maml.eval()


CHANGES = [change_steps, change_order, change_rate, freeze, move, change_modes]


@on_any_backend
@pytest.mark.parametrize("change", CHANGES, ids=[change.__name__ for change in CHANGES])
def test_a_change_is_seen(change: Callable[[MAML], None], device: torch.device) -> None:
    maml = captured(MAML(net(), inner_lr=0.4, inner_steps=1, task_chunk=None, cuda_graph=True), device)
    other = MAML(net(), inner_lr=0.4, inner_steps=1, task_chunk=None).to(device)
    for learner in (maml, other):
        change(learner)
    for i in range(CALLS):
        for learner in (maml, other):
            learner.zero_grad()
            learner(batch(i).to(device)).loss.backward()
        assert maml._graphed.is_captured == (i >= WARM_UP)
        assert_same_gradients(maml, other)


def assert_same_gradients(one: nn.Module, other: nn.Module) -> None:
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None and q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-12)


@on_any_backend
def test_another_size_of_meta_batch_begins_anew(device: torch.device) -> None:
    maml = captured(MAML(net(), inner_lr=0.4, task_chunk=None, cuda_graph=True), device)
    other = MAML(net(), inner_lr=0.4, task_chunk=None).to(device)
    loss = maml(batch(0, tasks=2).to(device)).loss
    assert not maml._graphed.is_captured
    torch.testing.assert_close(loss, other(batch(0, tasks=2).to(device)).loss)


@on_any_backend
def test_two_sizes_of_meta_batches_take_turns(device: torch.device) -> None:
    """Each has a graph: neither keeps the other from its replays."""
    maml = MAML(net(), inner_lr=0.4, task_chunk=None, cuda_graph=True).to(device)
    other = MAML(net(), inner_lr=0.4, task_chunk=None).to(device)
    for i in range(2 * (WARM_UP + 3)):
        for learner in (maml, other):
            learner.zero_grad()
            learner(batch(i, tasks=4 - i % 2).to(device)).loss.backward()
        assert maml._graphed.is_captured == (i // 2 >= WARM_UP)
        assert_same_gradients(maml, other)


@on_any_backend
def test_the_sizes_used_last_are_kept(device: torch.device) -> None:
    maml = captured(MAML(net(), inner_lr=0.4, task_chunk=None, cuda_graph=True), device, tasks=1)
    for tasks in range(2, MOST_SIZES + 1):
        maml(batch(0, tasks).to(device))
    maml(batch(0, tasks=1).to(device))
    assert maml._graphed.is_captured
    maml(batch(0, tasks=MOST_SIZES + 1).to(device))
    assert len(maml._graphed._sizes) == MOST_SIZES
    maml(batch(0, tasks=1).to(device))
    assert maml._graphed.is_captured
    for tasks in range(2, MOST_SIZES + 1):
        maml(batch(0, tasks).to(device))
    maml(batch(0, tasks=MOST_SIZES + 1).to(device))
    maml(batch(0, tasks=1).to(device))
    assert not maml._graphed.is_captured
    maml.inner_lr = 0.1  # what was captured can't be used any more
    maml(batch(0, tasks=1).to(device))
    assert len(maml._graphed._sizes) == 1


@on_any_backend
@pytest.mark.parametrize("library", ["cuda.matmul", "cudnn.conv"])
def test_another_precision_begins_anew(library: str, device: torch.device) -> None:
    """Also where one library's is set apart, so that PyTorch's older settings can't be read any more."""
    maml = captured(MAML(net(), inner_lr=0.4, task_chunk=None, cuda_graph=True), device)
    setting = operator.attrgetter(library)(torch.backends)
    before = setting.fp32_precision
    setting.fp32_precision = "tf32" if before != "tf32" else "ieee"
    try:
        maml(batch(0).to(device))
        assert not maml._graphed.is_captured
    finally:
        setting.fp32_precision = before


@on_any_backend
def test_annealing_is_not_frozen(graphs_on_host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """While every iteration has a loss of its own, none can stand in for another."""
    monkeypatch.setattr(engines, "native_loop", lambda *_: "as on a GPU")
    plain, replayed = (
        trajectory(
            MAML(
                net(),
                inner_lr=0.4,
                inner_steps=2,
                first_order_iterations=3,
                multi_step_iterations=5,
                task_chunk=None,
                cuda_graph=graph,
            ),
            torch.device("cpu"),
            calls=5 + CALLS,
        )
        for graph in (False, True)
    )
    for a, b in zip(plain, replayed, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)


def test_what_a_call_returned_outlives_the_next(device: torch.device) -> None:
    maml = captured(MAML(net(), inner_lr=0.4, task_chunk=None, cuda_graph=True), device)
    other = MAML(net(), inner_lr=0.4, task_chunk=None).to(device)
    for learner in (maml, other):
        first, second = (learner(batch(i).to(device), per_step=True) for i in (5, 6))
        (first.loss + 2 * second.loss + first.query_losses.sum()).backward()
    assert_same_gradients(maml, other)


@on_any_backend
def test_evaluation_leaves_the_graph_alone(device: torch.device) -> None:
    maml = captured(MAML(net(), inner_lr=0.4, task_chunk=None, cuda_graph=True), device)
    with torch.no_grad():
        maml(batch(1, tasks=2).to(device))
    assert maml._graphed.is_captured
    maml.task_results(batch(1).to(device))
    assert maml._graphed.is_captured


def test_a_parameter_of_the_loss_gets_its_gradient(device: torch.device) -> None:
    scale = torch.ones((), dtype=torch.float64, device=device, requires_grad=True)

    def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
        return scale * nn.functional.cross_entropy(logits, targets)

    gradients = []
    for graph in (True, False):
        maml = MAML(net(), inner_lr=0.4, loss_fn=loss_fn, task_chunk=None, cuda_graph=graph).to(device)
        for i in range(CALLS):
            scale.grad = None
            maml(batch(i).to(device)).loss.backward()
        gradients.append(scale.grad)
    torch.testing.assert_close(*gradients)


def test_says_once_that_it_was_captured(device: torch.device, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "maml_fast"):
        captured(MAML(net(), inner_lr=0.4, task_chunk=None, cuda_graph=True), device)
    assert [each.message for each in caplog.records if "CUDA graph" in each.message] == [
        "MAML's loss and meta-gradient: captured as a CUDA graph, which is replayed from now on"
    ]


def reads_a_number(logits: Tensor, targets: Tensor) -> Tensor:
    loss = nn.functional.cross_entropy(logits, targets)
    return loss * torch.zeros(1, device=loss.device).sum().item() + loss


def makes_a_tensor(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, targets) * torch.tensor(2.0, device=logits.device)


@pytest.mark.parametrize("loss_fn", [reads_a_number, makes_a_tensor], ids=["reads", "makes"])
def test_refuses_what_waits_for_the_gpu(loss_fn: Callable, device: torch.device) -> None:
    """Before the capture, of which PyTorch 2.11 forgives none that breaks off."""
    maml = MAML(net(), inner_lr=0.4, loss_fn=loss_fn, task_chunk=None, cuda_graph=True).to(device)
    for i in range(WARM_UP - 1):
        maml(batch(i).to(device))
    with pytest.raises(RuntimeError, match=r"can't be captured as a CUDA graph: called a sync.*leave cuda_graph out"):
        maml(batch(0).to(device))
    maml.cuda_graph = False
    maml(batch(0).to(device)).loss.backward()


def test_a_capture_that_breaks_off_is_refused(graphs_on_host: None) -> None:
    counted = [0]

    def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
        counted[0] += 1
        return (reads_a_number if counted[0] > 2 * TASKS * WARM_UP else nn.functional.cross_entropy)(logits, targets)

    maml = MAML(net(), inner_lr=0.4, loss_fn=loss_fn, task_chunk=None, cuda_graph=True)
    for i in range(WARM_UP):
        maml(batch(i))
    with pytest.raises(RuntimeError, match=r"can't be captured as a CUDA graph: operation not permitted"):
        maml(batch(0))


def test_other_errors_are_told_as_they_are(device: torch.device) -> None:
    def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("no such loss")

    maml = MAML(net(), inner_lr=0.4, loss_fn=loss_fn, task_chunk=None, cuda_graph=True).to(device)
    for _ in range(WARM_UP):
        with pytest.raises(RuntimeError, match=r"^no such loss$"):
            maml(batch(0).to(device))


def test_refuses_the_cpu() -> None:
    with pytest.raises(RuntimeError, match="cuda_graph=True is for a GPU, but the model is on cpu; move it to cuda"):
        MAML(net(), inner_lr=0.4, cuda_graph=True)(batch(0))


def test_refuses_gradients_of_images_and_transforms(device: torch.device) -> None:
    maml = MAML(net(), inner_lr=0.4, cuda_graph=True).to(device)
    x_spt, *rest = batch(0).to(device)
    with pytest.raises(RuntimeError, match="not that of images or under"):
        maml(Episodes(x_spt.requires_grad_(), *rest))


def test_refuses_a_graph_from_outside(device: torch.device) -> None:
    scale = torch.ones((), dtype=torch.float64, device=device, requires_grad=True) * 2

    def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
        return scale * nn.functional.cross_entropy(logits, targets)

    with pytest.raises(RuntimeError, match="the loss depends on a result of MulBackward0"):
        MAML(net(), inner_lr=0.4, loss_fn=loss_fn, task_chunk=None, cuda_graph=True).to(device)(batch(0).to(device))


def test_the_gradient_has_no_gradient(device: torch.device) -> None:
    maml = captured(MAML(net(), inner_lr=0.4, task_chunk=None, cuda_graph=True), device)
    loss = maml(batch(0).to(device)).loss
    gradients = torch.autograd.grad(loss, list(maml.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="can't be differentiated"):
        gradients[0].sum().backward()
