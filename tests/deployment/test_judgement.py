"""The estimate of an adapted model's accuracy: each picture judged by what never saw it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from maml_fast import MAML, models
from maml_fast.algorithms import ProtoNet
from maml_fast.deployment._judgement import Judgement, balanced, judge

torch.manual_seed(0)
X = torch.rand(9, 1, 16, 16)
Y = torch.tensor([0, 1, 2, 0, 1, 0, 0, 1, 0])  # five, three and one


def learner(**options) -> MAML:
    return MAML(models.Conv4(3, hidden=4, image_size=16), inner_lr=0.4, inner_steps=2, **options)


@pytest.mark.parametrize("make", [learner, lambda: ProtoNet(models.Conv4(None, hidden=4, image_size=16))])
def test_each_is_judged_by_a_model_that_was_adapted_to_the_others(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maml_fast.deployment._judgement.PIXELS_AT_ONCE", 9 * 16 * 16 * 2)  # two at a time
    maml, told = make(), []
    judgement = judge(maml, X, Y, progress=lambda *done: told.append(done))
    assert judgement.is_judged.tolist() == [True, True, False, *[True] * 6]
    for i in (0, 4, 8):
        others = [j for j in range(9) if j != i]
        x, y = X[others][None], Y[others][None]
        with balanced(maml, y[0]):
            fast = maml.adapt(x, y)
        wanted = maml.predict_by_support(fast, x, X[i][None, None])[0, 0].softmax(0)
        torch.testing.assert_close(judgement.probabilities[i], wanted, rtol=1e-4, atol=1e-5)
    assert told[-1] == (8, 8)


def test_the_labels_determine_the_number_of_classes() -> None:
    judgement = judge(learner(head="zero"), X, Y.clamp(max=1))  # a model of three classes
    assert judgement.probabilities.shape == (9, 2)
    assert judgement.judged == 9


def test_a_class_weighs_the_same_however_many_pictures_it_has() -> None:
    """Every picture of a class twice leaves the steps as they were, without batch norm, which counts pictures."""
    maml = MAML(models.MLP((256, 16, 3)), inner_lr=0.4, inner_steps=2)
    more = torch.cat([torch.arange(9), torch.arange(9)[Y == 0]])
    found = []
    for numbers in (torch.arange(9), more):
        with balanced(maml, Y[numbers]):
            assert isinstance(maml.loss_fn, partial)
            found.append(maml.adapt(X[numbers][None], Y[numbers][None]))
        assert maml.loss_fn is F.cross_entropy
    for name, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][name])


def test_equal_classes_and_losses_of_ones_own_stay_as_they_are() -> None:
    own = partial(F.cross_entropy, label_smoothing=0.1)
    for maml, y in ((learner(), torch.arange(3)), (learner(loss_fn=own), Y)):
        before = maml.loss_fn
        with balanced(maml, y):
            assert maml.loss_fn is before


def test_the_summary_counts() -> None:
    nan = float("nan")
    rows = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [nan, nan]]
    judgement = Judgement(torch.tensor([0, 0, 1, 1]), torch.tensor(rows))
    assert judgement.predicted.tolist() == [0, 1, 1, -1]
    assert judgement.counts == [(1, 2), (1, 1)]
    assert (judgement.right, judgement.judged) == (2, 3)
    low, high = judgement.interval
    assert (low, high) == (pytest.approx(0.2077, abs=1e-4), pytest.approx(0.9385, abs=1e-4))  # Wilson, of 2 in 3
    assert "2 of 3 pictures classified correctly" in str(judgement)
    assert "1 not judged, the only picture of its class" in str(judgement)


def test_nothing_is_claimed_where_nothing_can_be_left_out() -> None:
    judgement = judge(learner(), X[:3], Y[:3])
    assert judgement.judged == 0
    assert str(judgement).startswith("accuracy unknown: every class has only one picture")
    assert judgement.described() == {"right": 0, "judged": 0, "pictures": 3}
