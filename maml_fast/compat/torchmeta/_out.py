"""What of torchmeta is not offered here, and what to use instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maml_fast.compat import _missing

__all__ = ["OUT", "missing"]

_PACKAGE = "maml_fast.compat.torchmeta"
_IMAGES = "these images are out; wrap your own in a ClassDataset and a CombinationMetaDataset"
_TABLES = "tabular data sets are out; wrap your own in a ClassDataset and a CombinationMetaDataset"
_CURVES = "of the toy problems there is Sinusoid; write another one as a MetaDataset whose items are Tasks"

OUT: Mapping[str, str] = {
    **{f"datasets.{name}": _IMAGES for name in ("CIFARFS", "CUB", "DoubleMNIST", "FC100", "Pascal5i")},
    **{f"datasets.{name}": _IMAGES for name in ("TieredImagenet", "TripleMNIST")},
    **{f"datasets.{name}": _TABLES for name in ("Bach", "Letter", "PlantsMargin", "PlantsShape", "PlantsTexture")},
    **{f"datasets.{name}": _TABLES for name in ("TCGA", "helpers_tabular")},
    **{f"datasets.helpers.{name}": _IMAGES for name in ("cifar_fs", "cub", "doublemnist", "fc100", "pascal5i")},
    **{f"datasets.helpers.{name}": _IMAGES for name in ("tieredimagenet", "triplemnist")},
    "modules.DataParallel": "it runs on one device; maml_fast.MAML computes all tasks at once instead",
    **{f"toy.{name}": _CURVES for name in ("Harmonic", "SinusoidAndLine")},
    "toy.helpers.harmonic": _CURVES,
    "transforms.NumpyToTorch": "use torch.from_numpy as the transform",
    "transforms.SegmentationPairTransform": "segmentation is out; transform the pair in a Dataset of your own",
    "transforms.WeightedClassSplitter": "use ClassSplitter, which takes as many samples of every class",
    "utils.data.NonEpisodicWrapper": "use torch.utils.data.ConcatDataset of the classes' datasets",
    "utils.hardness_metric": "compute it from the logits",
    "utils.ridge_regression": "use torch.linalg.solve; it is differentiable",
}


def missing(module: str, name: str, public: Sequence[str]) -> AttributeError:
    """Return the error for an attribute that a module of this package does not have.

    Raises:
        ImportError: the attribute is left out on purpose.
    """
    return _missing.missing(_PACKAGE, module, name, public, OUT)
