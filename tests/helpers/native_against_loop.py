"""The native engine against the plain loop: loss and whole meta-gradient of one problem, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast import MAML, Episodes, use_engine

TASKS, SUPPORT, QUERIES, CLASSES, STEPS = 2, 4, 5, 3, 2


def episodes_of(
    *shape: int, targets: tuple[int, ...] | None = None, seed: int = 0, support: int = SUPPORT, queries: int = QUERIES
) -> Episodes:
    """Random inputs of this shape with labels, or with values of another."""
    generator = torch.Generator().manual_seed(seed)

    def draw(images: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(TASKS, images, *shape, generator=generator, dtype=torch.float64)
        if targets is None:
            return x, torch.randint(CLASSES, (TASKS, images), generator=generator)
        return x, torch.randn(TASKS, images, *targets, generator=generator, dtype=torch.float64)

    return Episodes(*draw(support), *draw(queries))


def outcome(model: nn.Module, episodes: Episodes, engine: str, **options: object) -> Tensor:
    """The loss, then the gradient of all parameters."""
    maml = MAML(model, **{"inner_lr": 0.05, "inner_steps": STEPS, **options})  # type: ignore[arg-type]
    parameters = [each for each in maml.parameters() if each.requires_grad]
    with use_engine(engine):
        loss = maml(episodes).loss
    gradient = torch.autograd.grad(loss, parameters)
    return torch.cat([loss.detach()[None], *(each.flatten() for each in gradient)])


def assert_native_is_right(model: nn.Module, episodes: Episodes, **options: object) -> None:
    """At both orders."""
    if not episodes.y_spt.is_floating_point():
        options.setdefault("loss_fn", F.cross_entropy)
    for order in (1, 2):
        ours, loops = (outcome(model, episodes, engine, order=order, **options) for engine in ("native", "loop"))
        assert loops[1:].norm() > 0
        assert (ours - loops).norm() <= 1e-9 * loops.norm(), f"order {order}"
