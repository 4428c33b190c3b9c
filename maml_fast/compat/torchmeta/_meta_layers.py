"""The layers of ``torch.nn`` as MetaModules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from maml_fast.compat.torchmeta._meta_module import MetaModule, with_parameters

__all__ = [
    "MetaBatchNorm1d",
    "MetaBatchNorm2d",
    "MetaBatchNorm3d",
    "MetaBilinear",
    "MetaConv1d",
    "MetaConv2d",
    "MetaConv3d",
    "MetaEmbedding",
    "MetaEmbeddingBag",
    "MetaLayerNorm",
    "MetaLinear",
    "MetaMultiheadAttention",
    "MetaSequential",
]


class _MetaLayer(MetaModule):
    """Base of layers that inherit from a layer of ``torch.nn`` too."""

    def forward(self, *args: Any, params: Mapping[str, Tensor] | None = None, **kwargs: Any) -> Any:
        """Return what the layer of ``torch.nn`` returns, with ``params`` in place of its own parameters."""
        module = self if params is None else with_parameters(self, params)
        return super(_MetaLayer, module).forward(*args, **kwargs)  # type: ignore[misc]


class MetaLinear(_MetaLayer, nn.Linear):
    """``nn.Linear`` whose ``forward`` takes ``params``."""


class MetaBilinear(_MetaLayer, nn.Bilinear):
    """``nn.Bilinear`` whose ``forward`` takes ``params``."""


class MetaConv1d(_MetaLayer, nn.Conv1d):
    """``nn.Conv1d`` whose ``forward`` takes ``params``."""


class MetaConv2d(_MetaLayer, nn.Conv2d):
    """``nn.Conv2d`` whose ``forward`` takes ``params``."""


class MetaConv3d(_MetaLayer, nn.Conv3d):
    """``nn.Conv3d`` whose ``forward`` takes ``params``."""


class MetaBatchNorm1d(_MetaLayer, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` whose ``forward`` takes ``params``."""


class MetaBatchNorm2d(_MetaLayer, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose ``forward`` takes ``params``."""


class MetaBatchNorm3d(_MetaLayer, nn.BatchNorm3d):
    """``nn.BatchNorm3d`` whose ``forward`` takes ``params``."""


class MetaLayerNorm(_MetaLayer, nn.LayerNorm):
    """``nn.LayerNorm`` whose ``forward`` takes ``params``."""


class MetaEmbedding(_MetaLayer, nn.Embedding):
    """``nn.Embedding`` whose ``forward`` takes ``params``."""


class MetaEmbeddingBag(_MetaLayer, nn.EmbeddingBag):
    """``nn.EmbeddingBag`` whose ``forward`` takes ``params``."""


class MetaMultiheadAttention(_MetaLayer, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` whose ``forward`` takes ``params``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        has_bias, like = self.out_proj.bias is not None, self.out_proj.weight
        adapting: Any = MetaLinear(self.embed_dim, self.embed_dim, has_bias, device=like.device, dtype=like.dtype)
        self.out_proj = adapting  # with the initial values of a linear layer, as in the original


class MetaSequential(MetaModule, nn.Sequential):
    """``nn.Sequential`` whose ``forward`` passes ``params`` on to those of its modules that are MetaModules."""

    def forward(self, input: Any, params: Mapping[str, Tensor] | None = None) -> Any:
        """Return the output of the last module."""
        for name, module in self._modules.items():
            if isinstance(module, MetaModule):
                input = module(input, params=self.get_subdict(params, name))
            else:
                assert module is not None
                input = module(input)
        return input
