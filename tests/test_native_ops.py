"""What only the native operators have: opcheck, their own argument checks, the instruction sets, no third derivative.

Deselected, visibly, where the reference runs: there is nothing here to test then.
"""

from __future__ import annotations

import pytest
import torch
from child import Child
from op_parity import ConvBlocks
from op_table import Case, tensors
from operator_arguments import GEOMETRY, operator_arguments

from maml_fast import ops
from maml_fast.native import _toolchain
from maml_fast.ops._conv_block import _task_dense

pytestmark = pytest.mark.native


@pytest.mark.parametrize("in_channels", [3, 5], ids=["thin", "thick"])
@pytest.mark.parametrize("index", [0, 1, 2], ids=["forward", "backward", "double_backward"])
def test_opcheck(index: int, in_channels: int) -> None:
    name = ("conv_block_forward", "conv_block_backward", "conv_block_double_backward")[index]
    torch.library.opcheck(getattr(torch.ops.maml_fast, name).default, operator_arguments(in_channels)[index])


def test_third_derivative_raises() -> None:
    x, weight, *_ = tensors(Case("third"), torch.float64)
    (grad,) = torch.autograd.grad(ops.conv_block(x, weight).pow(2).sum(), weight, create_graph=True)
    (second,) = torch.autograd.grad(grad.pow(2).sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no third derivative.*use_backend"):
        second.sum().backward()


def test_shared_parameters_are_not_copied() -> None:
    weight = torch.randn(3, 3, 2, 4).expand(1000, 3, 3, 2, 4)
    assert (
        torch.ops.maml_fast.conv_block_forward(torch.randn(1000, 1, 4, 4, 2), weight, None, None, None, *GEOMETRY)[0]
        .isfinite()
        .all()
    )
    assert _task_dense(weight).data_ptr() == weight.data_ptr()


MISUSE = {
    "wrong channels": ({1: torch.zeros(2, 3, 3, 2, 4, dtype=torch.float64)}, "weight"),
    "wrong dtype": ({1: torch.zeros(2, 3, 3, 3, 4)}, "dtype of x"),
    "not contiguous": ({0: torch.zeros(2, 3, 3, 8, 8, dtype=torch.float64).permute(0, 1, 3, 4, 2)}, "contiguous"),
    "too few dimensions": ({0: torch.zeros(3, 8, 8, 3, dtype=torch.float64)}, "x must be"),
    "half": ({0: torch.zeros(2, 3, 8, 8, 3, dtype=torch.float16)}, "float"),
    "stride": ({5: 0}, "stride"),
    "empty": ({0: torch.zeros(2, 0, 8, 8, 3, dtype=torch.float64)}, "empty"),
}


@pytest.mark.parametrize(("changes", "message"), MISUSE.values(), ids=MISUSE)
def test_private_operators_refuse_what_would_crash(changes: dict, message: str) -> None:
    arguments = list(operator_arguments(3)[0])
    for index, value in changes.items():
        arguments[index] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.maml_fast.conv_block_forward(*arguments)


@pytest.mark.parametrize("capability", _toolchain.instruction_sets()[1:])
def test_every_lower_instruction_set_passes_parity(capability: str) -> None:
    """In a process of its own, since the kernels are chosen once; the machine's highest set is test_ops.py's."""
    environment = {"MAML_FAST_CPU": capability}
    with Child(f"kernels for {capability}", ConvBlocks, environment=environment) as child:
        assert capability.upper() in child.call("require_parity").upper()
