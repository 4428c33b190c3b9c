"""``torchmeta.datasets.helpers``: tasks of images with the usual transforms, split already."""

from maml_fast.compat.torchmeta._image_helpers import miniimagenet, omniglot
from maml_fast.compat.torchmeta._out import missing

__all__ = ["miniimagenet", "omniglot"]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)
