"""Answer logs of students, and a reader for CSV tables such as those of ASSISTments."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maml_fast._arguments import array, check_fields, function, int_from, integer, location, many, shown, takes, text
from maml_fast.data._dataset import MessageCallback, print_to_stderr

__all__ = ["AnswerLog", "read_answers"]


@dataclass(frozen=True, eq=False, repr=False)
class AnswerLog:
    """The answers of all students: grouped by student, and oldest first for each of them.

    Attributes:
        student_names: names of the students.
        skill_names: names of the skills.
        skills: int64 ``[answers]``, the number of the skill that each question tests.
        correct: bool ``[answers]``, whether each answer is right.
        starts: int64 ``[students + 1]``: student `i` gave answers ``starts[i]`` to ``starts[i + 1] - 1``.

    Raises:
        TypeError: an attribute has the wrong type.
        ValueError: there are no students, the lengths of the arrays disagree, a skill is out of range, or a student has
            no answers.
    """

    student_names: tuple[str, ...]
    skill_names: tuple[str, ...]
    skills: np.ndarray
    correct: np.ndarray
    starts: np.ndarray

    def __post_init__(self) -> None:
        check_fields(self, student_names=many(text), skill_names=many(text))
        check_fields(self, skills=_vector("iu", "int64"), correct=_vector("b", "bool"), starts=_vector("iu", "int64"))
        if not self.student_names:
            raise ValueError("a log needs at least one student")
        n_answers = len(self.skills)
        fit = len(self.starts) == self.n_students + 1 and self.starts[-1] == n_answers
        if len(self.correct) != n_answers or not fit:
            raise ValueError(
                f"{self.n_students} students need {self.n_students + 1} starts, ending at the number of answers; "
                f"got {len(self.starts)} starts, {n_answers} skills and {len(self.correct)} answers"
            )
        if (self.counts < 1).any():
            raise ValueError(f"student {self.student_names[int(np.argmin(self.counts))]!r} has no answers")
        if self.skills.min() < 0 or self.skills.max() >= self.n_skills:
            raise ValueError(
                f"skills are numbered 0 to {self.n_skills - 1}, got {self.skills.min()} to {self.skills.max()}"
            )

    @property
    def n_students(self) -> int:
        """The number of students."""
        return len(self.student_names)

    @property
    def n_skills(self) -> int:
        """The number of skills."""
        return len(self.skill_names)

    @property
    def counts(self) -> np.ndarray:
        """The number of answers of each student, ``[students]``."""
        return np.diff(self.starts)

    def answers_of(self, student: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one student's skills, and whether each answer is right, ``[n]`` each."""
        answers = self._slice_of(student)
        return self.skills[answers], self.correct[answers]

    def select(self, students: Sequence[int] | np.ndarray) -> AnswerLog:
        """Return the log of only these students, in this order, with all skills; raise ValueError if there are none."""
        students = many(integer)("students", students)
        slices = [self._slice_of(i) for i in students]
        rows = np.concatenate([np.arange(each.start, each.stop) for each in slices] or [np.empty(0, np.int64)])
        starts = np.cumsum([0, *(each.stop - each.start for each in slices)])
        names = tuple(self.student_names[i] for i in students)
        return AnswerLog(names, self.skill_names, self.skills[rows], self.correct[rows], starts)

    @takes(n_answers=int_from(0))
    def with_at_least(self, n_answers: int) -> AnswerLog:
        """Return the log of the students with at least ``n_answers`` answers; raise ValueError if there are none."""
        students = np.flatnonzero(self.counts >= n_answers)
        if len(students) == 0:
            raise ValueError(f"no student gave {n_answers} answers; the most is {self.counts.max()}")
        return self.select(students)

    def check_student(self, student: int) -> None:
        """Raise IndexError unless ``student`` is the number of a student."""
        if not 0 <= integer("student", student) < self.n_students:
            raise IndexError(f"there is no student {student}; there are {self.n_students}, counted from 0")

    def _slice_of(self, student: int) -> slice:
        self.check_student(student)
        return slice(int(self.starts[student]), int(self.starts[student + 1]))

    def __repr__(self) -> str:
        return f"<AnswerLog: {len(self.skills):,} answers of {self.n_students:,} students on {self.n_skills} skills>"


