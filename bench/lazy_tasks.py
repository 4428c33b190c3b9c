"""Could ``compat.learn2learn.MAML`` batch the tasks of a loop by itself? Three designs, as fast as they could be.

python bench/lazy_tasks.py --threads 1 --seconds 20

The loop is that of learn2learn's examples: it reads the query loss of each task. The designs are written by hand on
mf.MAML, without the recording that each would need, so that their times are lower bounds:

asked: nothing runs until the optimizer's step, then all tasks at once. It applies where nothing of a task is read.
values: each task's query loss is computed when it is read, the gradients of all tasks at once before the step.
single: each task's loss and gradient is one native call, when the loss is read.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import parity
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import maml_fast as mf
from maml_fast.compat.learn2learn import algorithms
from maml_fast.compat.learn2learn.vision.models import CNN4, OmniglotCNN, OmniglotFC

INNER_LR, WAYS = 0.1, 5
TOLERANCE = 1e-6  # of gradients in float64, of nets that are sensitive to rounding
Gradients = list[Tensor]


class Case(NamedTuple):
    """A net, and the tasks of an iteration."""

    title: str
    model: Callable[[], nn.Module]
    tasks: int
    shots: int
    image: tuple[int, int, int]


CASES = (
    Case("OmniglotFC, 32 tasks of 5-way 1-shot", lambda: OmniglotFC(784, WAYS), 32, 1, (1, 28, 28)),
    Case("OmniglotCNN, 32 tasks of 5-way 1-shot", lambda: OmniglotCNN(WAYS), 32, 1, (1, 28, 28)),
    Case("CNN4-64 on 28x28, 32 tasks of 5-way 1-shot", lambda: CNN4(WAYS, 64, 4, 1, True, 64), 32, 1, (1, 28, 28)),
    Case("CNN4-64 on 84x84, 4 tasks of 5-way 5-shot", lambda: CNN4(WAYS), 4, 5, (3, 84, 84)),
)


class Iteration:
    """The gradient of one iteration over the tasks of a case, by the loop and by each design."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self._model = case.model().to(dtype)
        images = torch.randn(2, case.tasks, WAYS * case.shots, *case.image).to(dtype)
        labels = torch.arange(WAYS).repeat_interleave(case.shots).expand(case.tasks, -1)
        self._tasks = [(x, y, q, y) for x, q, y in zip(*images, labels, strict=True)]
        self._learner = algorithms.MAML(self._model, lr=INNER_LR)
        self._maml = mf.MAML(self._model, inner_lr=INNER_LR, inner_steps=1, order=2)

    def loop(self) -> Gradients:
        """Run the program as it is, with the import changed."""
        return self._gradients(self._run_loop)

    def asked(self) -> Gradients:
        """Run all tasks at once."""
        return self._gradients(self._run_all)

    def values(self) -> Gradients:
        """Compute the loss of each task at once, and their gradients together."""
        with torch.no_grad():
            for task in self._tasks:
                self._maml.task_results(mf.Episodes.from_tasks([task])).losses.item()
        return self._gradients(self._run_all)

    def single(self) -> Gradients:
        """Run each task by one call."""
        return self._gradients(self._run_each)

    def _gradients(self, run: Callable[[], None]) -> Gradients:
        self._model.zero_grad()
        run()
        return [parameter.grad.clone() for parameter in self._model.parameters() if parameter.grad is not None]

    def _run_loop(self) -> None:
        for x_spt, y_spt, x_qry, y_qry in self._tasks:
            learner = self._learner.clone()
            learner.adapt(F.cross_entropy(learner(x_spt), y_spt))
            loss = F.cross_entropy(learner(x_qry), y_qry)
            (loss / len(self._tasks)).backward()
            loss.item()

    def _run_all(self) -> None:
        self._maml(mf.Episodes.from_tasks(self._tasks)).loss.backward()

    def _run_each(self) -> None:
        for task in self._tasks:
            loss = self._maml(mf.Episodes.from_tasks([task])).loss
            (loss / len(self._tasks)).backward()
            loss.item()


def ways_of(iteration: Iteration) -> dict[str, Callable[[], Gradients]]:
    """Return the loop, and the designs by their names."""
    return {
        "loop": iteration.loop,
        "asked": iteration.asked,
        "values": iteration.values,
        "single": iteration.single,
    }


def check(case: Case) -> float:
    """Return the largest relative error of a design's gradients, in float64; raise if it is too large."""
    loop, *designs = ways_of(Iteration(case, torch.float64)).values()
    wanted = loop()
    return max(parity.require(parity.relative_error(run(), wanted), TOLERANCE, case.title) for run in designs)


def measure(case: Case, seconds: float) -> dict[str, float]:
    """Return the median CPU seconds of an iteration; the ways take turns."""
    ways = ways_of(Iteration(case, torch.float32))
    for run in ways.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times["single"]) < 3:
        for name, run in ways.items():
            begun = time.process_time()
            run()
            times[name].append(time.process_time() - begun)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description="The loop of learn2learn's examples, and three ways to batch it.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each net")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print("| CPU time of an iteration | loop | asked | values | single | error |\n|---|--:|--:|--:|--:|--:|")
    for case in CASES:
        error = check(case)
        found = measure(case, asked.seconds)
        cells = [f"{1e3 * each:.0f} ms ({found['loop'] / each:.1f}x)" for each in found.values()]
        print(f"| {case.title} | {' | '.join(cells)} | {error:.0e} |", flush=True)


if __name__ == "__main__":
    main()
