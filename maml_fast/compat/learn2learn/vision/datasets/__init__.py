"""Data sets of images."""

from maml_fast.compat.learn2learn._out import missing
from maml_fast.compat.learn2learn.vision.datasets.cifarfs import CIFARFS
from maml_fast.compat.learn2learn.vision.datasets.fc100 import FC100
from maml_fast.compat.learn2learn.vision.datasets.full_omniglot import FullOmniglot
from maml_fast.compat.learn2learn.vision.datasets.mini_imagenet import MiniImagenet
from maml_fast.compat.learn2learn.vision.datasets.tiered_imagenet import TieredImagenet

__all__ = ["CIFARFS", "FC100", "FullOmniglot", "MiniImagenet", "TieredImagenet"]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)
