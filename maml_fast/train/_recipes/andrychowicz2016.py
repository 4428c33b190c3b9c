"""Andrychowicz et al. 2016 (section 2 and appendix A): their learned optimizer, applied to few-shot learning.

As in the paper: two LSTM layers of 20 units, updates scaled by 0.1, inner gradients treated as constants, and the
loss along the whole trajectory.

Different from the paper: the task is few-shot learning, with 5 steps on a support set and a loss on a query set, and
the initial weights are meta-learned too. All other settings are chosen for a CPU. There is no published accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train._recipes.recipe import OMNIGLOT, Recipe, Settings

__all__ = ["FOR_A_CPU", "RECIPES"]

# Settings for learned optimizers that train on a CPU.
FOR_A_CPU: Settings = {
    **OMNIGLOT,
    "adapted": None,
    "head": "learned",
    "batch_norm": "batch",
    "order": 1,
    "split": "vinyals",
    "scale": "inverted",
    "rotate": True,
    "eval_rotate": False,
    "model": "conv4",
    "hidden": 16,
    "n_way": 5,
    "k_query": 5,
    "inner_steps": 5,
    "eval_inner_steps": 5,
    "meta_batch_size": 4,
    "meta_schedule": "cosine",
    "eval_every": 500,
    "eval_episodes": 200,
}
_OMNIGLOT: Settings = {
    **FOR_A_CPU,
    "algorithm": "learned-optimizer",
    "inner_lr": 0.1,
    "meta_lr": 3e-3,
    "iterations": 4000,
}

RECIPES: Mapping[str, Recipe] = {
    "andrychowicz2016-omniglot-5w1s": Recipe("Andrychowicz et al. 2016", None, _OMNIGLOT),
}
