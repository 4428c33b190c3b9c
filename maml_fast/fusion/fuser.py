"""Going through the tree of a structural copy: recording, rewriting, and giving modules their new ``forward``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Proxy

from maml_fast.fusion.report import BatchNormPolicy
from maml_fast.fusion.rewrite import block_weights, describe_block, fuse_runs, set_functional_norms
from maml_fast.fusion.structure import follows_policy
from maml_fast.fusion.trace import UntraceableError, has_hooks, required_inputs, trace
from maml_fast.nn import ConvBlock

__all__ = ["Fuser", "Recording"]

Flags = tuple[bool, ...]  # the .training of some modules


class Recording(NamedTuple):
    """A module's ``forward``: ``graphs`` by the state of the modules that may read their ``.training`` in it."""

    watched: list[nn.Module]
    graphs: dict[Flags, Graph]


class Fuser:
    """Fuses what it can below a module of a structural copy, and collects the lines of the report."""

    def __init__(self, policy: BatchNormPolicy) -> None:
        self.policy = policy
        self.fused: list[str] = []
        self.left: list[str] = []
        self.block_weights: set[str] = set()  # of fused operations
        self.recordings: dict[nn.Module, Recording] = {}  # rewritten
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
                recording = self.recordings[module] = _record(module, opaque)
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
            fused, left = fuse_runs(graph, module)
            self.block_weights.update(prefix + weight for weight in block_weights(graph, module))
            if flags == now:
                self.fused += [prefix + line for line in fused]
                self.left += [prefix + line for line in left]
            if norms or fused:
                runs[flags] = _compiled(module, graph)
        if runs:
            vars(module)["forward"] = _Recorded(module, watched, runs)


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module is one of torch's own layers, or a batch norm: nothing is found inside."""
    torchs = type(module).__module__.startswith(("torch.nn", "torch.ao.nn")) and not isinstance(module, nn.Sequential)
    return torchs or follows_policy(module)


def _record(module: nn.Module, opaque: Set[nn.Module]) -> Recording:
    """Record ``forward`` in the training mode that the tree is in, in ``train()`` and in ``eval()``."""
    modes = {m: m.training for m in module.modules()}
    watched: dict[nn.Module, None] = {}
    recordings = []
    try:
        for mode in (None, True, False):
            for m, own in modes.items():
                m.training = own if mode is None else mode
            graph, recorded = trace(module, module.forward, opaque)
            watched.update((m, None) for m in recorded if type(m) is not nn.Sequential)
            recordings.append(({m: m.training for m in modes}, graph))
    finally:
        for m, own in modes.items():
            m.training = own
    return Recording(list(watched), {tuple(state[m] for m in watched): graph for state, graph in recordings})


def _compiled(module: nn.Module, graph: Graph) -> Callable[..., Any]:
    """Return the graph as a function of the module and its inputs, parameters looked up in the module at every call."""
    graph.lint()
    return type(GraphModule(module, graph)).forward


class _Recorded:
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
