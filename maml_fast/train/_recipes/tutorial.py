"""The tutorial that compat.MetaLearner is a drop-in replacement for: pixels from 0 to 255, order 1, no rotations."""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.train._recipes.recipe import MAML_LOOP, OMNIGLOT, Recipe

RECIPES: Mapping[str, Recipe] = {
    "tutorial-omniglot-5w1s": Recipe(
        "a widely copied tutorial",
        None,
        {
            **OMNIGLOT,
            **MAML_LOOP,
            "split": "tutorial",
            "scale": "raw",
            "rotate": False,
            "eval_rotate": False,
            "model": "tutorial",
            "adapted": None,
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
    ),
}
