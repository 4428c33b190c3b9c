"""Antoniou, Edwards & Storkey 2019, section 5, and where that is silent the authors' code (HowToTrainYourMAMLPytorch).

As there: max-pool convolutions, on Omniglot one query a class and images not inverted, 5 inner steps in training and
testing, batch norm's scale and shift for every step and out of the inner loop, batch statistics in testing too, the
multi-step loss for the first 10 (mini-ImageNet: 15) of 100 epochs of 500 iterations, rotations in training alone, and
on mini-ImageNet inner rates from 0.1 on and a constant outer one, which is what their configurations come to. Not as
there: Omniglot's split (theirs: 1150 classes to train on), and no ensemble of the five best checkpoints, which their
published figures come from.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train._recipes.recipe import MINI_IMAGENET, OMNIGLOT, Published, Recipe, Settings

PAPER = "Antoniou, Edwards & Storkey 2019"

_LOOP: Settings = {
    "algorithm": "maml++",
    "adapted": None,
    "head": "learned",
    "batch_norm": "per_step",
    "inner_optimizer": "sgd",
    "inner_lr": 0.1,
    "inner_steps": 5,
    "eval_inner_steps": 5,
    "order": 2,
    "first_order_iterations": 0,
    "meta_lr": 1e-3,
    "iterations": 50_000,
}

_OMNIGLOT: Settings = {
    **OMNIGLOT,
    **_LOOP,
    "multi_step_iterations": 5000,
    "meta_batch_size": 8,
    "meta_schedule": "cosine",
    "least_meta_lr": 1e-5,
    "split": "finn",
    "scale": "unit",
    "rotate": True,
    "eval_rotate": False,
    "model": "conv4",
    "k_query": 1,
    "eval_episodes": 400,
}

_MINI: Settings = {**MINI_IMAGENET, **_LOOP, "multi_step_iterations": 7500, "meta_batch_size": 2, "hidden": 48}

RECIPES: Mapping[str, Recipe] = {
    "antoniou2019-omniglot-5w1s": Recipe(PAPER, Published(99.47), {**_OMNIGLOT, "n_way": 5}),
    "antoniou2019-omniglot-20w1s": Recipe(PAPER, Published(97.65), {**_OMNIGLOT, "n_way": 20}),
    "antoniou2019-mini-imagenet-5w1s": Recipe(PAPER, Published(52.15, 0.26), _MINI),
    "antoniou2019-mini-imagenet-5w5s": Recipe(PAPER, Published(68.32, 0.44), {**_MINI, "k_shot": 5}),
}
