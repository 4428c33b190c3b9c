"""From images on disk to episodes: image banks, data sets and the episode sampler."""

from __future__ import annotations

from maml_fast.data.bank import ImageBank
from maml_fast.data.dataset import DataSet
from maml_fast.data.episodes import Episodes, EpisodeSampler
from maml_fast.data.folder import read_folder
from maml_fast.data.noise import make_noise
from maml_fast.data.omniglot import prepare_omniglot, read_omniglot
from maml_fast.data.registry import DATA_SETS, load
from maml_fast.data.sinusoid import SinusoidSampler
from maml_fast.data.splits import Split, read_split
from maml_fast.data.strokes import draw_strokes

__all__ = [
    "DATA_SETS",
    "DataSet",
    "EpisodeSampler",
    "Episodes",
    "ImageBank",
    "SinusoidSampler",
    "Split",
    "draw_strokes",
    "load",
    "make_noise",
    "prepare_omniglot",
    "read_folder",
    "read_omniglot",
    "read_split",
]
