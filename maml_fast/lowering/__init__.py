"""Lowers a recorded model to what the native kernels run: a list of operations on flat buffers.

- ``_numbers`` defines the kernels' vocabulary (``csrc/core/program.h``).
- ``_views`` describes how a PyTorch tensor lies in a buffer.
- ``_writer`` appends operations, and copies an operand if an operation needs it in another memory order.
- ``_rows`` defines how each PyTorch operation is lowered.
- ``_fusing`` rewrites operations so that less is computed and stored.
- ``_lowered`` assembles the programs of a model and its loss.
"""

from maml_fast.lowering._lowered import OF_LOSS, Lowered, Scored, lower

__all__ = ["OF_LOSS", "Lowered", "Scored", "lower"]
