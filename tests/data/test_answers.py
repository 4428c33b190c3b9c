"""Logs of answers, and the tables that they are read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maml_fast.data import AnswerLog, read_answers, simulate_students

pytestmark = pytest.mark.backendless

TABLE = """student,skill,correct,order,hint
ann,adding,1,3,x
bob,taking,0,10,
ann,taking,0,1,
ann,adding,1,2.5,
bob,adding,1.0,9,
"""


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "answers.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_reads_a_table_in_any_order(tmp_path: Path) -> None:
    log = read_answers(written(tmp_path, TABLE))
    assert log.student_names == ("ann", "bob")
    assert log.skill_names == ("adding", "taking")
    assert log.skills.tolist() == [1, 0, 0, 0, 1]
    assert log.correct.tolist() == [False, True, True, True, False]
    assert log.counts.tolist() == [3, 2]
    assert "5 answers of 2 students on 2 skills" in repr(log)


def test_takes_other_names_and_encodings(tmp_path: Path) -> None:
    text = "user_id;x,order_id,skill_name,user_id,right\n,1,Größe,7,1\n"
    path = written(tmp_path, text, "latin-1")
    names = {"student": "user_id", "skill": "skill_name", "correct": "right", "order": "order_id"}
    assert read_answers(path, **names, encoding="latin-1").skill_names == ("Größe",)
    with pytest.raises(ValueError, match=r"is not in utf-8-sig: .*give its encoding, perhaps 'latin-1'"):
        read_answers(path, **names)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert read_answers(written(tmp_path, TABLE, "utf-8-sig")).n_students == 2


def test_equal_orders_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = "".join(f"ann,skill{skill},1,5\n" for skill in (2, 0, 1))
    log = read_answers(written(tmp_path, "student,skill,correct,order\n" + rows))
    assert log.skills.tolist() == [2, 0, 1]


def test_rows_without_a_skill_are_left_out_and_counted(tmp_path: Path) -> None:
    said: list[str] = []
    log = read_answers(written(tmp_path, TABLE + "cid,,1,1,\nann, ,0,7,\n"), say=said.append)
    assert log.student_names == ("ann", "bob")
    assert len(log.skills) == 5
    assert len(said) == 1
    assert "left out 2 of 7 rows, which name no skill" in said[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("ann,adding,2,4,", "answers.csv, line 7: correct must be 0 or 1, got '2'"),
        ("ann,adding,yes,4,", "line 7: correct must be a number, got 'yes'"),
        ("ann,adding,,4,", "line 7: correct must be a number, got ''"),
        ("ann,adding,1,first,", "line 7: order must be a number, got 'first'"),
        ("ann,adding,1,nan,", "line 7: order must be a number, got 'nan'"),
        (",adding,1,4,", "line 7: student is empty"),
        ("ann,adding", "line 7: correct must be a number, got ''"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_answers(written(tmp_path, TABLE + row + "\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'student'; its header is nothing"),
        (
            "student,skill,right,order\n",
            r"no column 'correct'; its header is student, skill, right, order; give correct=",
        ),
        ("student,skill,correct,order\n", "answers.csv holds no answers"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_answers(written(tmp_path, text))
    with pytest.raises(FileNotFoundError):
        read_answers(tmp_path / "nowhere.csv")


def test_selects_students() -> None:
    log = simulate_students(4, 6, 3)
    some = log.select([3, 1])
    assert some.student_names == ("student3", "student1")
    assert some.n_skills == 3
    for place, student in enumerate((3, 1)):
        for ours, theirs in zip(some.answers_of(place), log.answers_of(student), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="a log needs at least one student"):
        log.select([])
    for student in (4, -1):
        with pytest.raises(IndexError, match=f"there is no student {student}; there are 4"):
            log.select([student])
        with pytest.raises(IndexError, match=f"there is no student {student}; there are 4"):
            log.answers_of(student)


def test_selects_those_who_answered_enough(tmp_path: Path) -> None:
    log = read_answers(written(tmp_path, TABLE))
    assert log.with_at_least(3).student_names == ("ann",)
    with pytest.raises(ValueError, match="no student gave 4 answers; the most is 3"):
        log.with_at_least(4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": np.array([0, 3])}, "2 students need 3 starts"),
        ({"correct": np.ones(4, bool)}, "5 skills and 4 answers"),
        ({"starts": np.array([0, 5, 5])}, "student 'bob' has no answers"),
        ({"skills": np.array([0, 1, 2, 0, 0])}, "skills are numbered 0 to 1, got 0 to 2"),
    ],
)
def test_logs_that_do_not_fit(changes: dict, message: str) -> None:
    parts = {
        "student_names": ("ann", "bob"),
        "skill_names": ("adding", "taking"),
        "skills": np.array([1, 0, 0, 0, 1]),
        "correct": np.ones(5, bool),
        "starts": np.array([0, 3, 5]),
    }
    AnswerLog(**parts)
    with pytest.raises(ValueError, match=message):
        AnswerLog(**{**parts, **changes})
