"""What of learn2learn is not offered here, and what to use instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from maml_fast.compat import _missing

__all__ = ["OUT", "missing", "refuse"]

_PACKAGE = "maml_fast.compat.learn2learn"

_LIGHTNING = "PyTorch Lightning is out; write the loop over algorithms.MAML, or use maml_fast.MAML"
_DATA_SET = "this data set is out; wrap a torch Dataset of your own in data.MetaDataset"

OUT: Mapping[str, str] = {
    "gym": "reinforcement learning is out; algorithms, data, nn, optim, utils and vision remain",
    "text": "text data sets are out; wrap a torch Dataset of your own in data.MetaDataset",
    "algorithms.lightning": _LIGHTNING,
    "algorithms.LightningANIL": _LIGHTNING,
    "algorithms.LightningEpisodicModule": _LIGHTNING,
    "algorithms.LightningMAML": _LIGHTNING,
    "algorithms.LightningMetaOptNet": _LIGHTNING,
    "algorithms.LightningPrototypicalNetworks": _LIGHTNING,
    "nn.SVClassifier": "MetaOptNet's classifier needs a solver of quadratic programs and is out",
    "utils.lightning": _LIGHTNING,
    "vision.datasets.CUBirds200": f"{_DATA_SET}, or use maml_fast.data.load('cub')",
    "vision.datasets.DescribableTextures": _DATA_SET,
    "vision.datasets.FGVCAircraft": _DATA_SET,
    "vision.datasets.FGVCFungi": _DATA_SET,
    "vision.datasets.Quickdraw": _DATA_SET,
    "vision.datasets.VGGFlower102": _DATA_SET,
    "vision.models.get_pretrained_backbone": "learn2learn's pretrained weights are out; load_state_dict takes a copy",
}


def refuse(name: str) -> NoReturn:
    """Raise ImportError for a part of learn2learn that is not here."""
    _missing.refuse(_PACKAGE, name, OUT)


def missing(module: str, name: str, public: Sequence[str]) -> AttributeError:
    """Return the error for an attribute that a module of this package does not have.

    Raises:
        ImportError: the attribute is left out on purpose.
    """
    return _missing.missing(_PACKAGE, module, name, public, OUT)
