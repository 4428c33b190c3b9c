"""What a recipe is, and what those on one data set have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from maml_fast.program._batch_norm import BATCH_NORM_POLICIES

__all__ = ["MAML_LOOP", "MINI_IMAGENET", "OMNIGLOT", "Published", "Recipe", "Settings", "without"]

Settings = Mapping[str, Any]


class Published(NamedTuple):
    """An accuracy in per cent and the half-width of its 95 % interval, None where the paper gives none."""

    accuracy: float
    interval: float | None = None

    def __str__(self) -> str:
        return f"{self.accuracy} %" if self.interval is None else f"{self.accuracy} ± {self.interval} %"


class Recipe(NamedTuple):
    """A published training: every argument that changes a number, and what came of it there.

    It leaves no number to a default, so that it stays what it is when a default changes.
    """

    paper: str
    published: Published | None
    settings: Settings

    @property
    def given(self) -> dict[str, str]:
        """What no setting says, because it is the same in every training here, or follows from the algorithm."""
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

# For MAML and its family.
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
    """The settings but these, with spaces between, which mean nothing to another algorithm."""
    return {name: value for name, value in settings.items() if name not in names.split()}
