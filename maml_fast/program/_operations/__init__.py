"""The table of operations: how each one runs for all tasks at once. A new operation is one row in one of these files.

A tensor that is [N, ...] in a recording is [T, N, ...] here, and every non-negative dimension index grows by one.
"""

from maml_fast.program._operations import images, losses, norms, pointwise, products, reductions, shapes, whole  # noqa: F401
from maml_fast.program._operations.table import Call, Step, Value, bind, step_of, with_constants

__all__ = ["Call", "Step", "Value", "bind", "is_recorded_as_one", "step_of", "with_constants"]

is_recorded_as_one = whole.is_recorded_as_one
