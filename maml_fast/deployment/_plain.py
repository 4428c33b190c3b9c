"""Convert maml_fast's layers and networks to PyTorch's own layers, which do not need maml_fast."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from maml_fast import models
from maml_fast.fusion import FusedModel
from maml_fast.nn import BatchStatNorm2d, ConvBlock

__all__ = ["plain"]


def plain(module: nn.Module) -> nn.Module:
    """Replace maml_fast's layers in a module by PyTorch's own; return the changed module, or the module replacing it.

    The replacements share the module's parameters. A user's own classes stay. Parameter names stay wherever a layer is
    replaced by one of the same kind.

    Raises:
        ValueError: if there is no replacement for a layer of maml_fast.
    """
    convert = _CONVERSIONS.get(type(module))
    if convert is not None:
        return convert(module)
    if type(module).__module__.partition(".")[0] == __name__.partition(".")[0]:
        raise ValueError(f"maml_fast's {type(module).__name__} can't be converted to PyTorch's own layers yet")
    for name, part in module.named_children():
        converted = plain(part)
        if converted is not part:
            setattr(module, name, converted)
    return module


def _batch_norm(norm: BatchStatNorm2d) -> nn.Module:
    twin = nn.BatchNorm2d(norm.num_features, norm.eps)
    for parameter in (norm.weight, norm.bias):
        if parameter is not None:
            twin.to(parameter.device, parameter.dtype)
    twin.weight = twin.weight if norm.weight is None else norm.weight
    twin.bias = twin.bias if norm.bias is None else norm.bias
    return twin


def _conv_block(block: ConvBlock) -> nn.Module:
    norm = plain(block.norm)
    layers = [("relu", nn.ReLU()), ("norm", norm)] if block.relu_first else [("norm", norm), ("relu", nn.ReLU())]
    pool = [] if block.pool is None else [("pool", nn.MaxPool2d(block.pool))]
    return _sequence(("conv", block.conv), *layers, *pool)


def _conv4(net: models.Conv4) -> nn.Module:
    mean = [("mean", nn.AdaptiveAvgPool2d(1))] if net.strided else []
    classifier = [] if isinstance(net.classifier, nn.Identity) else [("classifier", net.classifier)]
    return _sequence(("features", plain(net.features)), *mean, ("flatten", nn.Flatten()), *classifier)


def _tutorial(net: models.TutorialNet) -> nn.Module:
    return _sequence(("features", plain(net.features)), ("flatten", nn.Flatten()), ("classifier", net.classifier))


def _mlp(net: models.MLP) -> nn.Module:
    return _sequence(("flatten", nn.Flatten()), ("layers", plain(net.layers)))


def _lstm(net: models.LSTM) -> nn.Module:
    parts = nn.Module()
    parts.lstm = nn.LSTM(net.inputs, net.hidden, batch_first=True)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(parts.lstm, f"{name}_l0", getattr(net, name))
    parts.output = net.output
    graph = fx.Graph()
    states = graph.call_function(operator.getitem, (graph.call_module("lstm", (graph.placeholder("x"),)), 0))
    graph.output(graph.call_module("output", (states,)))
    return fx.GraphModule(parts, graph, "LSTM")


def _fused(model: FusedModel) -> nn.Module:
    return plain(model.original)


_CONVERSIONS: Mapping[type, Callable[[Any], nn.Module]] = {
    BatchStatNorm2d: _batch_norm,
    ConvBlock: _conv_block,
    FusedModel: _fused,
    models.Conv4: _conv4,
    models.LSTM: _lstm,
    models.MLP: _mlp,
    models.TutorialNet: _tutorial,
}


def _sequence(*layers: tuple[str, nn.Module]) -> nn.Module:
    return nn.Sequential(OrderedDict(layers))
