"""All data sets by name: the one door for the command line, and for whoever adds a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from maml_fast._arguments import function, location, optional, takes, text, whole
from maml_fast.data._conversion import CHANNELS, MOST_SIZE
from maml_fast.data._dataset import SEED, DataSet, Options, Progress, Say, say_on_stderr
from maml_fast.data._folder import load_folder
from maml_fast.data._noise import load_noise
from maml_fast.data._omniglot import load_omniglot
from maml_fast.data._parted import PARTED
from maml_fast.data._strokes import load_strokes

__all__ = ["DATA_SETS", "load"]

DATA_SETS: Mapping[str, Callable[[Options], DataSet]] = {
    "strokes": load_strokes,
    "omniglot": load_omniglot,
    "folder": load_folder,
    "random": load_noise,
    **PARTED,
}


@takes(
    name=text,
    root=optional(location),
    split=optional(location),
    image_size=optional(whole(1, MOST_SIZE)),
    channels=optional(CHANNELS),
    seed=optional(SEED),
    progress=optional(function()),
    say=function(),
)
def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    split: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    channels: str | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    say: Say = say_on_stderr,
) -> DataSet:
    """Load a data set by name, parted into classes for meta-training and for meta-testing.

    Args:
        name: "strokes" (embedded), "omniglot", "folder" (class folders of pictures), "random" (noise); or
            "mini-imagenet", "tiered-imagenet", "cub", "cifar-fs", "fc100", which come parted.
        root: folder of the data, for all that are read from disk. Those that come parted are recognized by what lies in
            it: folders ``train``, ``val`` and ``test`` of class folders of pictures; but for mini-imagenet
            ``{train,val,test}.npz`` of ``images``, uint8 ``[N, H, W, C]``, and ``labels``; for mini-imagenet
            ``mini-imagenet-cache-{train,val,test}.pkl``, of which nothing is run, or ``images`` and
            ``{train,val,test}.csv`` of the columns filename, label. val may be missing, or be called valid, validation
            or dev. Their split is named after the layout.
        split: for omniglot "tutorial" (default), "vinyals" or "finn"; for omniglot and folder also a folder of split
            files, see `read_split`.
        image_size: pixels per side; if None 28, but 84 for mini-imagenet, tiered-imagenet and cub, and 32 for cifar-fs
            and fc100.
        channels: "L" (default of folder) or "RGB" (default of those that come parted); the others are gray.
        seed: of the characters of strokes, of the pixels of random, of the split of folder; 0 if None.
        progress: called with (done, total) in long work.
        say: called with a line that the user should see, such as what was left out.

    Returns:
        Banks by part, ``data_set["train"]``, ``data_set["test"]``, perhaps ``data_set["val"]``, and ``data_set.split``.

    Raises:
        TypeError: an argument is of another type.
        ValueError: no such data set; an option that it does not take; or data that are damaged.
        FileNotFoundError: the data are not there; says how to get them.
    """
    if name not in DATA_SETS:
        raise ValueError(f"there is no data set {name!r}; there are {', '.join(DATA_SETS)}")
    options = Options(
        root=None if root is None else Path(root).expanduser(),
        split=None if split is None else os.fspath(split),
        image_size=image_size,
        channels=channels,
        seed=seed,
        progress=progress,
        say=say,
    )
    return DATA_SETS[name](options)
