"""Data sets, image banks and episode samplers."""

from __future__ import annotations

from maml_fast.data._answers import AnswerLog, read_answers
from maml_fast.data._bank import ImageBank
from maml_fast.data._dataset import DataSet
from maml_fast.data._episodes import Episodes, EpisodeSampler, check_episodes
from maml_fast.data._noise import make_noise
from maml_fast.data._omniglot import prepare_omniglot, read_omniglot
from maml_fast.data._registry import DATA_SETS, load
from maml_fast.data._sinusoid import SinusoidSampler
from maml_fast.data._splits import Split, read_split
from maml_fast.data._strokes import draw_strokes
from maml_fast.data._student_episodes import NO_ANSWER, StudentSampler, answer_loss, student_episodes
from maml_fast.data._students import simulate_students
from maml_fast.data._task_batches import tasks_from_batch
from maml_fast.data.folder import read_folder

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
    "check_episodes",
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
