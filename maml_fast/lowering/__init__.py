"""A recorded model as the native kernels run it: a list of operations on flat buffers.

``numbers`` has the kernels' vocabulary (``csrc/core/program.h``). ``views`` says how a tensor of PyTorch lies in a
buffer; ``writer`` writes operations, and copies where one needs its operand in another order. ``rows`` tells how each
operation of PyTorch is written, and ``lowered`` puts a whole program together.
"""

from maml_fast.lowering._lowered import OF_LOSS, Lowered, Scored, lower

__all__ = ["OF_LOSS", "Lowered", "Scored", "lower"]
