"""Simulated students against a plain-Python oracle, and the properties that they promise."""

from __future__ import annotations

import numpy as np
import pytest

from maml_fast.data import simulate_students
from maml_fast.data._philox import below, uniform
from maml_fast.data._students import BOUNDS, draw_knowledge

pytestmark = pytest.mark.backendless


def oracle(student: int, n_answers: int, n_skills: int, seed: int) -> list[tuple[int, bool]]:
    """One student after the description in the docstring, a skill at a time."""

    def draw(stream: int, index: int) -> float:
        return float(uniform(seed, student, stream, index))

    def probability(which: int, skill: int) -> float:
        low, high = BOUNDS[which]
        return low + (high - low) * draw(which, skill)

    initial, learn, forget, guess, slip = ([probability(which, s) for s in range(n_skills)] for which in range(5))
    known = [draw(5, s) < initial[s] for s in range(n_skills)]
    answers = []
    for t in range(n_answers):
        asked = int(below(seed, student, 6, t, n_skills))
        chance = 1 - slip[asked] if known[asked] else guess[asked]
        answers.append((asked, draw(7, t) < chance))
        for s in range(n_skills):
            if s == asked and draw(8, t) < learn[s]:
                known[s] = True
            elif s != asked and draw(9, t * n_skills + s) < forget[s]:
                known[s] = False
    return answers


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_every_student_is_the_one_the_oracle_follows(seed: int) -> None:
    log = simulate_students(5, 40, 3, seed=seed)
    for student in range(5):
        skills, correct = log.answers_of(student)
        assert list(zip(skills.tolist(), correct.tolist(), strict=True)) == oracle(student, 40, 3, seed)


def test_students_depend_neither_on_their_number_nor_on_that_of_their_answers() -> None:
    many, few = simulate_students(20, 60, 4, seed=3), simulate_students(7, 25, 4, seed=3)
    for student in range(7):
        for long, short in zip(many.answers_of(student), few.answers_of(student), strict=True):
            np.testing.assert_array_equal(long[:25], short)
    assert not np.array_equal(many.correct, simulate_students(20, 60, 4, seed=4).correct)
    assert not np.array_equal(many.answers_of(0)[1], many.answers_of(1)[1])


def test_probabilities_lie_between_their_bounds() -> None:
    for values, (low, high) in zip(draw_knowledge(0, 500, 6), BOUNDS, strict=True):
        assert values.shape == (500, 6)
        assert low <= values.min()
        assert values.max() < high
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)


def test_students_answer_what_their_probabilities_say() -> None:
    """The first answer of every student: known or guessed, nothing learned yet."""
    log, knowledge = simulate_students(20_000, 1, 2), draw_knowledge(0, 20_000, 2)
    expected = knowledge.initial * (1 - knowledge.slip) + (1 - knowledge.initial) * knowledge.guess
    assert abs(log.correct.mean() - expected.mean()) < 0.015
    assert abs(log.skills.mean() - 0.5) < 0.015


def test_exercise_teaches() -> None:
    log = simulate_students(2000, 60, 1)
    correct = log.correct.reshape(2000, 60)
    assert correct[:, -10:].mean() > correct[:, :2].mean() + 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_students": 0}, "n_students must be at least 1, got 0"),
        ({"n_answers": -2}, "n_answers must be at least 1, got -2"),
        ({"n_skills": 0}, "n_skills must be at least 1, got 0"),
        ({"seed": 2**64}, r"seed must be from 0 to 2\*\*64 - 1, got 18446744073709551616"),
    ],
)
def test_bad_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate_students(**options)
