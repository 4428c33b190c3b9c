"""Snell, Swersky & Zemel 2017, section 3; settings missing there are from github.com/jakesnell/prototypical-networks.

As in the paper or the code: on Omniglot 60-way training episodes with 5 query images per class, and the split of
Vinyals et al. with its rotations; on mini-ImageNet 30-way (1-shot) or 20-way (5-shot) training episodes with 15 query
images per class; one episode per step; squared Euclidean distance; Adam with a rate that is halved every 2000
episodes.

Different: batch norm uses the statistics of the episode in testing too (theirs: running statistics); training ends
after a fixed number of episodes instead of when validation stops improving.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train._recipes.recipe import MINI_IMAGENET, OMNIGLOT, Published, Recipe, Settings

PAPER = "Snell, Swersky & Zemel 2017"

_PROTOTYPES: Settings = {
    "algorithm": "protonet",
    "distance": "euclidean",
    "meta_batch_size": 1,
    "meta_lr": 1e-3,
    "meta_schedule": "halving",
    "iterations": 20_000,
    "eval_inner_steps": 0,
}

_OMNIGLOT: Settings = {
    **OMNIGLOT,
    **_PROTOTYPES,
    "split": "vinyals",
    "scale": "inverted",
    "rotate": True,
    "eval_rotate": True,
    "model": "conv4",
    "n_way": 60,
    "k_query": 5,
    "eval_episodes": 400,
    "test_episodes": 1000,
}

_MINI: Settings = {**MINI_IMAGENET, **_PROTOTYPES, "hidden": 64, "eval_n_way": 5}

RECIPES: Mapping[str, Recipe] = {
    "snell2017-omniglot-5w1s": Recipe(PAPER, Published(98.8), {**_OMNIGLOT, "eval_n_way": 5}),
    "snell2017-omniglot-20w1s": Recipe(PAPER, Published(96.0), {**_OMNIGLOT, "eval_n_way": 20}),
    "snell2017-omniglot-5w5s": Recipe(PAPER, Published(99.7), {**_OMNIGLOT, "k_shot": 5, "eval_n_way": 5}),
    "snell2017-omniglot-20w5s": Recipe(PAPER, Published(98.9), {**_OMNIGLOT, "k_shot": 5, "eval_n_way": 20}),
    "snell2017-mini-imagenet-5w1s": Recipe(PAPER, Published(49.42, 0.78), {**_MINI, "n_way": 30}),
    "snell2017-mini-imagenet-5w5s": Recipe(PAPER, Published(68.20, 0.66), {**_MINI, "n_way": 20, "k_shot": 5}),
}
