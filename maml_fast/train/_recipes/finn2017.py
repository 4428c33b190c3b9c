"""Finn, Abbeel & Levine 2017, appendix A.1; settings missing there are from github.com/cbfinn/maml.

As in the paper or the code: on Omniglot as many query images per class as support images, and test episodes rotated
like training episodes; a shift of batch norm that is meta-learned but not adapted by the inner loop; the
initialization of the network (models.Conv4). Their inner loss is the sum over the classes and ours is the mean, so
their step sizes of 0.4 (5-way) and 0.1 (20-way) are both 2.0 here, and their 0.01 on mini-ImageNet is 0.05.

Different: images are shrunk with Pillow's bicubic filter (theirs: Lanczos); the split of Omniglot is shuffled from
the same seed by another generator (their order of classes depends on the file system); strided convolutions pad all
sides equally; on mini-ImageNet a class has 15 query images in testing too (theirs: as many as support images).

The first-order accuracies on Omniglot are those that Nichol, Achiam & Schulman 2018 report.
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
