"""Antoniou, Edwards & Storkey 2019, section 5; settings missing there are from the authors' HowToTrainYourMAMLPytorch.

As in the paper or the code: max-pooling after convolutions; on Omniglot one query image per class and images that are
not inverted; 5 inner steps in training and testing; scale and shift of batch norm per inner step and not adapted by
the inner loop; batch statistics also in testing; the multi-step loss in the first 10 (mini-ImageNet: 15) of 100
epochs of 500 iterations; rotations only in training; on mini-ImageNet inner rates that start from 0.1 and a constant
outer rate, which is the effect of their configurations.

Different: the split of Omniglot (theirs has 1150 training classes), and no ensemble of the five best checkpoints,
with which their published accuracies were obtained.
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
