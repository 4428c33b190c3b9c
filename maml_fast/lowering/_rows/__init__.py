"""The table of lowerings from PyTorch operations to native ones; an operation without a row has no native form."""

from maml_fast.lowering._rows import (
    arithmetic,
    draws,
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
    "draws",
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
