"""Finn, Abbeel & Levine 2017, appendix A.1, and where that is silent github.com/cbfinn/maml.

As there: one query a class in training and in testing, test episodes turned like training episodes, batch norm's
shift meta-learned but left out of the inner loop, the net's own initial values (models.Conv4). His inner loss adds up
the classes and ours is their mean, so his step sizes 0.4 (5-way) and 0.1 (20-way) are both 2.0 here. Not as there:
images are shrunk by Pillow's bicubic filter (his: Lanczos), the split is shuffled from the same seed by another
generator (his order of classes hangs on his file system), and strided convolutions pad all sides alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train.recipes.recipe import MAML_LOOP, OMNIGLOT, Published, Recipe, Settings

PAPER = "Finn, Abbeel & Levine 2017"

_COMMON: Settings = {
    **OMNIGLOT,
    **MAML_LOOP,
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

RECIPES: Mapping[str, Recipe] = {
    "finn2017-omniglot-5w1s": Recipe(
        PAPER,
        Published(98.7, 0.4),
        {**_COMMON, "n_way": 5, "meta_batch_size": 32, "inner_steps": 1, "eval_inner_steps": 3},
    ),
    "finn2017-omniglot-20w1s": Recipe(
        PAPER,
        Published(95.8, 0.3),
        {**_COMMON, "n_way": 20, "meta_batch_size": 16, "inner_steps": 5, "eval_inner_steps": 5},
    ),
}
