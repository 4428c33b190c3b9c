"""Recipes that repeat published trainings, one file per paper, and the default arguments of every data set."""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train._recipes import (
    andrychowicz2016,
    antoniou2019,
    finn2017,
    li2017,
    nichol2018,
    raghu2020,
    ravi2017,
    snell2017,
    tutorial,
)
from maml_fast.train._recipes.recipe import Published, Recipe, Settings

__all__ = ["DEFAULTS", "RECIPES", "Published", "Recipe"]

# Differences from the defaults of TrainConfig, which are for the embedded data set and two cores.
_CONV4_64: Settings = {"hidden": 64, "meta_batch_size": 32}
_LONG: Settings = {"iterations": 2000, "eval_every": 200, "eval_episodes": 200}
# Finn, Abbeel & Levine 2017, appendix A.1, for 1-shot mini-ImageNet, except for the number of iterations. Their inner
# loss is the sum over the five classes and ours is the mean, so their step size of 0.01 is 0.05 here. They are a
# good enough start for the other data sets in color.
_COLOR: Settings = {
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
_COLOR_84: Settings = {**_COLOR, "image_size": 84}
_COLOR_32: Settings = {**_COLOR, "image_size": 32}
DEFAULTS: Mapping[str, Settings] = {
    "strokes": {},
    "glyphs": {"k_query": 5, "rotate": False},  # at least 12 images per character
    "omniglot": {**_CONV4_64, **_LONG},
    "random": {"iterations": 20, "eval_every": 10, "test_episodes": 100},
    "folder": {**_CONV4_64, **_LONG, "rotate": False},
    "mini-imagenet": _COLOR_84,
    "tiered-imagenet": _COLOR_84,
    "cub": _COLOR_84,
    "cifar-fs": _COLOR_32,
    "fc100": _COLOR_32,
}

RECIPES: Mapping[str, Recipe] = {
    **finn2017.RECIPES,
    **tutorial.RECIPES,
    **snell2017.RECIPES,
    **nichol2018.RECIPES,
    **raghu2020.RECIPES,
    **li2017.RECIPES,
    **andrychowicz2016.RECIPES,
    **ravi2017.RECIPES,
    **antoniou2019.RECIPES,
}
