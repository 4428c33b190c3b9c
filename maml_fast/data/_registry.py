"""All data sets by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from maml_fast._arguments import function, int_from, location, optional, takes, text
from maml_fast.data._conversion import CHANNELS, MAX_SIZE
from maml_fast.data._dataset import SEED, DataSet, MessageCallback, Options, Progress, print_to_stderr
from maml_fast.data._noise import load_noise
from maml_fast.data._omniglot import load_omniglot
from maml_fast.data._parted import PRESPLIT
from maml_fast.data._strokes import load_strokes
from maml_fast.data.folder import load_folder

__all__ = ["DATA_SETS", "load"]


def _load_glyphs(options: Options) -> DataSet:
    from maml_fast.data._glyphs import load_glyphs  # imports matplotlib and Pillow

    return load_glyphs(options)


DATA_SETS: Mapping[str, Callable[[Options], DataSet]] = {
    "strokes": load_strokes,
    "glyphs": _load_glyphs,
    "omniglot": load_omniglot,
    "folder": load_folder,
    "random": load_noise,
    **PRESPLIT,
}


@takes(
    name=text,
    root=optional(location),
    split=optional(location),
    image_size=optional(int_from(1, MAX_SIZE)),
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
    say: MessageCallback = print_to_stderr,
) -> DataSet:
    """Load a data set by name, split into classes for meta-training and for meta-testing.

    Args:
        name: "strokes" (invented characters), "glyphs" (characters in the typefaces of matplotlib), "omniglot",
            "folder" (class folders of pictures) or "random" (noise); or "mini-imagenet", "tiered-imagenet", "cub",
            "cifar-fs" or "fc100", which come already split.
        root: folder of the data, for data sets that are read from disk. A data set that comes already split may have
            one of several layouts. All of them may consist of folders ``train``, ``val`` and ``test`` of class folders
            of pictures. All except mini-imagenet may consist of ``{train,val,test}.npz`` with ``images``, uint8
            ``[N, H, W, C]``, and ``labels``. Mini-imagenet may consist of ``mini-imagenet-cache-{train,val,test}.pkl``
            (no code in them is run), or of a folder ``images`` and ``{train,val,test}.csv`` with the columns filename
            and label. In every layout, val may be missing, or be called valid, validation or dev. The split is named
            after the layout.
        split: for omniglot "tutorial" (default), "vinyals" or "finn"; for omniglot and folder also a folder of split
            files, see `read_split`.
        image_size: pixels per side; if None, 84 for mini-imagenet, tiered-imagenet, cub and glyphs in color, 32 for
            cifar-fs and fc100, and 28 for all others.
        channels: "L" (default of folder and glyphs) or "RGB" (default of data sets that come already split); the others
            are gray.
        seed: seed of the characters of strokes, the tints, sizes and slants of glyphs in color, the pixels of random,
            or the split of folder; 0 if None.
        progress: called with (done, total) during long work.
        say: called with each message for the user, one line, such as the number of files skipped.

    Returns:
        The banks by part, ``data_set["train"]``, ``data_set["test"]`` and, if it exists, ``data_set["val"]``; and the
        split, ``data_set.split``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no such data set, it does not take one of the options, or the data are damaged.
        FileNotFoundError: the data are missing; the message says how to get them.
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
