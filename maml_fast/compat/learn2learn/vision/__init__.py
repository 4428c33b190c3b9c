"""Images: data sets, benchmarks, models and transforms."""

from maml_fast.compat.learn2learn.vision import benchmarks, datasets, models, transforms

__all__ = ["benchmarks", "datasets", "models", "transforms"]
