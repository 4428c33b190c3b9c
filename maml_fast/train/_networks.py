"""The networks that a run can train, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from maml_fast import models
from maml_fast.algorithms import ALGORITHMS

if TYPE_CHECKING:
    from maml_fast.train._config import TrainConfig

__all__ = ["NETWORKS", "make_model"]

ModelMaker = Callable[["TrainConfig", tuple[int, int, int]], nn.Module]


def _make_conv4(strided: bool) -> ModelMaker:
    def make(config: TrainConfig, image_shape: tuple[int, int, int]) -> nn.Module:
        channels, height, width = image_shape
        if height != width:
            raise ValueError(f"model conv4 takes square images, got {height} x {width}; resize the data set")
        n_way = None if ALGORITHMS[config.algorithm].embeds else config.n_way
        return models.Conv4(n_way, in_channels=channels, hidden=config.hidden, image_size=height, strided=strided)

    return make


def _make_tutorial(config: TrainConfig, image_shape: tuple[int, int, int]) -> nn.Module:
    if image_shape[1:] != (28, 28):
        raise ValueError(f"model tutorial takes images of 28 x 28, got {image_shape[1]} x {image_shape[2]}; use conv4")
    if ALGORITHMS[config.algorithm].embeds:
        raise ValueError(
            f"model tutorial has a classifier, which algorithm {config.algorithm} has no use for; use conv4"
        )
    return models.TutorialNet(config.n_way, in_channels=image_shape[0])


NETWORKS: Mapping[str, ModelMaker] = {
    "conv4": _make_conv4(strided=False),
    "conv4-strided": _make_conv4(strided=True),
    "tutorial": _make_tutorial,
}


def make_model(config: TrainConfig, image_shape: tuple[int, int, int]) -> nn.Module:
    """The model that `config` names, with the initial weights of its seed; torch's own generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return NETWORKS[config.model](config, image_shape)
