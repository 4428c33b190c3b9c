"""The networks of few-shot learning. Every one is ``classifier(features(x))``."""

from maml_fast.compat.learn2learn._out import missing
from maml_fast.compat.learn2learn.vision.models.cnn4 import (
    CNN4,
    CNN4Backbone,
    ConvBase,
    ConvBlock,
    MiniImagenetCNN,
    OmniglotCNN,
    OmniglotFC,
    fc_init_,
    maml_init_,
)
from maml_fast.compat.learn2learn.vision.models.resnet12 import ResNet12, ResNet12Backbone
from maml_fast.compat.learn2learn.vision.models.wrn28 import WRN28, WRN28Backbone

__all__ = [
    "CNN4",
    "WRN28",
    "CNN4Backbone",
    "ConvBase",
    "ConvBlock",
    "MiniImagenetCNN",
    "OmniglotCNN",
    "OmniglotFC",
    "ResNet12",
    "ResNet12Backbone",
    "WRN28Backbone",
    "fc_init_",
    "maml_init_",
]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)
