"""MAML through the model as it is written, task by task: what other ways to run are compared with."""

from __future__ import annotations

from maml_fast import MAML


def as_written(maml):
    """Return a MAML equal to this one that runs the model as it is written, whatever other form it has."""
    settings = {"loss_fn": maml.loss_fn, "adapt": list(maml.adapted), "fused": False}
    return MAML(maml.model, maml.inner_lr, maml.inner_steps, maml.order, **settings)
