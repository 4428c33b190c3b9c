"""The table of operations: how each is done for all tasks at once. A new operation is one row in one of these files.

What is [N, ...] in a recording is [T, N, ...] here, and every dimension that it names is one further to the right.
"""

from maml_fast.program._operations import images, losses, norms, pointwise, products, reductions, shapes, whole  # noqa: F401
from maml_fast.program._operations.table import Call, Step, Value, bind, step_of, with_constants

__all__ = ["Call", "Step", "Value", "bind", "is_whole", "step_of", "with_constants"]

is_whole = whole.is_whole
