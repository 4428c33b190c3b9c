"""``torchmeta.toy.helpers``: sets of regression tasks that are split already."""

from maml_fast.compat.torchmeta._out import missing
from maml_fast.compat.torchmeta._sinusoid import sinusoid

__all__ = ["sinusoid"]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)
