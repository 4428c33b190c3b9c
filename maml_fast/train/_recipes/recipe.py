"""The type of a recipe, and the settings that recipes on the same data set share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from maml_fast.program._batch_norm import BATCH_NORM_POLICIES

__all__ = ["MAML_LOOP", "MINI_IMAGENET", "OMNIGLOT", "Published", "Recipe", "Settings", "without"]

Settings = Mapping[str, Any]


class Published(NamedTuple):
    """An accuracy in percent and the half-width of its 95 % interval; None if the paper gives no interval."""

    accuracy: float
    interval: float | None = None

    def __str__(self) -> str:
        return f"{self.accuracy} %" if self.interval is None else f"{self.accuracy} ± {self.interval} %"


class Recipe(NamedTuple):
    """A published training: every argument that affects results, and the published accuracy.

    It sets all of these arguments itself, so that it does not change when a default changes.
    """

    paper: str
    published: Published | None
    settings: Settings

    @property
    def given(self) -> dict[str, str]:
        """Conditions that no setting states: they are the same for all recipes, or follow from the algorithm."""
        return {
            "loss": "mean cross-entropy, of the inner and the outer loop",
            "resize filter": "Pillow's bicubic",
            "batch norm": BATCH_NORM_POLICIES[self.settings.get("batch_norm", "batch")],
        }


_ANY: Settings = {
    "k_shot": 1,
    "iterations": 60_000,
    "seed": 0,
    "eval_every": 2000,  # an evaluation costs as much as 10 to 40 iterations
    "test_episodes": 600,
    "eval_n_way": None,
    "crop_padding": 0,
    "flip": False,
    "color_jitter": 0.0,
    "meta_schedule": "constant",
    "least_meta_lr": 0.0,
    "clip_value": None,
    "clip_norm": None,
}

OMNIGLOT: Settings = {**_ANY, "dataset": "omniglot", "image_size": 28, "channels": None, "hidden": 64}

MINI_IMAGENET: Settings = {
    **_ANY,
    "dataset": "mini-imagenet",
    "split": None,
    "image_size": 84,
    "channels": "RGB",
    "scale": "unit",
    "rotate": False,
    "eval_rotate": False,
    "model": "conv4",
    "hidden": 32,
    "n_way": 5,
    "k_query": 15,
    "eval_episodes": 200,
}

# Settings for MAML and its variants.
MAML_LOOP: Settings = {
    "algorithm": "maml",
    "learn_inner_lr": False,
    "inner_optimizer": "sgd",
    "head": "learned",
    "batch_norm": "batch",
    "first_order_iterations": 0,
    "multi_step_iterations": 0,
}


def without(names: str, settings: Settings) -> Settings:
    """Return the settings except ``names``, separated by spaces, which another algorithm does not use."""
    return {name: value for name, value in settings.items() if name not in names.split()}
