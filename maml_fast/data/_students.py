"""Simulated students, who learn and forget by Bayesian knowledge tracing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maml_fast._arguments import takes, whole
from maml_fast.data._answers import AnswerLog
from maml_fast.data._philox import below, uniform

__all__ = ["Knowledge", "draw_knowledge", "simulate_students"]

# Every student draws a probability for every skill, evenly between these bounds.
INITIAL = (0.1, 0.7)  # the skill is known from the start
LEARN = (0.02, 0.3)  # it is known after an exercise in it, if it was not
FORGET = (0.0, 0.05)  # it is not known after an exercise in another skill, if it was
GUESS = (0.05, 0.4)  # a right answer, the skill not known
SLIP = (0.02, 0.3)  # a wrong answer, the skill known
BOUNDS = (INITIAL, LEARN, FORGET, GUESS, SLIP)  # their place is their stream

KNOWN_STREAM, SKILL_STREAM, ANSWER_STREAM, LEARN_STREAM, FORGET_STREAM = range(5, 10)


class Knowledge(NamedTuple):
    """The probabilities of every student and skill, float64 ``[students, skills]`` each."""

    initial: np.ndarray
    learn: np.ndarray
    forget: np.ndarray
    guess: np.ndarray
    slip: np.ndarray


@takes(n_students=whole(1), n_answers=whole(1), n_skills=whole(1), seed=whole(0, 2**64 - 1))
def simulate_students(n_students: int = 1000, n_answers: int = 100, n_skills: int = 10, *, seed: int = 0) -> AnswerLog:
    """Let students answer one exercise after another, each in a skill drawn evenly.

    A skill is known to a student or it is not (Corbett & Anderson 1995). Known, an answer is right unless the student
    slips; unknown, it is wrong unless the student guesses. An exercise may teach its skill; every exercise in another
    skill may make it forgotten, as in Khajah, Lindsey & Mozer 2016. The probabilities are each student's own, for every
    skill.

    Student `i` of a seed is always the same, whatever the number of students, and its first answers are, whatever
    their number: random numbers come from Philox4x32-10, keyed by the seed and counted by the student.

    Args:
        n_students: how many students.
        n_answers: of each.
        n_skills: how many skills.
        seed: 0 to 2**64 - 1.

    Raises:
        TypeError, ValueError: a number is not whole or below 1, or the seed is out of range.
    """
    skills, correct = _answers(seed, n_students, n_answers, n_skills)
    return AnswerLog(
        tuple(f"student{i}" for i in range(n_students)),
        tuple(f"skill{i}" for i in range(n_skills)),
        skills.reshape(-1),
        correct.reshape(-1),
        np.arange(n_students + 1) * n_answers,
    )


def draw_knowledge(seed: int, n_students: int, n_skills: int) -> Knowledge:
    """Draw the probabilities that :func:`simulate_students` gives to these students."""
    students, skills = np.arange(n_students)[:, None], np.arange(n_skills)
    draws = (uniform(seed, students, stream, skills) for stream in range(len(BOUNDS)))
    return Knowledge(*(low + (high - low) * u for (low, high), u in zip(BOUNDS, draws, strict=True)))


def _answers(seed: int, n_students: int, n_answers: int, n_skills: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the skills asked and whether the answers were right, ``[students, answers]`` each."""
    students, numbers = np.arange(n_students), np.arange(n_skills)
    knowledge = draw_knowledge(seed, n_students, n_skills)
    known = uniform(seed, students[:, None], KNOWN_STREAM, numbers) < knowledge.initial  # [students, skills]
    asked = below(seed, students[:, None], SKILL_STREAM, np.arange(n_answers), n_skills)
    correct = np.empty(asked.shape, dtype=bool)
    for t in range(n_answers):
        this = numbers == asked[:, t, None]  # [students, skills], one in each row
        right = np.where(known, 1 - knowledge.slip, knowledge.guess)[this]
        correct[:, t] = uniform(seed, students, ANSWER_STREAM, t) < right
        learned = (uniform(seed, students, LEARN_STREAM, t) < knowledge.learn[this])[:, None]
        forgot = uniform(seed, students[:, None], FORGET_STREAM, t * n_skills + numbers) < knowledge.forget
        known = np.where(this, known | learned, known & ~forgot)
    return asked, correct
