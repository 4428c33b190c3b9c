"""``torchmeta.modules``: modules whose ``forward`` takes the parameters to run with."""

from maml_fast.compat.torchmeta._meta_layers import (
    MetaBatchNorm1d,
    MetaBatchNorm2d,
    MetaBatchNorm3d,
    MetaBilinear,
    MetaConv1d,
    MetaConv2d,
    MetaConv3d,
    MetaEmbedding,
    MetaEmbeddingBag,
    MetaLayerNorm,
    MetaLinear,
    MetaMultiheadAttention,
    MetaSequential,
)
from maml_fast.compat.torchmeta._meta_module import MetaModule
from maml_fast.compat.torchmeta._out import missing

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
    "MetaModule",
    "MetaMultiheadAttention",
    "MetaSequential",
]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)
