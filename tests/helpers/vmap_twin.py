"""MAML through vmap: what the execution operation by operation is compared with."""

from __future__ import annotations

from maml_fast import MAML


def by_vmap(maml):
    """Return a MAML equal to this one that runs through vmap even where its network could be recorded."""
    twin = MAML(maml.model, maml.inner_lr, maml.inner_steps, maml.order, loss_fn=maml.loss_fn, adapt=list(maml.adapted))
    twin._forward_tasks._program = lambda: "asked for"
    return twin
