"""The time of a meta-iteration on several processes, and the share of summing their gradients.

python bench/many_processes.py --threads 2                                        # one process
torchrun --nproc-per-node 2 bench/many_processes.py --threads 1 [--fixed-order]   # two

Wall time is that of the slowest process; CPU time is summed over all processes, and is the better measure on a machine
that has other work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

import maml_fast as mf
from maml_fast.distributed import shard
from maml_fast.distributed._joining import joined
from maml_fast.train._meta_gradient import make_gradient

WORKLOADS = {  # a model, its inner loop, tasks of a meta-batch
    "conv4-64": (lambda: mf.models.Conv4(5, hidden=64), {"inner_steps": 1, "order": 2}, 32),
    "conv4-32": (lambda: mf.models.Conv4(5, hidden=32), {"inner_steps": 1, "order": 2}, 8),
    "tutorial": (lambda: mf.models.TutorialNet(5), {"inner_steps": 5, "order": 1}, 8),
}
WARM_UP = 2  # iterations


class Times(NamedTuple):
    """Medians in milliseconds: an iteration's wall and CPU time, and the time of summing the gradients."""

    wall: float
    cpu: float
    sum_wall: float


def main(arguments: Sequence[str] | None = None) -> dict[str, Times]:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    found = {}
    with joined() as group:
        bank = mf.data.load("strokes")["train"]
        for name in options.workloads.split(","):
            make, loop, n_tasks = WORKLOADS[name]
            maml = mf.MAML(make(), inner_lr=0.4, **loop)
            gradient = make_gradient(maml, group, n_tasks, in_order=options.fixed_order)
            optimizer = maml.make_optimizer(1e-3)
            sampler = shard(mf.EpisodeSampler(bank, 5, 1, 15, n_tasks), group.rank, group.size, uneven=True)
            episodes, flat = sampler.batch(0), torch.nn.utils.parameters_to_vector(maml.parameters()).detach()

            def iterate(gradient=gradient, optimizer=optimizer, episodes=episodes) -> None:
                optimizer.zero_grad()
                gradient(episodes)
                optimizer.step()

            def add(flat=flat, n_tasks=n_tasks, rows=sampler.meta_batch_size) -> None:
                if options.fixed_order:
                    group.sum_in_order(flat.expand(rows, -1), n_tasks)
                else:
                    group.all_reduce(flat)

            times, sums = (_measured(each, options.iterations) for each in (iterate, add))
            everyone = group.all_gather((*times, sums[0]))
            wall, cpu, sum_wall = zip(*everyone, strict=True)
            found[name] = Times(max(wall), sum(cpu), max(sum_wall))
            if group.leads:
                way = f"{group.size} x {options.threads}{' in order' * options.fixed_order}"
                told = ", ".join(f"{what} {value:.1f} ms" for what, value in found[name]._asdict().items())
                print(f"{name}: {way}: {told}")
    return found


def _measured(work, iterations: int) -> tuple[float, float]:
    """Median wall and CPU time, in milliseconds."""
    times = []
    for _ in range(WARM_UP + iterations):
        before = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - before[0], time.process_time() - before[1]))
    wall, cpu = zip(*times[WARM_UP:], strict=True)
    return 1e3 * statistics.median(wall), 1e3 * statistics.median(cpu)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--fixed-order", action="store_true")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="with commas between")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
