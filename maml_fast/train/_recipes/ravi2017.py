"""Ravi & Larochelle 2017, section 5; settings missing there are from github.com/twitter/meta-learning-lstm.

As in the paper or the code: an LSTM of 20 units before the gates; inner gradients treated as constants; 12 updates
for 1-shot and 5 for 5-shot tasks; one episode with 15 query images per class per step; Adam at 1e-3 with the norm of
the meta-gradient clipped to 0.25; 32 filters; test episodes with 15 query images per class.

Different: batch norm uses the statistics of the batch in testing too (theirs: running statistics); the biases of the
gates start from one value instead of random values; training ends after a fixed number of episodes instead of at the
best validation accuracy.

There is no published accuracy for the Omniglot recipe. It is chosen for a CPU: 16 filters, four episodes per step,
and gates that start with a larger step.
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
