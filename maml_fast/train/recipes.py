"""Named recipes, which repeat a published training, and the defaults of every data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["DEFAULTS", "RECIPES"]

Settings = Mapping[str, Any]

# What differs from the defaults of TrainConfig, which are those of the embedded data set, made for two cores.
_CONV4_64: Settings = {"hidden": 64, "meta_batch_size": 32}
_LONG: Settings = {"iterations": 2000, "eval_every": 200, "eval_episodes": 200}
# Finn, Abbeel & Levine 2017, appendix A.1, for 1-shot mini-ImageNet, but for the number of iterations. His inner loss
# adds up the five classes and ours is their mean, so his step size 0.01 is 0.05 here. Good enough to start from on the
# others.
_COLOUR: Settings = {
    **_LONG,
    "channels": "RGB",
    "meta_batch_size": 4,
    "inner_lr": 0.05,
    "inner_steps": 5,
    "eval_inner_steps": 10,
    "meta_lr": 1e-3,
    "scale": "unit",
    "rotate": False,
}
_COLOUR_84: Settings = {**_COLOUR, "image_size": 84}
_COLOUR_32: Settings = {**_COLOUR, "image_size": 32}
DEFAULTS: Mapping[str, Settings] = {
    "strokes": {},
    "omniglot": {**_CONV4_64, **_LONG},
    "random": {"iterations": 20, "eval_every": 10, "test_episodes": 100},
    "folder": {**_CONV4_64, **_LONG, "rotate": False},
    "mini-imagenet": _COLOUR_84,
    "tiered-imagenet": _COLOUR_84,
    "cub": _COLOUR_84,
    "cifar-fs": _COLOUR_32,
    "fc100": _COLOUR_32,
}

# A recipe leaves no number to a default, so that it stays what it is when a default changes.
_OMNIGLOT: Settings = {
    "dataset": "omniglot",
    "image_size": 28,
    "channels": None,
    "k_shot": 1,
    "hidden": 64,
    "learn_inner_lr": False,
    "iterations": 60_000,
    "seed": 0,
    "eval_every": 2000,  # an evaluation costs as much as 10 to 40 iterations
    "test_episodes": 600,
}

# Finn, Abbeel & Levine 2017, appendix A.1, and where that is silent github.com/cbfinn/maml. As there: one query a class
# in training and in testing, test episodes turned like training episodes, batch norm's shift meta-learned but left out
# of the inner loop, the net's own initial values (models.Conv4). His inner loss adds up the classes and ours is their
# mean, so his step sizes 0.4 (5-way) and 0.1 (20-way) are both 2.0 here. Not as there: images are shrunk by Pillow's
# bicubic filter (his: Lanczos), the split is shuffled from the same seed by another generator (his order of classes
# hangs on his file system), and strided convolutions pad all sides alike.
_FINN_2017: Settings = {
    **_OMNIGLOT,
    "split": "finn",
    "scale": "inverted",
    "rotate": True,
    "eval_rotate": True,
    "model": "conv4-strided",
    "adapt": "features.*.conv.*,classifier",
    "k_query": 1,
    "order": 2,
    "inner_lr": 2.0,
    "meta_lr": 1e-3,
    "eval_episodes": 400,
}

RECIPES: Mapping[str, Settings] = {
    "finn2017-omniglot-5w1s": {
        **_FINN_2017,
        "n_way": 5,
        "meta_batch_size": 32,
        "inner_steps": 1,
        "eval_inner_steps": 3,
    },
    "finn2017-omniglot-20w1s": {
        **_FINN_2017,
        "n_way": 20,
        "meta_batch_size": 16,
        "inner_steps": 5,
        "eval_inner_steps": 5,
    },
    # The tutorial that compat.MetaLearner stands in for: bytes as they are, first order, no rotations.
    "tutorial-omniglot-5w1s": {
        **_OMNIGLOT,
        "split": "tutorial",
        "scale": "raw",
        "rotate": False,
        "eval_rotate": False,
        "model": "tutorial",
        "adapt": None,
        "n_way": 5,
        "k_query": 15,
        "meta_batch_size": 8,
        "inner_lr": 0.04,
        "inner_steps": 5,
        "order": 1,
        "meta_lr": 2e-4,
        "eval_episodes": 200,
        "eval_inner_steps": 5,
    },
}
