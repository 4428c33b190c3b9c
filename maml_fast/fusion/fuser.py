"""Going through the tree of a structural copy: recording, rewriting, and giving modules their new ``forward``."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Proxy
from torch.nn.modules.batchnorm import _BatchNorm

from maml_fast.fusion.rewrite import block_weights, describe_block, fuse_runs, set_functional_norms
from maml_fast.fusion.structure import follows_policy
from maml_fast.fusion.trace import UntraceableError, has_hooks, required_inputs, trace
from maml_fast.nn import ConvBlock
from maml_fast.program.report import FusionPolicy

__all__ = ["Fuser", "RecordedForward", "Recording"]

Flags = tuple[bool, ...]  # the .training of some modules


class Recording(NamedTuple):
    """A module's ``forward``: ``graphs`` by the state of the modules that may read their ``.training`` in it."""

    watched: list[nn.Module]
    graphs: dict[Flags, Graph]


class Fuser:
    """Fuses what it can below a module of a structural copy, and collects the lines of the report."""

    def __init__(self, policy: FusionPolicy) -> None:
        self.policy = policy
        self.fused: list[str] = []
        self.left: list[str] = []
        self.block_weights: set[str] = set()  # of fused operations
        self.recordings: dict[nn.Module, Recording] = {}  # rewritten
        self.forwards: list[RecordedForward] = []
        self.done: set[nn.Module] = set()

    def fuse(self, module: nn.Module, name: str) -> None:
        """Fuse a module that no recording calls: the root, or a part of a module that can't be recorded."""
        if module in self.done:
            return
        self.done.add(module)
        if isinstance(module, ConvBlock):
            self.fused.append(f"{name or 'the model'}: {describe_block(module)}")
            self.block_weights.add(f"{name}.conv.weight".lstrip("."))
        elif isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            self._fuse_children(module, name)
        elif not _is_layer(module):
            self._fuse_forward(module, name)
        elif isinstance(module, nn.Conv2d):
            self.left.append(f"{name or 'the model'}: no recorded forward calls this convolution")

    def _fuse_children(self, module: nn.Module, name: str) -> None:
        for child_name, child in module.named_children():
            self.fuse(child, f"{name}.{child_name}" if name else child_name)

    def _fuse_forward(self, module: nn.Module, name: str) -> None:
        opaque: set[nn.Module] = set()
        while True:
            try:
                recording = self.recordings[module] = _record(module, opaque, self.policy)
                break
            except UntraceableError as error:
                if error.module is module or error.module in opaque:
                    self.left.append(f"{name or 'forward'}: could not be recorded ({error.reason})")
                    self._fuse_children(module, name)
                    return
                opaque.add(error.module)  # next time its call is recorded, not what it does
        names = {m: f"{name}.{path}" if name else path for path, m in module.named_modules()}
        calls = [n for graph in recording.graphs.values() for n in graph.nodes if n.op == "call_module"]
        parts = [module.get_submodule(str(node.target)) for node in calls]
        self._rewrite(module, name, recording)
        for part in parts:
            if part in opaque or (has_hooks(part) and not _is_layer(part)):
                self.fuse(part, names[part])

    def _rewrite(self, module: nn.Module, name: str, recording: Recording) -> None:
        watched, graphs = recording
        prefix = f"{name}." if name else ""
        now = tuple(m.training for m in watched)
        runs = {}
        for flags, graph in graphs.items():
            norms = set_functional_norms(graph, self.policy)
            with _in_modes(dict(zip(watched, flags, strict=True))):
                fused, left = fuse_runs(graph, module)
            self.block_weights.update(prefix + weight for weight in block_weights(graph, module))
            if flags == now:
                self.fused += [prefix + line for line in fused]
                self.left += [prefix + line for line in left]
            if norms or fused:
                runs[flags] = _compiled(module, graph)
        if runs:
            self.forwards.append(RecordedForward(module, watched, runs))
            vars(module)["forward"] = self.forwards[-1]


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module is one of torch's own layers, or a batch norm: nothing is found inside."""
    torchs = type(module).__module__.startswith(("torch.nn", "torch.ao.nn")) and not isinstance(module, nn.Sequential)
    return torchs or follows_policy(module)


def _record(module: nn.Module, opaque: Set[nn.Module], policy: FusionPolicy) -> Recording:
    """Record ``forward`` in the training mode that the tree is in, in ``train()`` and in ``eval()``."""
    own = {m: m.training for m in module.modules()}
    obeying = [m for m in own if isinstance(m, _BatchNorm)] if policy == "as_written" else []  # train() and eval()
    watched: dict[nn.Module, None] = dict.fromkeys(obeying)
    recordings = []
    uniform = [dict.fromkeys(own, mode) for mode in (True, False)]
    for modes in (own, *(each for each in uniform if each != own)):
        with _in_modes(modes):
            graph, recorded = trace(module, module.forward, opaque)
        watched.update((m, None) for m in recorded if type(m) is not nn.Sequential)
        recordings.append((modes, graph))
    return Recording(list(watched), {tuple(state[m] for m in watched): graph for state, graph in recordings})


@contextmanager
def _in_modes(modes: Mapping[nn.Module, bool]) -> Iterator[None]:
    """Put modules into these training modes for a while, each alone."""
    before = {module: module.training for module in modes}
    try:
        for module, mode in modes.items():
            module.training = mode
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def _compiled(module: nn.Module, graph: Graph) -> Callable[..., Any]:
    """Return the graph as a function of the module and its inputs, parameters looked up in the module at every call."""
    graph.lint()
    return type(GraphModule(module, graph)).forward


class RecordedForward:
    """The ``forward`` of a module with fused runs."""

    def __init__(self, module: nn.Module, watched: list[nn.Module], runs: dict[Flags, Callable[..., Any]]) -> None:
        self.module = module
        self.plain = module.forward
        self.parameters = inspect.signature(self.plain).parameters
        self.inputs = required_inputs(self.plain)
        self.watched = watched
        self.runs = runs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the recording if the call is like the recorded one, else ``forward`` as it was written."""
        tensors = self._tensors(args, kwargs)
        run = self.runs.get(tuple(m.training for m in self.watched))
        if tensors is None or run is None:
            return self.plain(*args, **kwargs)
        return run(self.module, *tensors)

    def on(self, copies: Mapping[nn.Module, nn.Module]) -> RecordedForward:
        """Return the same for a copy of the module, given the copy of every module below it."""
        result = copy.copy(self)
        result.module, result.watched = copies[self.module], [copies[module] for module in self.watched]
        result.plain = result.module.forward
        return result

    def _tensors(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Sequence[Any] | None:
        """Return the recorded inputs, or ``None`` if one is no tensor or a default is not taken."""
        if kwargs or len(args) != len(self.inputs):
            try:
                given = inspect.signature(self.plain).bind(*args, **kwargs).arguments
            except TypeError:  # forward itself says what is missing
                return None
            if any(given[n] is not self.parameters[n].default for n in given if n not in self.inputs):
                return None
            args = [given[name] for name in self.inputs]
        return args if all(not isinstance(a, Proxy) and isinstance(a, Tensor) for a in args) else None
