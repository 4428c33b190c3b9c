"""Finn, Abbeel & Levine 2017, appendix A.1, and where that is silent github.com/cbfinn/maml.

As there: one query a class in training and in testing, test episodes turned like training episodes, batch norm's
shift meta-learned but left out of the inner loop, the net's own initial values (models.Conv4). The first-order figures
are those that Nichol, Achiam & Schulman 2018 measured with his code. His inner loss adds up
the classes and ours is their mean, so his step sizes 0.4 (5-way) and 0.1 (20-way) are both 2.0 here. Not as there:
images are shrunk by Pillow's bicubic filter (his: Lanczos), the split is shuffled from the same seed by another
generator (his order of classes hangs on his file system), and strided convolutions pad all sides alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train.recipes.recipe import MAML_LOOP, OMNIGLOT, Published, Recipe, Settings, without

__all__ = ["COMMON", "RECIPES"]

PAPER = "Finn, Abbeel & Levine 2017"

COMMON: Settings = {
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

_5_WAY: Settings = {**COMMON, "n_way": 5, "meta_batch_size": 32, "inner_steps": 1, "eval_inner_steps": 3}
_20_WAY: Settings = {**COMMON, "n_way": 20, "meta_batch_size": 16, "inner_steps": 5, "eval_inner_steps": 5}


def _first_order(settings: Settings) -> Settings:
    return {**without("order first_order_iterations", settings), "algorithm": "fomaml"}


RECIPES: Mapping[str, Recipe] = {
    "finn2017-omniglot-5w1s": Recipe(PAPER, Published(98.7, 0.4), _5_WAY),
    "finn2017-omniglot-20w1s": Recipe(PAPER, Published(95.8, 0.3), _20_WAY),
    "finn2017-omniglot-5w1s-first-order": Recipe(PAPER, Published(98.3, 0.5), _first_order(_5_WAY)),
    "finn2017-omniglot-20w1s-first-order": Recipe(PAPER, Published(89.4, 0.5), _first_order(_20_WAY)),
}
