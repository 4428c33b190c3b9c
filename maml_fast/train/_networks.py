"""The networks that a run can train: those with a name here, and any class of the user's own."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maml_fast import models
from maml_fast._arguments import shown, text
from maml_fast.algorithms import ALGORITHMS

if TYPE_CHECKING:
    from maml_fast.train._config import TrainConfig

__all__ = ["NETWORKS", "make_model", "network_name", "title_of_network"]

ModelMaker = Callable[["TrainConfig", tuple[int, int, int]], nn.Module]


def _make_conv4(strided: bool) -> ModelMaker:
    def make(config: TrainConfig, image_shape: tuple[int, int, int]) -> nn.Module:
        channels, side = _square("conv4", image_shape)
        return models.Conv4(
            _n_way(config), in_channels=channels, hidden=config.hidden, image_size=side, strided=strided
        )

    return make


def _make_resnet12(config: TrainConfig, image_shape: tuple[int, int, int]) -> nn.Module:
    channels, side = _square("resnet12", image_shape)
    widths = [round(factor * config.hidden) for factor in (1, 2.5, 5, 10)]
    return models.ResNet12(_n_way(config), in_channels=channels, widths=widths, image_size=side)


def _square(model: str, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return channels and side of square images."""
    channels, height, width = image_shape
    if height != width:
        raise ValueError(f"model {model} takes square images, got {height} x {width}; resize the data set")
    return channels, height


def _n_way(config: TrainConfig) -> int | None:
    """Return the number of the classifier's classes; ``None`` if the algorithm has no classifier."""
    return None if ALGORITHMS[config.algorithm].embeds else config.n_way


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
    "resnet12": _make_resnet12,
    "tutorial": _make_tutorial,
}


def network_name(name: str, value: Any) -> str:
    """Check a network's name, or where a class is: ``package.module:Class`` or ``file.py:Class``.

    A file's path becomes absolute, so that the run can be resumed from another folder.
    """
    value = text(name, value)
    if value in NETWORKS:
        return value
    place, colon, class_name = value.rpartition(":")
    if not (colon and place and class_name.isidentifier()):
        raise ValueError(
            f"{name} must be one of {', '.join(NETWORKS)}, or a class of your own as package.module:Class or "
            f"file.py:Class; got {shown(value)}"
        )
    return f"{os.path.abspath(os.path.expanduser(place))}:{class_name}" if place.endswith(".py") else value


def title_of_network(name: str) -> str:
    """The network's name, or the class's, without its folder."""
    return name.rpartition(":")[2]


def make_model(config: TrainConfig, image_shape: tuple[int, int, int]) -> nn.Module:
    """Build the model that ``config`` names, with the initial weights of its seed, for images [C, H, W].

    PyTorch's global generator keeps its state.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return NETWORKS.get(config.model, _make_own)(config, image_shape)


def _make_own(config: TrainConfig, image_shape: tuple[int, int, int]) -> nn.Module:
    """Build a class of the user's own and check that it fits the images and the classes."""
    name, own = config.model, _find(config.model)
    embeds = ALGORITHMS[config.algorithm].embeds
    of_run = {"n_way": None if embeds else config.n_way, "in_channels": image_shape[0], "image_size": image_shape[1]}
    arguments = {**_accepted(own, of_run), **(config.model_args or {})}
    try:
        model = own(**arguments)
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(
            f"model {name}({given}) raises {type(error).__name__}: {error}; give its arguments by model_args"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {name} must make an nn.Module, got {shown(model)}")
    _check_output(name, model, image_shape, None if embeds else config.n_way)
    return model


def _accepted(own: Callable[..., Any], of_run: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the run that the class has parameters for."""
    parameters = inspect.signature(own).parameters
    return {key: value for key, value in of_run.items() if key in parameters}


def _check_output(name: str, model: nn.Module, image_shape: tuple[int, int, int], n_way: int | None) -> None:
    """Raise unless the model turns images [N, C, H, W] into logits [N, n_way], or into embeddings [N, E]."""
    try:
        with torch.no_grad():
            output = copy.deepcopy(model).eval()(torch.zeros(2, *image_shape))
    except Exception as error:
        raise ValueError(f"model {name} can't take images {[2, *image_shape]}: {error}") from error
    wanted = f"logits [2, {n_way}]" if n_way else "embeddings [2, E]"
    shape = list(output.shape) if isinstance(output, Tensor) else []
    if len(shape) != 2 or shape[0] != 2 or (n_way is not None and shape[1] != n_way):
        got = shape if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"model {name} must turn images {[2, *image_shape]} into {wanted}, got {got}")


def _find(name: str) -> Callable[..., Any]:
    """Import the class that ``package.module:Class`` or ``file.py:Class`` names."""
    place, _, class_name = name.rpartition(":")
    is_file = place.endswith(".py")
    folder, module_name = (str(Path(place).parent), Path(place).stem) if is_file else (os.getcwd(), place)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        where = "" if is_file else "; run maml-fast in the folder that holds it, or give file.py:Class"
        raise ValueError(f"model {name}: import {module_name} raises {type(error).__name__}: {error}{where}") from error
    if is_file and not os.path.samefile(module.__file__ or os.devnull, place):
        raise ValueError(f"model {name}: another module is called {module_name} ({module.__file__}); rename the file")
    found = getattr(module, class_name, None)
    if not callable(found):
        raise ValueError(f"model {name}: {module_name} has no class {class_name}")
    return found
