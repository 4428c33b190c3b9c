"""From images on disk to episodes: image banks, data sets and the episode sampler."""

from __future__ import annotations

from maml_fast.data.answers import AnswerLog, read_answers
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
from maml_fast.data.student_episodes import NO_ANSWER, StudentSampler, answer_loss, student_episodes
from maml_fast.data.students import simulate_students
from maml_fast.data.task_batches import tasks_from_batch

__all__ = [
    "DATA_SETS",
    "NO_ANSWER",
    "AnswerLog",
    "DataSet",
    "EpisodeSampler",
    "Episodes",
    "ImageBank",
    "SinusoidSampler",
    "Split",
    "StudentSampler",
    "answer_loss",
    "draw_strokes",
    "load",
    "make_noise",
    "prepare_omniglot",
    "read_answers",
    "read_folder",
    "read_omniglot",
    "read_split",
    "simulate_students",
    "student_episodes",
    "tasks_from_batch",
]
