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
