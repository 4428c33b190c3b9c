"""How operations of PyTorch are written as native ones; an operation that is not here has no native form."""

from maml_fast.lowering._rows import (
    arithmetic,
    images,
    losses,
    norms,
    pointwise,
    products,
    recurrent,
    reductions,
    shapes,
)
from maml_fast.lowering._rows.table import write_call

__all__ = [
    "arithmetic",
    "images",
    "losses",
    "norms",
    "pointwise",
    "products",
    "recurrent",
    "reductions",
    "shapes",
    "write_call",
]
