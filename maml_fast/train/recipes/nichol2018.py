"""Nichol, Achiam & Schulman 2018, appendix A, and where that is silent github.com/openai/supervised-reptile.

As there: 5 tasks a step of 10 images a class, 5 minibatches of 10 by Adam without momentum, an outer step that falls
from 1 to 0, 50 inner steps in testing, rotations in training alone, strided convolutions. Not as there: what the
inner Adam remembers goes on as the mean over a step's tasks; batch norm is transductive (the paper gives both, this
is the higher one); 9 queries a class in testing where they have one.
"""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train.recipes.recipe import OMNIGLOT, Published, Recipe

RECIPES: Mapping[str, Recipe] = {
    "nichol2018-omniglot-5w1s": Recipe(
        "Nichol, Achiam & Schulman 2018",
        Published(97.68, 0.04),
        {
            **OMNIGLOT,
            "algorithm": "reptile",
            "split": "finn",
            "scale": "unit",
            "rotate": True,
            "eval_rotate": False,
            "model": "conv4-strided",
            "n_way": 5,
            "k_query": 9,
            "meta_batch_size": 5,
            "inner_lr": 1e-3,
            "inner_steps": 5,
            "inner_batch": 10,
            "meta_lr": 1.0,
            "meta_schedule": "linear",
            "iterations": 100_000,
            "eval_episodes": 200,
            "eval_inner_steps": 50,
        },
    ),
}
