"""Simulated students who learn and forget according to Bayesian knowledge tracing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maml_fast._arguments import int_from, takes
from maml_fast.data._answers import AnswerLog
from maml_fast.data._philox import below, uniform

__all__ = ["Knowledge", "draw_knowledge", "simulate_students"]

# Each student has its own probabilities for each skill, drawn uniformly between these bounds.
INITIAL = (0.1, 0.7)  # the skill is known from the start
LEARN = (0.02, 0.3)  # an unknown skill is known after an exercise in it
FORGET = (0.0, 0.05)  # a known skill is unknown after an exercise in another skill
GUESS = (0.05, 0.4)  # the answer is right though the skill is unknown
SLIP = (0.02, 0.3)  # the answer is wrong though the skill is known
BOUNDS = (INITIAL, LEARN, FORGET, GUESS, SLIP)  # the index is the number of the random stream

KNOWN_STREAM, SKILL_STREAM, ANSWER_STREAM, LEARN_STREAM, FORGET_STREAM = range(5, 10)


class Knowledge(NamedTuple):
    """The probabilities of each student for each skill, float64 ``[students, skills]``."""

    initial: np.ndarray
    learn: np.ndarray
    forget: np.ndarray
    guess: np.ndarray
    slip: np.ndarray


@takes(n_students=int_from(1), n_answers=int_from(1), n_skills=int_from(1), seed=int_from(0, 2**64 - 1))
def simulate_students(n_students: int = 1000, n_answers: int = 100, n_skills: int = 10, *, seed: int = 0) -> AnswerLog:
    """Simulate students who answer one exercise after another, each in a uniformly drawn skill.

    A student either knows a skill or does not (Corbett & Anderson 1995). If the skill is known, an answer is right
    unless the student slips; if it is unknown, an answer is wrong unless the student guesses. An exercise may teach its
    skill. Every exercise in another skill may cause a known skill to be forgotten, as in Khajah, Lindsey & Mozer 2016.
    Each student has its own probabilities for each skill.

    Student `i` of a seed is always the same, whatever the number of students, and its first answers do not depend on
    the number of answers: random numbers come from Philox4x32-10, with the seed as the key and the student's number in
    the counter.

    Args:
        n_students: number of students.
        n_answers: answers per student.
        n_skills: number of skills.
        seed: 0 to 2**64 - 1.

    Raises:
        TypeError, ValueError: a number is not an integer or is below 1, or the seed is out of range.
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
    """Draw the probabilities of the students of :func:`simulate_students`."""
    students, skills = np.arange(n_students)[:, None], np.arange(n_skills)
    draws = (uniform(seed, students, stream, skills) for stream in range(len(BOUNDS)))
    return Knowledge(*(low + (high - low) * u for (low, high), u in zip(BOUNDS, draws, strict=True)))


def _answers(seed: int, n_students: int, n_answers: int, n_skills: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the skills asked, and whether each answer is right, ``[students, answers]`` each."""
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
