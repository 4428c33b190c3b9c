"""Li, Zhou, Chen & Li 2017, section 5.2, and where that is silent Finn's recipe.

As there: one inner step with a learned rate for every weight, 60,000 iterations of Adam. Not as there: rates start at
one value and not at random ones, convolutions are Finn's strided ones, all of whose parameters adapt.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train.recipes.finn2017 import COMMON
from maml_fast.train.recipes.recipe import Published, Recipe, Settings, without

PAPER = "Li, Zhou, Chen & Li 2017"

_COMMON: Settings = {
    **without("learn_inner_lr", COMMON),
    "algorithm": "meta-sgd",
    "adapt": None,
    "inner_lr": 0.5,
    "inner_steps": 1,
    "eval_inner_steps": 1,
}

RECIPES: Mapping[str, Recipe] = {
    "li2017-omniglot-5w1s": Recipe(PAPER, Published(99.53, 0.26), {**_COMMON, "n_way": 5, "meta_batch_size": 32}),
    "li2017-omniglot-20w1s": Recipe(PAPER, Published(95.93, 0.38), {**_COMMON, "n_way": 20, "meta_batch_size": 16}),
}
