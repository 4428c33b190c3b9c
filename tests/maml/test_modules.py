"""Whatever the module: MAML over it is the plain loop over tasks, at second order, fused or not."""

from __future__ import annotations

import pytest
import torch
from fuse_zoo import CASES, OVERWRITES_ITS_INPUT
from oracles import assert_follows_loop
from zoo_episodes import episodes_like, wavy

from maml_fast.maml import MAML

SINGLE_INPUT = [case for case in CASES if len(case.shapes) == 1 and case.name != OVERWRITES_ITS_INPUT]


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("case", SINGLE_INPUT, ids=str)
def test_zoo(case, fused):
    torch.manual_seed(0)
    model = case.build().double().eval()  # batch norm must not care
    maml = MAML(model, inner_lr=0.1, inner_steps=2, loss_fn=wavy, fused=fused)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert_follows_loop(model, maml, episodes_like(case.shapes[0]), wavy)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
