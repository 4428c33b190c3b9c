"""From images on disk to episodes: image banks, data sets and the episode sampler."""

from __future__ import annotations

from maml_fast.data.bank import ImageBank

__all__ = ["ImageBank"]
