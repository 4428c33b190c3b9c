"""A net of the zoo as the benchmarks' peers train on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from peers.inner_loop import Problem
from peers.nets import ConvNet, Parameters, with_values
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from maml_fast.data import Episodes
from maml_fast.maml import MAML
from zoo import ZOO, Entry, Size

FEW_TASKS, FEW_QUERIES, FEW_STEPS = 4, 7, 2  # where parity is judged: float64 takes its time


@dataclass(frozen=True)
class ZooWorkload:
    """A net, an order, and how much of its size is run: what ``workloads.Workload`` is for the Conv4 nets.

    ``small`` is the size that a test has time for. ``dropout`` is off where parity is judged: no two programs draw the
    same numbers.
    """

    net: str
    order: int
    small: bool = False
    dropout: bool = True
    most_tasks: int | None = None
    most_queries: int | None = None
    most_steps: int | None = None
    device: str = "cpu"

    meta_lr = 1e-3
    scored = ()
    algorithm = "maml"

    @property
    def name(self) -> str:
        """The name, as ``--workloads`` takes it."""
        return f"{'small-' if self.small else ''}{self.net}-order{self.order}"

    @property
    def family(self) -> str:
        """The net's name, the same for both orders."""
        return self.net

    @property
    def title(self) -> str:
        """The net in words."""
        return self.entry.title

    @property
    def entry(self) -> Entry:
        """Return the net."""
        return ZOO[self.net]

    @property
    def size(self) -> Size:
        """The net's, and the meta-batch's."""
        size = self.entry.small if self.small else self.entry.size
        most = {"tasks": self.most_tasks, "queries": self.most_queries, "steps": self.most_steps}
        return replace(size, **{name: min(n, getattr(size, name)) for name, n in most.items() if n is not None})

    @property
    def meta_batch_size(self) -> int:
        """The number of tasks."""
        return self.size.tasks

    @property
    def inner_steps(self) -> int:
        """Of every task."""
        return self.size.steps

    @property
    def inner_lr(self) -> float:
        """Of the inner loop."""
        return self.entry.inner_lr

    @property
    def network(self) -> ConvNet | None:
        """The twin that JAX has."""
        return self.entry.twin

    def model(self) -> nn.Module:
        """The module as people write it, in ``train()``."""
        model = self.entry.model(self.size)
        if not self.dropout:
            for part in model.modules():
                if isinstance(part, _DropoutNd):
                    part.p = 0.0
        return model

    def model_at(self, start: Sequence[Tensor]) -> nn.Module:
        """The model with copies of these parameters, in their dtype and on their device."""
        return with_values(self.model(), start)

    def functional_model(self, start: Sequence[Tensor]) -> nn.Module:
        """The model with these parameters and with norms that ``torch.func``'s transforms differentiate rightly."""
        return with_elementary_norms(self.model_at(start))

    def learner(self, start: Sequence[Tensor], **options: Any) -> MAML:
        """Return maml_fast's learner for the net."""
        entry = self.entry
        chosen = {"inner_lr": entry.inner_lr, "inner_steps": self.inner_steps, "order": self.order, **options}
        return MAML(self.model_at(start), loss_fn=entry.loss_fn, **chosen)

    def problem(self, elementary: bool = False) -> Problem:
        """The inner loop of one task for the plain peers; ``elementary``: with norms in elementary operations."""
        adapted = range(len(self.start(torch.float32)))
        return Problem(_Call(self, elementary), self.inner_steps, self.order, adapted, self.entry.loss_fn)

    def start(self, dtype: torch.dtype) -> list[Tensor]:
        """The initial parameters: the model's own, its vectors moved a little, so that none is zero by design."""
        return [parameter.to(self.device, dtype) for parameter in _start(self.net, self.small)]

    def episodes(self, dtype: torch.dtype = torch.float32, number: int = 0) -> Episodes:
        """Return the meta-batch that all peers train on, or another one like it."""
        return self.entry.episodes(self.size, dtype, number).to(self.device)

    def of_tasks(self, meta_batch_size: int) -> ZooWorkload:
        """Return the same workload with at most this many tasks."""
        return replace(self, most_tasks=min(meta_batch_size, self.meta_batch_size))

    def for_parity(self) -> ZooWorkload:
        """Return the same net on fewer data, and without dropout."""
        few = self.of_tasks(FEW_TASKS)
        return replace(few, most_queries=FEW_QUERIES, most_steps=FEW_STEPS, dropout=False)

    def output_bytes_of_a_task(self) -> float:
        """What layers with weights put out, in float32, for all that a task must remember; roughly."""
        size = self.size
        images = size.queries + size.support * (size.steps if self.order == 2 else 1)
        return 4.0 * images * _outputs(self.net, self.small)


