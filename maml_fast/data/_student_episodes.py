"""Deep knowledge tracing as meta-learning: a student is a task, whose first answers predict the later ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast._arguments import check_fields, instance, int_from, integer, many, takes, tensor
from maml_fast.data._answers import AnswerLog
from maml_fast.data._episodes import Episodes
from maml_fast.data._numbered import NumberedEpisodes
from maml_fast.data._philox import below

__all__ = ["NO_ANSWER", "StudentSampler", "answer_loss", "student_episodes"]

NO_ANSWER = -1.0  # target of a skill that was not asked or is not scored; right answers are 1, wrong ones 0

_log = instance(AnswerLog, "see mf.data.read_answers")


@takes(log=_log, students=many(integer), n_support=int_from(1), n_answers=int_from(1))
def student_episodes(
    log: AnswerLog, students: Sequence[int] | np.ndarray, *, n_support: int, n_answers: int
) -> Episodes:
    """Return one episode for each of these T students; it consists of one sequence (N = 1), in float32.

    * x_spt [T, 1, n_support, 2 * n_skills]: at every step the answer *before* it (Piech et al. 2015, section 3.1): a
      one at index ``skill`` if it was wrong, at index ``n_skills + skill`` if it was right; zeros at the first step.
    * y_spt [T, 1, n_support, n_skills]: at every step 1 (right) or 0 (wrong) for the skill asked, and `NO_ANSWER` for
      all other skills.
    * x_qry [T, 1, n_answers, 2 * n_skills]: like x_spt, also from the first step on, so that a network has read a
      student's first answers before it predicts the later ones.
    * y_qry [T, 1, n_answers, n_skills]: like y_spt, but `NO_ANSWER` in the first ``n_support`` steps, which are not
      scored.

    Answers beyond ``n_answers`` are dropped. The sequences of students with fewer answers end with zeros in x and
    `NO_ANSWER` in y.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a student has no answers beyond the first ``n_support``, ``n_answers`` is not above ``n_support``,
            or there are no students.
        IndexError: a student's number is out of range.
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
    """Raise a ValueError that names a student if any has no more than ``n_support`` answers."""
    counts = log.counts[np.asarray(students)]
    if (counts <= n_support).any():
        student = int(students[int(np.argmin(counts))])
        raise ValueError(
            f"student {log.student_names[student]!r} gave {log.counts[student]} answers, but {n_support} are support "
            f"and at least one must be left to predict; lower n_support, or use log.with_at_least({n_support + 1})"
        )


@dataclass(frozen=True, eq=False)
class StudentSampler(NumberedEpisodes):
    """Draws students from a log, one meta-batch at a time, as episodes of :func:`student_episodes`.

    Episode ``e`` of a seed is always the same student, whatever the meta-batch size. Students are drawn uniformly, with
    replacement.

    Args:
        log: the students' answers.
        n_support: how many of a student's first answers are the support set.
        n_answers: answers per student in total, including those to predict.
        meta_batch_size: students per meta-batch, ``T``.
        seed: 0 to 2**64 - 1.
        start_episode: number of the first episode.
        batches: meta-batches per iteration; None for an endless sampler.
        stride: how many episodes lie between the first episodes of successive meta-batches; None for `meta_batch_size`.
            The episodes that a larger stride skips belong to other processes (:func:`maml_fast.distributed.shard`).

    Raises:
        TypeError, ValueError: a parameter has the wrong type or is out of range, or a student has too few answers.
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
        check_fields(self, log=_log, n_support=int_from(1))
        check_fields(self, n_answers=int_from(self.n_support + 1))
        self._check_numbering()
        check_counts(self.log, np.arange(self.log.n_students), self.n_support)

    def _episodes_from(self, first: int) -> Episodes:
        students = below(self.seed, self._episode_numbers(first), 0, 0, self.log.n_students)
        return student_episodes(self.log, students, n_support=self.n_support, n_answers=self.n_answers)


@takes(logits=tensor, answers=tensor)
def answer_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits [N, L, n_skills] over the existing answers (Piech et al. 2015, eq. 3).

    Args:
        logits: [N, L, n_skills].
        answers: [N, L, n_skills], each 1, 0 or `NO_ANSWER`. If all are `NO_ANSWER`, the loss is NaN.

    Raises:
        ValueError: the shapes differ.
        TypeError: an argument is not a floating-point tensor.
    """
    if logits.shape != answers.shape:
        raise ValueError(f"answers must have the shape of logits, {list(logits.shape)}, got {list(answers.shape)}")
    if not (logits.is_floating_point() and answers.is_floating_point()):
        raise TypeError(f"logits and answers must be floating-point, got {logits.dtype} and {answers.dtype}")
    asked = answers != NO_ANSWER
    losses = F.binary_cross_entropy_with_logits(logits, answers.clamp(min=0), reduction="none")
    return (losses * asked).sum() / asked.sum()
