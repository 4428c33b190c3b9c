"""Data sets that come already split into train, val and test, in their usual layouts on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from maml_fast.data._bank import ImageBank
from maml_fast.data._conversion import Conversion
from maml_fast.data._dataset import DataSet, Options
from maml_fast.data._image_arrays import read_image_cache, read_npz
from maml_fast.data._image_lists import read_image_list
from maml_fast.data._splits import Split, find_parts
from maml_fast.data.folder import list_pictures, report_unused

__all__ = ["PRESPLIT"]


class _Layout(NamedTuple):
    """A layout of the parts of a data set in a folder."""

    name: str  # also the name of the split
    entry: str  # the file or folder of a part; {} stands for the part
    beside: str  # rest of the description for error messages
    read: Callable[[Path, Conversion, str], ImageBank]

    def __str__(self) -> str:
        return self.entry.format("{train,val,test}") + self.beside


def _read_class_folders(root: Path, conversion: Conversion, name: str) -> ImageBank:
    files, pictures = list_pictures(root, conversion)
    return conversion.keep(files, lambda: pictures, name)


_CACHES = _Layout("caches", "mini-imagenet-cache-{}.pkl", "", read_image_cache)
_LISTS = _Layout("lists", "{}.csv", " and images/", read_image_list)
_FOLDERS = _Layout("folders", "{}", " of class folders of pictures", _read_class_folders)
_ARRAYS = _Layout("arrays", "{}.npz", " of images and labels", read_npz)


class _Kind(NamedTuple):
    image_size: int  # default, in pixels per side
    layouts: tuple[_Layout, ...]  # the first one that is found is read


_KINDS: Mapping[str, _Kind] = {
    "mini-imagenet": _Kind(84, (_CACHES, _LISTS, _FOLDERS)),
    "tiered-imagenet": _Kind(84, (_FOLDERS, _ARRAYS)),
    "cub": _Kind(84, (_FOLDERS, _ARRAYS)),
    "cifar-fs": _Kind(32, (_FOLDERS, _ARRAYS)),
    "fc100": _Kind(32, (_FOLDERS, _ARRAYS)),
}


def _load(name: str, options: Options) -> DataSet:
    """Load a data set from the first of its layouts that is found in its root; its pixels are kept in the cache."""
    options.allow(name, "root", "image_size", "channels")
    kind = _KINDS[name]
    root = options.required_root(name, f"a folder that holds {_alternatives(kind)}")
    layout, paths = _recognize(name, kind, root)
    report_unused(root, paths.values(), options.say)
    conversion = Conversion(
        kind.image_size if options.image_size is None else options.image_size,
        "RGB" if options.channels is None else options.channels,
        options.progress,
        options.say,
    )
    banks = {part: layout.read(path, conversion, f"{name}/{part}") for part, path in paths.items()}
    return DataSet(name, banks, Split(layout.name, {part: bank.class_names for part, bank in banks.items()}))


def _recognize(name: str, kind: _Kind, root: Path) -> tuple[_Layout, dict[str, Path]]:
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; {name} is a folder that holds {_alternatives(kind)}")
    found = {layout: find_parts(root, layout.entry) for layout in kind.layouts}
    for layout, paths in found.items():
        if {"train", "test"} <= paths.keys():
            return layout, paths
    there = ", ".join(path.name for paths in found.values() for path in paths.values())
    raise FileNotFoundError(
        f"{root} does not hold {name}: looked for {_alternatives(kind)} (val may be missing, or be called valid, "
        "validation or dev); "
        f"found {f'only {there}' if there else 'none of them'}"
    )


def _alternatives(kind: _Kind) -> str:
    return ", or ".join(map(str, kind.layouts))


PRESPLIT: Mapping[str, Callable[[Options], DataSet]] = {name: partial(_load, name) for name in _KINDS}
