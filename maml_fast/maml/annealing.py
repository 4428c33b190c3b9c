"""What MAML does differently early in meta-training (Antoniou, Edwards & Storkey 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from maml_fast.maml.checks import check_whole

__all__ = ["Annealing"]

LEAST = 0.03  # of an even share, for the loss after an earlier step: as in the authors' code


@dataclass(frozen=True)
class Annealing:
    """How an iteration's order and step weights follow from its number; by default they do not.

    Attributes:
        first_order_iterations: so many iterations at order 1, before those at MAML's own order (section 4,
            derivative-order annealing).
        multi_step_iterations: so many iterations whose loss is a weighted mean of the query losses after every inner
            step, from equal weights on towards the last step alone, which is the loss afterwards (section 4, multi-step
            loss).

    Raises:
        ValueError: for what is no number of iterations.
    """

    first_order_iterations: int = 0
    multi_step_iterations: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_whole(name, value, least=0)

    def order(self, iteration: int, afterwards: int) -> int:
        """The order of an iteration, counted from 0."""
        return 1 if iteration < self.first_order_iterations else afterwards

    def step_weights(self, iteration: int, steps: int) -> tuple[float, ...] | None:
        """The weights of the query losses after steps 1, 2, ..., which add up to 1; ``None``: the last step alone."""
        if iteration >= self.multi_step_iterations or steps < 2:
            return None
        share, progress = 1 / steps, iteration / self.multi_step_iterations
        earlier = max(share * (1 - progress), share * LEAST)
        return *(earlier,) * (steps - 1), 1 - (steps - 1) * earlier

    def stage(self, iteration: int) -> tuple[bool, int | None]:
        """Equal for iterations that have the same order and weights."""
        still = iteration < self.multi_step_iterations
        return iteration < self.first_order_iterations, iteration if still else None
