"""``torchmeta.datasets.helpers``: tasks of images with the usual transforms, split already."""

from maml_fast.compat.torchmeta._image_helpers import miniimagenet, omniglot

__all__ = ["miniimagenet", "omniglot"]
