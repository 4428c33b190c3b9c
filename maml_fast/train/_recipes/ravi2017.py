"""Ravi & Larochelle 2017, section 5, and where that is silent github.com/twitter/meta-learning-lstm.

As there: an LSTM of 20 units before the gates, inner gradients as constants, 12 updates for one shot and 5 for five,
one episode of 15 queries a class a step, Adam at 1e-3 with the meta-gradient's norm held to 0.25, 32 filters, test
episodes of 15 queries. Not as there: batch norm takes the batch's own statistics in testing too (theirs: running
statistics), the gates' biases begin at one value and not at a random one, and training ends after so many episodes,
not at the best validation.

The Omniglot sibling has no published figure. It is made for a CPU: 16 filters, four episodes a step, and gates that
begin at a larger step.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train._recipes.andrychowicz2016 import FOR_A_CPU
from maml_fast.train._recipes.recipe import MINI_IMAGENET, Published, Recipe, Settings

PAPER = "Ravi & Larochelle 2017"

_LSTM: Settings = {"algorithm": "meta-lstm", "adapted": None, "head": "learned", "batch_norm": "batch", "order": 1}

_MINI: Settings = {
    **MINI_IMAGENET,
    **_LSTM,
    "inner_lr": 0.01,
    "meta_batch_size": 1,
    "meta_lr": 1e-3,
    "clip_norm": 0.25,
}
_1_SHOT: Settings = {"k_shot": 1, "inner_steps": 12, "eval_inner_steps": 12, "iterations": 75_000}
_5_SHOT: Settings = {"k_shot": 5, "inner_steps": 5, "eval_inner_steps": 5, "iterations": 50_000}

_OMNIGLOT: Settings = {**FOR_A_CPU, **_LSTM, "inner_lr": 0.3, "meta_lr": 5e-3, "iterations": 8000}

RECIPES: Mapping[str, Recipe] = {
    "ravi2017-mini-imagenet-5w1s": Recipe(PAPER, Published(43.44, 0.77), {**_MINI, **_1_SHOT}),
    "ravi2017-mini-imagenet-5w5s": Recipe(PAPER, Published(60.60, 0.71), {**_MINI, **_5_SHOT}),
    "ravi2017-omniglot-5w1s": Recipe(PAPER, None, _OMNIGLOT),
}
