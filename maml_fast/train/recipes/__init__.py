"""Named recipes, which repeat a published training, a paper to a file; and the defaults of every data set."""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train.recipes import finn2017, nichol2018, snell2017, tutorial
from maml_fast.train.recipes.recipe import Published, Recipe, Settings

__all__ = ["DEFAULTS", "RECIPES", "Published", "Recipe"]

# What differs from the defaults of TrainConfig, which are those of the embedded data set, made for two cores.
_CONV4_64: Settings = {"hidden": 64, "meta_batch_size": 32}
_LONG: Settings = {"iterations": 2000, "eval_every": 200, "eval_episodes": 200}
DEFAULTS: Mapping[str, Settings] = {
    "strokes": {},
    "omniglot": {**_CONV4_64, **_LONG},
    "random": {"iterations": 20, "eval_every": 10, "test_episodes": 100},
    "folder": {**_CONV4_64, **_LONG, "rotate": False},
}

RECIPES: Mapping[str, Recipe] = {
    **finn2017.RECIPES,
    **tutorial.RECIPES,
    **snell2017.RECIPES,
    **nichol2018.RECIPES,
}
