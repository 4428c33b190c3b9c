"""Nichol, Achiam & Schulman 2018, appendix A; settings missing there are from github.com/openai/supervised-reptile.

As in the paper or the code: 5 tasks per step with 10 images per class (mini-ImageNet: 15); 5 minibatches
(mini-ImageNet: 8) of 10 images with Adam without momentum; an outer step size that decays from 1 to 0; 50 inner steps
in testing; rotations only in training; on Omniglot strided convolutions.

Different: the state of the inner Adam is carried on as the mean over the tasks of a step; batch norm is transductive
(the paper reports both ways, and this one is higher); in testing all images of a class outside the support set are
queries (theirs: one image); minibatches have 10 images in testing too (theirs: 15 on 5-shot mini-ImageNet).
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train._recipes.recipe import MINI_IMAGENET, OMNIGLOT, Published, Recipe, Settings

PAPER = "Nichol, Achiam & Schulman 2018"

_REPTILE: Settings = {
    "algorithm": "reptile",
    "meta_batch_size": 5,
    "inner_lr": 1e-3,
    "inner_batch": 10,
    "eval_inner_steps": 50,
    "meta_lr": 1.0,
    "meta_schedule": "linear",
    "iterations": 100_000,
    "eval_episodes": 200,
}

_OMNIGLOT: Settings = {
    **OMNIGLOT,
    **_REPTILE,
    "split": "finn",
    "scale": "unit",
    "rotate": True,
    "eval_rotate": False,
    "model": "conv4-strided",
    "n_way": 5,
    "k_query": 9,
    "inner_steps": 5,
}

_MINI: Settings = {**MINI_IMAGENET, **_REPTILE, "inner_steps": 8}

RECIPES: Mapping[str, Recipe] = {
    "nichol2018-omniglot-5w1s": Recipe(PAPER, Published(97.68, 0.04), _OMNIGLOT),
    "nichol2018-omniglot-5w5s": Recipe(PAPER, Published(99.48, 0.06), {**_OMNIGLOT, "k_shot": 5, "k_query": 5}),
    "nichol2018-mini-imagenet-5w1s": Recipe(PAPER, Published(49.97, 0.32), {**_MINI, "k_query": 14}),
    "nichol2018-mini-imagenet-5w5s": Recipe(PAPER, Published(65.99, 0.58), {**_MINI, "k_shot": 5, "k_query": 10}),
}
