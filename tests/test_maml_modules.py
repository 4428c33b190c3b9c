"""Whatever the module: MAML over it is the plain loop over tasks, at second order, fused or not."""

from __future__ import annotations

import warnings

import pytest
import torch
from fuse_zoo import CASES
from oracles import assert_follows_loop

from maml_fast.maml import MAML

OVERWRITES_ITS_INPUT = "RCBPR {'inplace': True}"  # nothing that sees the same images twice can be made with it
SINGLE_INPUT = [case for case in CASES if len(case.shapes) == 1 and case.name != OVERWRITES_ITS_INPUT]


def wavy(outputs, targets):
    """A loss of outputs of any shape, that batch norm does not make constant."""
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view(outputs.shape)
    return (torch.sin(outputs) * weights).mean() + 0 * targets.sum()


def episodes_like(shape, n_tasks=2):
    torch.manual_seed(1)
    x_spt, x_qry = (torch.rand(n_tasks, *shape, dtype=torch.float64) for _ in range(2))
    y = torch.zeros(n_tasks, shape[0], dtype=torch.float64)
    return x_spt, y, x_qry, y


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("case", SINGLE_INPUT, ids=str)
def test_zoo(case, fused):
    torch.manual_seed(0)
    model = case.build().double().eval()  # batch norm must not care
    maml = MAML(model, inner_lr=0.1, inner_steps=2, loss_fn=wavy, fused=fused)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*task by task")
        assert_follows_loop(model, maml, episodes_like(case.shapes[0]), wavy)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
