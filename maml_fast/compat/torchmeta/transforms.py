"""``torchmeta.transforms``: of targets, of classes and of tasks."""

from maml_fast.compat.torchmeta._augmentations import HorizontalFlip, Rotation, VerticalFlip
from maml_fast.compat.torchmeta._out import missing
from maml_fast.compat.torchmeta._splitters import ClassSplitter, Splitter
from maml_fast.compat.torchmeta._targets import Categorical, DefaultTargetTransform, FixedCategory, TargetTransform

__all__ = [
    "Categorical",
    "ClassSplitter",
    "DefaultTargetTransform",
    "FixedCategory",
    "HorizontalFlip",
    "Rotation",
    "Splitter",
    "TargetTransform",
    "VerticalFlip",
]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)
