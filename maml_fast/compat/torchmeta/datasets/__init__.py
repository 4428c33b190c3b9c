"""``torchmeta.datasets``: tasks of images."""

from maml_fast.compat.torchmeta._images import MiniImagenet, Omniglot
from maml_fast.compat.torchmeta.datasets import helpers

__all__ = ["MiniImagenet", "Omniglot", "helpers"]
