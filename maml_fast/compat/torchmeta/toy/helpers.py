"""``torchmeta.toy.helpers``: sets of regression tasks that are split already."""

from maml_fast.compat.torchmeta._sinusoid import sinusoid

__all__ = ["sinusoid"]
