"""Raghu, Raghu, Bengio & Vinyals 2020: only the head adapts. Other settings are those of their baseline, Finn et al.

On Omniglot the paper reports 20-way accuracies. There is no published accuracy for the 5-way recipe.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train._recipes import finn2017
from maml_fast.train._recipes.recipe import Published, Recipe, Settings, without

PAPER = "Raghu, Raghu, Bengio & Vinyals 2020"


def _anil(finns: str) -> Settings:
    return {**without("adapted", finn2017.RECIPES[finns].settings), "algorithm": "anil"}


RECIPES: Mapping[str, Recipe] = {
    "raghu2020-omniglot-5w1s": Recipe(PAPER, None, _anil("finn2017-omniglot-5w1s")),
    "raghu2020-omniglot-20w1s": Recipe(PAPER, Published(96.2, 0.5), _anil("finn2017-omniglot-20w1s")),
    "raghu2020-omniglot-20w5s": Recipe(PAPER, Published(98.0, 0.3), _anil("finn2017-omniglot-20w5s")),
    "raghu2020-mini-imagenet-5w1s": Recipe(PAPER, Published(46.7, 0.4), _anil("finn2017-mini-imagenet-5w1s")),
    "raghu2020-mini-imagenet-5w5s": Recipe(PAPER, Published(61.5, 0.5), _anil("finn2017-mini-imagenet-5w5s")),
}