def _vector(kinds: str, wanted: str) -> Any:
    """Accept a one-dimensional array whose ``dtype.kind`` is in ``kinds``."""

    def kind(name: str, value: Any) -> np.ndarray:
        if array(name, value).ndim != 1 or value.dtype.kind not in kinds:
            raise TypeError(f"{name} must be a one-dimensional array of {wanted}, got {shown(value)}")
        return value

    return kind


class _Row(NamedTuple):
    student: str
    order: float
    skill: str
    correct: bool


def _encoding(name: str, value: Any) -> str:
    try:
        codecs.lookup(text(name, value))
    except (LookupError, ValueError):
        raise ValueError(
            f"{name} must be an encoding that Python knows, such as 'latin-1', got {shown(value)}"
        ) from None
    return value


@takes(path=location, student=text, skill=text, correct=text, order=text, encoding=_encoding, say=function())
def read_answers(
    path: str | os.PathLike[str],
    *,
    student: str = "student",
    skill: str = "skill",
    correct: str = "correct",
    order: str = "order",
    encoding: str = "utf-8-sig",
    say: MessageCallback = print_to_stderr,
) -> AnswerLog:
    """Read an answer log from a CSV file with a header and one answer per row, in any order.

    ASSISTments' "skill builder" tables (Feng, Heffernan & Koedinger 2009) need ``student="user_id", skill="skill_id",
    order="order_id"`` and, in most cases, ``encoding="latin-1"``. Students are numbered in the order in which they
    first appear in the file, skills in the order of their sorted names. A student's answers with equal values of
    ``order`` keep the order of the file. Such tables contain many rows without a skill; these rows are skipped, and
    ``say`` reports how many.

    Args:
        path: the CSV file.
        student: the column that identifies the student.
        skill: the column that names the skill.
        correct: the column with 1 for a right answer and 0 for a wrong one.
        order: the column of numbers by which each student's answers are sorted.
        encoding: the text encoding of the file.
        say: called with each message for the user, one line.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a column is missing, a row is invalid (the message names the line and the value), no row is left, or
            the file has another encoding.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    columns = {"student": student, "skill": skill, "correct": correct, "order": order}
    try:
        with path.open(encoding=encoding, newline="") as file:
            rows = list(_rows(csv.DictReader(file), path, columns))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in {encoding}: {error}; give its encoding, perhaps 'latin-1'") from None
    named = [row for row in rows if row.skill]
    if len(named) < len(rows):
        say(f"{path}: left out {len(rows) - len(named):,} of {len(rows):,} rows, which name no {skill}")
    if not named:
        raise ValueError(f"{path} holds no answers")
    return _log_of(named)


def _rows(reader: csv.DictReader[str], path: Path, columns: dict[str, str]) -> Iterator[_Row]:
    for part, column in columns.items():
        if column not in (reader.fieldnames or ()):
            found = ", ".join(reader.fieldnames or ()) or "nothing"
            raise ValueError(f"{path} has no column {column!r}; its header is {found}; give {part}=... its name")
    for record in reader:
        values = {part: (record[column] or "").strip() for part, column in columns.items()}
        try:
            yield _row(**values)
        except _BadValueError as error:
            raise ValueError(f"{path}, line {reader.line_num}: {columns[error.part]} {error}") from None


class _BadValueError(Exception):
    def __init__(self, part: str, problem: str) -> None:
        super().__init__(problem)
        self.part = part


def _row(student: str, skill: str, correct: str, order: str) -> _Row:
    if not student:
        raise _BadValueError("student", "is empty")
    right = _number("correct", correct)
    if right not in (0, 1):
        raise _BadValueError("correct", f"must be 0 or 1, got {correct!r}")
    return _Row(student, _number("order", order), skill, bool(right))


def _number(part: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise _BadValueError(part, f"must be a number, got {text!r}")
    return value


def _log_of(rows: list[_Row]) -> AnswerLog:
    students = {name: i for i, name in enumerate(dict.fromkeys(row.student for row in rows))}
    skills = {name: i for i, name in enumerate(sorted({row.skill for row in rows}))}
    rows = sorted(rows, key=lambda row: (students[row.student], row.order))  # stable
    counts = np.bincount([students[row.student] for row in rows], minlength=len(students))
    return AnswerLog(
        tuple(students),
        tuple(skills),
        np.array([skills[row.skill] for row in rows], dtype=np.int64),
        np.array([row.correct for row in rows], dtype=bool),
        np.concatenate([[0], np.cumsum(counts)]),
    )
