"""Programs written for earlier versions still run, and are told how to spell their arguments."""

import inspect

import pytest
import torch
from torch import nn

import maml_fast as mf


def test_arguments_by_position():
    with pytest.warns(FutureWarning, match=r"by name: inner_lr=\.\.\., inner_steps=\.\.\., order=\.\.\.") as found:
        maml = mf.MAML(nn.Linear(3, 2), 0.1, 2, 1)
    assert (maml.inner_lr, maml.inner_steps, maml.order) == (0.1, 2, 1)
    assert found[0].filename == __file__


def test_earlier_names():
    with pytest.warns(FutureWarning, match=r"by name: adapted=\.\.\., inner_optimizer=\.\.\."):
        maml = mf.MAML(nn.Linear(3, 2), adapt=["weight"], inner_optimiser="adam", inner_steps=2)
    assert (maml.adapted, maml.inner_optimizer, maml.inner_steps) == (("weight",), "adam", 2)


@pytest.mark.parametrize("names", [{"inner_lr": 0.2}, {"adapted": None, "adapt": None}], ids=["position", "name"])
def test_a_repeated_argument(names):
    with pytest.raises(TypeError, match=r"MAML got several values for (inner_lr|adapted)"):
        mf.MAML(nn.Linear(3, 2), 0.1, **names)


def test_too_many_arguments():
    with pytest.raises(TypeError, match="positional"):
        mf.MAML(nn.Linear(3, 2), 0.1, 2, 1, torch.nn.functional.mse_loss)


def test_the_signature_is_keyword_only():
    _, *others = inspect.signature(mf.MAML).parameters.values()
    assert {each.kind for each in others} == {inspect.Parameter.KEYWORD_ONLY}
