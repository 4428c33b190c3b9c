"""Li, Zhou, Chen & Li 2017, section 5.2; settings missing there are from the recipe of Finn et al. 2017.

As in the paper: one inner step with a learned rate for every weight, and 60,000 iterations of Adam.

Different: rates start from one value instead of random values; on Omniglot the convolutions are strided as in Finn et
al.; all parameters adapt.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train._recipes.finn2017 import COMMON, MINI
from maml_fast.train._recipes.recipe import Published, Recipe, Settings, without

PAPER = "Li, Zhou, Chen & Li 2017"

_ONE_STEP: Settings = {"algorithm": "meta-sgd", "adapted": None, "inner_steps": 1, "eval_inner_steps": 1}
_OMNIGLOT: Settings = {**without("learn_inner_lr", COMMON), **_ONE_STEP, "inner_lr": 0.5}
_MINI: Settings = {**without("learn_inner_lr", MINI), **_ONE_STEP}

RECIPES: Mapping[str, Recipe] = {
    "li2017-omniglot-5w1s": Recipe(PAPER, Published(99.53, 0.26), {**_OMNIGLOT, "n_way": 5, "meta_batch_size": 32}),
    "li2017-omniglot-20w1s": Recipe(PAPER, Published(95.93, 0.38), {**_OMNIGLOT, "n_way": 20, "meta_batch_size": 16}),
    "li2017-mini-imagenet-5w1s": Recipe(PAPER, Published(50.47, 1.87), _MINI),
    "li2017-mini-imagenet-5w5s": Recipe(PAPER, Published(64.03, 0.94), {**_MINI, "k_shot": 5}),
}
