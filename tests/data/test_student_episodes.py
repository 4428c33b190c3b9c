"""Students as tasks: what a network reads, what it is asked, and the loss of its answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import assert_follows_loop

from maml_fast import MAML, Episodes
from maml_fast.data import (
    NO_ANSWER,
    AnswerLog,
    StudentSampler,
    answer_loss,
    simulate_students,
    student_episodes,
)
from maml_fast.models import LSTM

W, R, N = 0.0, 1.0, NO_ANSWER  # wrong, right, not asked


def two_students() -> AnswerLog:
    """Ann: skill 1 right, 0 wrong, 1 wrong, 0 right. Bob: 0 right, 1 right."""
    skills, correct = np.array([1, 0, 1, 0, 0, 1]), np.array([True, False, False, True, True, True])
    return AnswerLog(("ann", "bob"), ("adding", "taking"), skills, correct, np.array([0, 4, 6]))


def test_what_is_read_and_what_is_asked() -> None:
    x_spt, y_spt, x_qry, y_qry = student_episodes(two_students(), [0, 1], n_support=1, n_answers=4)
    # places: wrong adding, wrong taking, right adding, right taking
    ann = [[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
    bob = [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert x_qry.tolist() == [[ann], [bob]]
    assert torch.equal(x_spt, x_qry[:, :, :1])
    assert y_spt.tolist() == [[[[N, R]]], [[[R, N]]]]
    assert y_qry.tolist() == [[[[N, N], [W, N], [N, W], [R, N]]], [[[N, N], [N, R], [N, N], [N, N]]]]
    assert {part.dtype for part in (x_spt, y_spt, x_qry, y_qry)} == {torch.float32}


def test_later_answers_are_left_out() -> None:
    short = student_episodes(two_students(), [0], n_support=1, n_answers=3)
    long = student_episodes(two_students(), [0], n_support=1, n_answers=4)
    assert torch.equal(short.x_qry, long.x_qry[:, :, :3])
    assert torch.equal(short.y_qry, long.y_qry[:, :, :3])


def test_the_loss_is_the_mean_over_answers() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 2, dtype=torch.float64)
    episodes = student_episodes(two_students(), [0], n_support=1, n_answers=4).to(torch.float64)
    asked = torch.stack([logits[0, 1, 0], logits[0, 2, 1], logits[0, 3, 0]])
    expected = F.binary_cross_entropy(asked.sigmoid(), torch.tensor([W, W, R], dtype=torch.float64))
    torch.testing.assert_close(answer_loss(logits, episodes.y_qry[0]), expected)
    assert answer_loss(logits, torch.full_like(logits, NO_ANSWER)).isnan()


@pytest.mark.parametrize("order", [1, 2])
def test_maml_follows_the_loop_over_students(order: int) -> None:
    log = simulate_students(3, 12, 4)
    episodes = student_episodes(log, range(3), n_support=5, n_answers=12).to(torch.float64)
    torch.manual_seed(0)
    net = LSTM(8, 5, 4).double()
    maml = MAML(net, inner_lr=0.7, inner_steps=2, order=order, loss_fn=answer_loss)
    assert_follows_loop(net, maml, episodes, answer_loss)
    assert maml(episodes).query_accuracy is None


def test_students_are_drawn_by_the_episodes_number() -> None:
    log = simulate_students(30, 8, 3)
    options = {"n_support": 4, "n_answers": 8, "seed": 5}
    whole = StudentSampler(log, **options, meta_batch_size=6).batch(0)
    thirds = StudentSampler(log, **options, meta_batch_size=2, batches=3)
    joined = Episodes(*map(torch.cat, zip(*thirds, strict=True)))
    assert all(torch.equal(a, b) for a, b in zip(whole, joined, strict=True))
    later = StudentSampler(log, **options, meta_batch_size=2, start_episode=4).batch(0)
    assert torch.equal(later.y_qry, thirds.batch(2).y_qry)
    assert not torch.equal(whole.y_qry, StudentSampler(log, 4, 8, 6, seed=6).batch(0).y_qry)


def test_every_student_is_drawn() -> None:
    log = AnswerLog(tuple("abc"), ("s",), np.zeros(9, int), np.arange(9) % 3 <= np.arange(9) // 3, np.arange(4) * 3)
    batch = StudentSampler(log, 2, 3, 300).batch(0)
    rights = (batch.y_spt == 1).sum(dim=(1, 2, 3)) + (batch.y_qry == 1).sum(dim=(1, 2, 3))  # 1, 2 or 3: a, b or c
    assert (torch.bincount(rights, minlength=4)[1:] > 70).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda log: StudentSampler(log, 2, 4, 1),
            ValueError,
            r"'bob' gave 2 answers, .*with_at_least\(3\)",
        ),
        (lambda log: StudentSampler(log, 3, 3, 1), ValueError, "n_answers must be at least 4, got 3"),
        (lambda log: StudentSampler(log, 0, 3, 1), ValueError, "n_support must be at least 1, got 0"),
        (lambda log: StudentSampler(log, 1, 3, 0), ValueError, "meta_batch_size must be at least 1, got 0"),
        (lambda log: StudentSampler(log.skills, 1, 3, 1), TypeError, "log must be an AnswerLog, got ndarray"),
        (lambda log: student_episodes(log, [1], n_support=3, n_answers=4), ValueError, "'bob' gave 2 answers"),
        (lambda log: student_episodes(log, [0], n_support=4, n_answers=4), ValueError, "below n_answers, got 4 and 4"),
    ],
)
def test_bad_arguments(make, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make(two_students())
