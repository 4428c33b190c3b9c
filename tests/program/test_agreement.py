"""What counts as the model's own outcome, up to rounding."""

import pytest
import torch

from maml_fast.program._agreement import difference, nudged
from maml_fast.program._recording import Outcome

LOGITS, GRADIENT, BUFFERS = torch.ones(4), torch.ones(100), torch.zeros(0)
OWN = Outcome(LOGITS, GRADIENT, BUFFERS)
PARAMETERS = {"weight": torch.ones(3, requires_grad=True), "scale": torch.ones(2)}


def judged(found, moved_by=0.0):
    """What differs, for a model whose gradient moves by a relative ``moved_by`` under rounding errors."""
    return difference(OWN, found, PARAMETERS, lambda _: OWN._replace(gradient=GRADIENT * (1 + moved_by)))


def test_equal_outcomes():
    assert judged(OWN) is None


@pytest.mark.parametrize(("off", "moved_by", "expected"), [
    (5e-4, 0.0, None),  # the rounding of every sum
    (2e-3, 0.0, "gradient"),
    (2e-3, 0.9e-3, "gradient"),
    (2e-3, 1.1e-3, None),  # ReLUs flip in the model itself
    (5e-2, 1.0, "gradient"),  # too much for rounding, whatever the model does
])  # fmt: skip
def test_gradient_may_move_as_far_as_the_models_own(off, moved_by, expected):
    assert judged(OWN._replace(gradient=GRADIENT * (1 + off)), moved_by) == expected


@pytest.mark.parametrize("what", ["logits", "buffers"])
def test_logits_and_buffers_have_fixed_tolerances(what):
    expected = OWN._replace(buffers=torch.ones(2))
    found = expected._replace(**{what: getattr(expected, what) * 1.002})
    assert difference(expected, found, PARAMETERS, lambda _: pytest.fail("no need to run it again")) == what


def test_the_second_run_has_parameters_within_rounding_errors():
    seen = {}
    difference(OWN, OWN._replace(gradient=GRADIENT * 1.002), PARAMETERS, lambda given: seen.update(given) or OWN)
    assert seen["scale"] is PARAMETERS["scale"]  # not learned
    assert seen["weight"].requires_grad
    assert seen["weight"].is_leaf
    assert 0 < (seen["weight"] - 1).abs().max() < 1e-5


def test_nudged_parameters_differ_between_attempts():
    first, second = (nudged(PARAMETERS["weight"], attempt, 0.01) for attempt in (0, 1))
    assert not torch.equal(first, second)
    assert (first - 1).abs().max() <= 0.0100001
