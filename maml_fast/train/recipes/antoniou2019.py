"""Antoniou, Edwards & Storkey 2019, section 5, and where that is silent the authors' code (HowToTrainYourMAMLPytorch).

As there: max-pool convolutions, one query a class, 5 inner steps in training and testing, batch norm's scale and shift
for every step and out of the inner loop, batch statistics in testing too, the multi-step loss for the first 10 of 100
epochs of 500 iterations, images not inverted, rotations in training alone. Not as there: the split (theirs: 1150
classes to train on), and no ensemble of the five best checkpoints, which their published figures come from.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train.recipes.recipe import OMNIGLOT, Published, Recipe, Settings

PAPER = "Antoniou, Edwards & Storkey 2019"

_COMMON: Settings = {
    **OMNIGLOT,
    "algorithm": "maml++",
    "adapt": None,
    "batch_norm": "per_step",
    "inner_optimiser": "sgd",
    "inner_lr": 0.1,
    "inner_steps": 5,
    "eval_inner_steps": 5,
    "order": 2,
    "first_order_iterations": 0,
    "multi_step_iterations": 5000,
    "meta_batch_size": 8,
    "meta_lr": 1e-3,
    "meta_schedule": "cosine",
    "least_meta_lr": 1e-5,
    "iterations": 50_000,
    "split": "finn",
    "scale": "unit",
    "rotate": True,
    "eval_rotate": False,
    "model": "conv4",
    "k_query": 1,
    "eval_episodes": 400,
}

RECIPES: Mapping[str, Recipe] = {
    "antoniou2019-omniglot-5w1s": Recipe(PAPER, Published(99.47), {**_COMMON, "n_way": 5}),
    "antoniou2019-omniglot-20w1s": Recipe(PAPER, Published(97.65), {**_COMMON, "n_way": 20}),
}
