"""Random pixels in the shape of Omniglot, for smoke tests; there is nothing to learn from them."""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState

from maml_fast._arguments import int_from, many, takes
from maml_fast.data._bank import ImageBank
from maml_fast.data._dataset import SEED, DataSet, Options, check_seed
from maml_fast.data._splits import first_and_rest

__all__ = ["load_noise", "make_noise"]


@takes(n_classes=int_from(1), n_images=int_from(1), image_shape=many(int_from(1), length=3), seed=SEED)
def make_noise(
    n_classes: int = 1623, n_images: int = 20, image_shape: tuple[int, int, int] = (1, 28, 28), *, seed: int = 0
) -> ImageBank:
    """Return a bank of uniformly random pixels, the same as the tutorial's for ``np.random.seed(seed)``.

    Args:
        n_classes: number of classes.
        n_images: images per class.
        image_shape: (C, H, W).
        seed: 0 to 2**32 - 1.

    Raises:
        TypeError, ValueError: a number is not an integer or is out of range.
    """
    shape = (n_classes, n_images, *image_shape)
    return ImageBank.from_array(RandomState(seed).randint(0, 256, shape, dtype=np.uint8), name="random")


def load_noise(options: Options) -> DataSet:
    """Load data set "random": as many classes as Omniglot, with the tutorial's split."""
    options.allow("random", "image_size", "seed")
    size = 28 if options.image_size is None else options.image_size
    bank = make_noise(image_shape=(1, size, size), seed=check_seed(options.seed))
    return DataSet.of(bank, first_and_rest("first-1200", bank.class_names, 1200))
