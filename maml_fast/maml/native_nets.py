"""What the native kernels take of a problem: a net of conv blocks, or any recorded model of operations they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast import ops
from maml_fast.data.checks import check_values
from maml_fast.data.episodes import Episodes
from maml_fast.lowering import Lowered, Scored, lower
from maml_fast.maml.losses import check_range
from maml_fast.maml.metric import IGNORED, Accuracy, are_classes
from maml_fast.maml.problem import InnerProblem
from maml_fast.maml.values import PerStep
from maml_fast.program import ConvNet, Program, read_conv_net

__all__ = ["NativeNet", "images_of", "native_net"]


class BlockNet(NamedTuple):
    """Conv blocks and a linear classifier under cross-entropy."""

    support: ConvNet
    query: ConvNet

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the kernels' order."""
        return self.support.names

    @property
    def n_classes(self) -> int | None:
        """Of which its predictions are right or wrong."""
        return self.support.description.n_classes

    def run(self, theta: Sequence[Tensor], episodes: Episodes, *rates: Any, **options: Any) -> ops.InnerLoopsResult:
        """The inner loops of all tasks."""
        x_spt, y_spt, x_qry, y_qry = episodes
        prepared = images_of(self.support, x_spt), y_spt, images_of(self.query, x_qry), y_qry
        return ops.inner_loops(self.support.description, theta, prepared, *rates, **options)

    def check(self, episodes: Episodes) -> None:
        """Raise an error that names what the kernels did not take."""
        _check_classes(episodes, self.support.description.n_classes)


class ProgramNet(NamedTuple):
    """A recorded model and its loss.

    n_classes: of which predictions are right or wrong; ``None``: they are not judged.
    """

    lowered: Lowered
    n_classes: int | None

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it reads, in the kernels' order."""
        return self.lowered.names

    def run(self, theta: Sequence[Tensor], episodes: Episodes, *rates: Any, **options: Any) -> ops.InnerLoopsResult:
        """The inner loops of all tasks."""
        x_spt, y_spt, x_qry, y_qry = episodes
        if self.lowered.takes_whole:
            for name, x in (("x_spt", x_spt), ("x_qry", x_qry)):
                _check_whole(x, self.lowered.entries, name)
        dtype = theta[0].dtype
        prepared = x_spt.to(dtype), y_spt, x_qry.to(dtype), y_qry
        return ops.program_loops(self.lowered.model, self.lowered.picks_of or 0, theta, prepared, *rates, **options)

    def check(self, episodes: Episodes) -> None:
        """Raise an error that names what the kernels did not take."""
        if self.lowered.picks_of is not None:
            return _check_classes(episodes, self.lowered.picks_of)
        return check_values(episodes, None, classification=False, ignored=IGNORED)


NativeNet: TypeAlias = BlockNet | ProgramNet


def native_net(problem: InnerProblem, episodes: Episodes) -> NativeNet | str:
    """What the native kernels take of a problem whose model is recorded, or why they can't."""
    blocks = _block_net(problem, episodes)
    return _program_net(problem, episodes) if isinstance(blocks, str) else blocks


def images_of(net: ConvNet, x: Tensor) -> Tensor:
    """x as the blocks take it, after what comes before them."""
    for line in net.before:
        x = line.step.run(x)
    return x


def _block_net(problem: InnerProblem, episodes: Episodes) -> BlockNet | str:
    nets = [read_conv_net(program) for program in problem.recorded if not isinstance(program, str)]
    if problem.loss_fn is not F.cross_entropy:
        return "the loss is not F.cross_entropy"
    for net in nets:
        if isinstance(net, str):
            return net
    spt, qry = nets
    assert isinstance(spt, ConvNet)
    assert isinstance(qry, ConvNet)
    if not spt.is_like(qry):
        return "it is another net for query images"
    if found := _still_filters(problem, spt):
        return found
    for y in (episodes.y_spt, episodes.y_qry):
        if y.dtype != torch.int64 or y.dim() != 2:
            return f"targets of {y.dtype} {list(y.shape)} are not classes"
    return BlockNet(spt, qry)


def _still_filters(problem: InnerProblem, net: ConvNet) -> str | None:
    """Where filters stay as they are but the blocks change, most of what the blocks' loop does would be for nothing."""
    theta = problem.theta
    changing = [
        name for name in net.names_of_blocks() if name in theta.adapted or isinstance(theta.shared[name], PerStep)
    ]
    still = [block.weight for block in net.blocks if block.weight not in theta.adapted]
    return f"{still[0]} does not adapt, but {changing[0]} changes" if changing and still else None


def _program_net(problem: InnerProblem, episodes: Episodes) -> ProgramNet | str:
    if problem.watched_loss is None or not problem.is_closed:
        return "the loss may have parameters of its own"
    scored: list[Scored] = []
    for model, y in zip(problem.recorded, (episodes.y_spt, episodes.y_qry), strict=True):
        assert isinstance(model, Program)
        logits = model.result
        if y.dtype not in (torch.int64, logits.dtype):
            return f"targets are of {y.dtype}"
        loss = problem.watched_loss.program(problem.loss_fn, logits.shape, logits.dtype, y)
        if isinstance(loss, str):
            return loss
        scored.append(Scored(model, loss))
    judges = problem.judge is not None and are_classes(_shaped(scored[1].model), episodes.y_qry[:1])
    if isinstance(problem.judge, Accuracy) and not judges and problem.judge.must:
        return "its targets are no classes"
    lowered = lower(*scored, judges)
    return (
        lowered
        if isinstance(lowered, str)
        else ProgramNet(lowered, scored[1].model.result.shape[1] if judges else None)
    )


def _shaped(program: Program) -> Tensor:
    """Logits [1, N, ...] without numbers."""
    return torch.empty((1, *program.result.shape), device="meta")


def _check_classes(episodes: Episodes, n_classes: int) -> None:
    check_values(episodes, None, classification=True, ignored=IGNORED)
    for name, labels in (("y_spt", episodes.y_spt), ("y_qry", episodes.y_qry)):
        check_range(labels, n_classes, name)


def _check_whole(x: Tensor, entries: int | None, name: str) -> None:
    """Raise unless x holds whole numbers, and such as are indices of a table."""
    if x.is_floating_point() and not torch.equal(x, x.floor()):
        raise ValueError(f"{name} must hold whole numbers: the model takes its input for indices")
    least, most = (int(value) for value in torch.aminmax(x))
    if least < 0 or (entries is not None and most >= entries):
        wrong = least if least < 0 else most
        raise IndexError(f"{name} holds the index {wrong}, but the model's table has {entries} rows")
