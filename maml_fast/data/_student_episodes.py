"""A student is a task: the first answers to adapt to, the later ones to predict, as deep knowledge tracing has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast._arguments import instance, integer, many, settle, takes, tensor, whole
from maml_fast.data._answers import AnswerLog
from maml_fast.data._episodes import Episodes
from maml_fast.data._numbered import NumberedEpisodes
from maml_fast.data._philox import below

__all__ = ["NO_ANSWER", "StudentSampler", "answer_loss", "student_episodes"]

NO_ANSWER = -1.0  # the target of a skill that was not asked, or not to be scored; right is 1, wrong is 0

_log = instance(AnswerLog, "see mf.data.read_answers")


@takes(log=_log, students=many(integer), n_support=whole(1), n_answers=whole(1))
def student_episodes(
    log: AnswerLog, students: Sequence[int] | np.ndarray, *, n_support: int, n_answers: int
) -> Episodes:
    """Return an episode of one sequence, N = 1, for each of these T students; all float32.

    * x_spt [T, 1, n_support, 2 * n_skills]: at every step the answer *before* it (Piech et al. 2015, section 3.1): one
      at place ``skill`` if it was wrong, at place ``n_skills + skill`` if it was right; zeros at the first step.
    * y_spt [T, 1, n_support, n_skills]: at every step 1 or 0 for the skill asked, right or wrong, and `NO_ANSWER` for
      all others.
    * x_qry [T, 1, n_answers, 2 * n_skills]: the same from the first step on, so that a network has read a student's
      first answers when it comes to the later ones.
    * y_qry [T, 1, n_answers, n_skills]: `NO_ANSWER` throughout the first ``n_support`` steps; they are not scored.

    Answers beyond ``n_answers`` are left out. Students who gave fewer have zeros and `NO_ANSWER` at the end.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a student gave no answers beyond the first ``n_support``, ``n_answers`` leaves none, or there are no
            students.
        IndexError: there is no such student.
    """
    if n_support >= n_answers:
        raise ValueError(f"n_support must be below n_answers, got {n_support} and {n_answers}")
    if not len(students):
        raise ValueError("students must name at least one, got none")
    for student in students:
        log.check_student(student)
    check_counts(log, students, n_support)
    n_skills = log.n_skills
    x = np.zeros((len(students), 1, n_answers, 2 * n_skills), np.float32)
    y = np.full((len(students), 1, n_answers, n_skills), NO_ANSWER, np.float32)
    for t, student in enumerate(students):
        skills, correct = (answers[:n_answers] for answers in log.answers_of(int(student)))
        steps = np.arange(len(skills))
        x[t, 0, steps[1:], (skills + n_skills * correct)[:-1]] = 1
        y[t, 0, steps, skills] = correct
    y_qry = y.copy()
    y_qry[:, :, :n_support] = NO_ANSWER
    halves = (x[:, :, :n_support], y[:, :, :n_support], x, y_qry)
    return Episodes(*(torch.from_numpy(np.ascontiguousarray(half)) for half in halves))


def check_counts(log: AnswerLog, students: Sequence[int] | np.ndarray, n_support: int) -> None:
    """Raise a ValueError that names a student who gave no more than ``n_support`` answers."""
    counts = log.counts[np.asarray(students)]
    if (counts <= n_support).any():
        student = int(students[int(np.argmin(counts))])
        raise ValueError(
            f"student {log.student_names[student]!r} gave {log.counts[student]} answers, but {n_support} are support "
            f"and one at least must be left to predict; lower n_support, or use log.with_at_least({n_support + 1})"
        )


@dataclass(frozen=True, eq=False)
class StudentSampler(NumberedEpisodes):
    """Draws students from a log, a meta-batch at a time, as :func:`student_episodes` gives them.

    Episode ``e`` of a seed is always the same student, whatever the meta-batch size; students are drawn evenly and may
    come again.

    Args:
        log: the answers.
        n_support: answers to adapt to, the first ones of a student.
        n_answers: answers in all, those to predict included.
        meta_batch_size: students of a meta-batch, ``T``.
        seed: 0 to 2**64 - 1.
        start_episode: number of the first episode.
        batches: meta-batches in one iteration; None for no end.
        stride: from the first episode of a meta-batch to that of the next; None for `meta_batch_size`. What is left out
            between them is another process's part (:func:`maml_fast.distributed.shard`).

    Raises:
        TypeError, ValueError: a parameter is of the wrong type or out of range, or a student gave too few answers.
    """

    log: AnswerLog
    n_support: int
    n_answers: int
    meta_batch_size: int
    seed: int = 0
    _: KW_ONLY
    start_episode: int = 0
    batches: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        settle(self, log=_log, n_support=whole(1))
        settle(self, n_answers=whole(self.n_support + 1))
        self._check_numbering()
        check_counts(self.log, np.arange(self.log.n_students), self.n_support)

    def _episodes_from(self, first: int) -> Episodes:
        students = below(self.seed, self._run_of_numbers(first), 0, 0, self.log.n_students)
        return student_episodes(self.log, students, n_support=self.n_support, n_answers=self.n_answers)


@takes(logits=tensor, answers=tensor)
def answer_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits [N, L, n_skills] at the answers that there are (Piech et al. 2015, eq. 3).

    ``answers`` [N, L, n_skills] are 1, 0 or `NO_ANSWER`; one at least must be there, or the loss is NaN. A ValueError
    says so if the two differ in shape, a TypeError if one of them is not floating-point.
    """
    if logits.shape != answers.shape:
        raise ValueError(f"answers must be {list(logits.shape)} as logits are, got {list(answers.shape)}")
    if not (logits.is_floating_point() and answers.is_floating_point()):
        raise TypeError(f"logits and answers must be floating-point, got {logits.dtype} and {answers.dtype}")
    asked = answers != NO_ANSWER
    losses = F.binary_cross_entropy_with_logits(logits, answers.clamp(min=0), reduction="none")
    return (losses * asked).sum() / asked.sum()
