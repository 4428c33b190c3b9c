"""``torchmeta.datasets``: tasks of images."""

from maml_fast.compat.torchmeta._mini_imagenet import MiniImagenet
from maml_fast.compat.torchmeta._omniglot import Omniglot
from maml_fast.compat.torchmeta._out import missing
from maml_fast.compat.torchmeta.datasets import helpers

__all__ = ["MiniImagenet", "Omniglot", "helpers"]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)
