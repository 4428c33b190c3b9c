"""MAML through the model as it is written, task by task: what other ways to run are compared with."""

from __future__ import annotations

from maml_fast import MAML


def as_written(maml):
    """Return a MAML equal to this one that runs the model as it is written, whatever other form it has."""
    settings = {"loss_fn": maml.loss_fn, "adapted": list(maml.adapted), "fused": False}
    return MAML(maml.model, inner_lr=maml.inner_lr, inner_steps=maml.inner_steps, order=maml.order, **settings)