class _Call:
    """A module as a function of its parameters, by ``torch.func.functional_call``, as one writes it.

    A module that writes to buffers is called with copies of them, which are this function's own.
    """

    def __init__(self, workload: ZooWorkload, elementary: bool) -> None:
        self._workload, self._elementary = workload, elementary
        for dtype in (torch.float32,) if workload.dropout else (torch.float32, torch.float64):
            _module(workload, dtype, elementary)  # now, for inside of torch.func's transforms no module can be made
        self._buffers: dict[str, Tensor] | None = None

    def __call__(self, parameters: Parameters, x: Tensor) -> Tensor:
        model, names = _module(self._workload, parameters[0].dtype, self._elementary)
        if self._buffers is None:
            own = model.named_buffers() if self._workload.entry.writes_buffers else ()
            self._buffers = {name: buffer.clone() for name, buffer in own}
        return functional_call(model, {**dict(zip(names, parameters, strict=True)), **self._buffers}, (x,))


@lru_cache
def _module(workload: ZooWorkload, dtype: torch.dtype, elementary: bool) -> tuple[nn.Module, list[str]]:
    model = workload.model().to(workload.device, dtype)
    if elementary:
        model = with_elementary_norms(model)
    return model, [name for name, _ in model.named_parameters()]


@lru_cache
def _start(net: str, small: bool) -> list[Tensor]:
    model = ZooWorkload(net, 2, small).model()
    generator = torch.Generator().manual_seed(0)

    def moved(parameter: Tensor) -> Tensor:
        by = 0.1 * torch.randn(parameter.shape, generator=generator) if parameter.dim() == 1 else 0
        return (parameter + by).detach()

    return [moved(parameter) for parameter in model.parameters()]


@lru_cache
def _outputs(net: str, small: bool) -> float:
    """Values that the layers with weights of their own put out, for one image."""
    workload = ZooWorkload(net, 2, small, most_tasks=1)
    model, x = workload.model(), workload.episodes().x_spt[0]
    counts: list[int] = []
    for part in model.modules():
        if any(parameter.dim() > 1 for parameter in part.parameters(recurse=False)):
            part.register_forward_hook(lambda _module, _inputs, output: counts.append(_numel(output)))
    with torch.no_grad():
        model(x)
    return sum(counts) / len(x)


def _numel(output: Any) -> int:
    return output.numel() if isinstance(output, Tensor) else sum(map(_numel, output))


class ElementaryNorm(nn.Module):
    """A norm in elementary operations, which functional transforms differentiate rightly twice.

    Batch norm is by the batch's own statistics. Over PyTorch's own norms ``vmap(grad(...))`` gives a wrong second-order
    gradient in silence.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.of_batch, self.of_last = isinstance(norm, _BatchNorm), isinstance(norm, nn.LayerNorm)
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else None  # None: every channel by itself

    def forward(self, x: Tensor) -> Tensor:
        if self.of_last:
            z, like = self._normalized(x, [*range(x.dim() - self.weight.dim(), x.dim())]), self.weight.shape
        elif self.of_batch:
            z, like = self._normalized(x, [0, *range(2, x.dim())]), (-1, *[1] * (x.dim() - 2))
        else:
            groups = self._normalized(x.reshape(len(x), self.groups or x.shape[1], -1), [2])
            z, like = groups.reshape(x.shape), (-1, *[1] * (x.dim() - 2))
        return z if self.weight is None else z * self.weight.view(like) + self.bias.view(like)

    def _normalized(self, x: Tensor, over: list[int]) -> Tensor:
        centered = x - x.mean(dim=over, keepdim=True)
        return centered / (centered.square().mean(dim=over, keepdim=True) + self.eps).sqrt()


def with_elementary_norms(model: nn.Module) -> nn.Module:
    """The model, its norms exchanged in place; parameters keep their order."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)):
                setattr(parent, name, ElementaryNorm(child))
    return model


def _both_orders(small: bool) -> tuple[ZooWorkload, ...]:
    return tuple(ZooWorkload(net, order, small) for net in ZOO for order in (2, 1))


WORKLOADS, QUICK = _both_orders(small=False), _both_orders(small=True)
TIMED_WHEN_QUICK = ("conv4", "sine-relu", "lstm")
