"""Finn, Abbeel & Levine 2017, appendix A.1, and where that is silent github.com/cbfinn/maml.

As there: on Omniglot as many queries a class as support images, and test episodes turned like training episodes; batch
norm's shift meta-learned but left out of the inner loop, the net's own initial values (models.Conv4). His inner loss
adds up the classes and ours is their mean, so his step sizes 0.4 (5-way) and 0.1 (20-way) are both 2.0 here, and his
0.01 on mini-ImageNet 0.05. Not as there: images are shrunk by Pillow's bicubic filter (his: Lanczos), Omniglot's split
is shuffled from the same seed by another generator (his order of classes hangs on his file system), strided
convolutions pad all sides alike, and on mini-ImageNet a class has 15 queries in testing too (his: as many as support
images). The first-order figures on Omniglot are those that Nichol, Achiam & Schulman 2018 report.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train._recipes.recipe import MAML_LOOP, MINI_IMAGENET, OMNIGLOT, Published, Recipe, Settings, without

__all__ = ["COMMON", "MINI", "RECIPES"]

PAPER = "Finn, Abbeel & Levine 2017"

_LOOP: Settings = {**MAML_LOOP, "adapted": "features.*.conv.*,classifier", "order": 2, "meta_lr": 1e-3}

COMMON: Settings = {
    **OMNIGLOT,
    **_LOOP,
    "split": "finn",
    "scale": "inverted",
    "rotate": True,
    "eval_rotate": True,
    "model": "conv4-strided",
    "k_query": 1,
    "inner_lr": 2.0,
    "eval_episodes": 400,
}

_5_WAY: Settings = {**COMMON, "n_way": 5, "meta_batch_size": 32, "inner_steps": 1, "eval_inner_steps": 3}
_20_WAY: Settings = {**COMMON, "n_way": 20, "meta_batch_size": 16, "inner_steps": 5, "eval_inner_steps": 5}
_5_SHOT: Settings = {"k_shot": 5, "k_query": 5}

MINI: Settings = {
    **MINI_IMAGENET,
    **_LOOP,
    "meta_batch_size": 4,
    "inner_lr": 0.05,
    "inner_steps": 5,
    "eval_inner_steps": 10,
    "clip_value": 10.0,
}
_MINI_5_SHOT: Settings = {**MINI, "k_shot": 5, "meta_batch_size": 2}


def _first_order(settings: Settings) -> Settings:
    return {**without("order first_order_iterations", settings), "algorithm": "fomaml"}


RECIPES: Mapping[str, Recipe] = {
    "finn2017-omniglot-5w1s": Recipe(PAPER, Published(98.7, 0.4), _5_WAY),
    "finn2017-omniglot-5w5s": Recipe(PAPER, Published(99.9, 0.1), {**_5_WAY, **_5_SHOT}),
    "finn2017-omniglot-20w1s": Recipe(PAPER, Published(95.8, 0.3), _20_WAY),
    "finn2017-omniglot-20w5s": Recipe(PAPER, Published(98.9, 0.2), {**_20_WAY, **_5_SHOT}),
    "finn2017-omniglot-5w1s-first-order": Recipe(PAPER, Published(98.3, 0.5), _first_order(_5_WAY)),
    "finn2017-omniglot-20w1s-first-order": Recipe(PAPER, Published(89.4, 0.5), _first_order(_20_WAY)),
    "finn2017-mini-imagenet-5w1s": Recipe(PAPER, Published(48.70, 1.84), MINI),
    "finn2017-mini-imagenet-5w5s": Recipe(PAPER, Published(63.11, 0.92), _MINI_5_SHOT),
    "finn2017-mini-imagenet-5w1s-first-order": Recipe(PAPER, Published(48.07, 1.75), _first_order(MINI)),
    "finn2017-mini-imagenet-5w5s-first-order": Recipe(PAPER, Published(63.15, 0.91), _first_order(_MINI_5_SHOT)),
}
