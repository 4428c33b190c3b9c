"""Two versions of maml_fast on the same workloads, an iteration of each by turns.

git worktree add ../before REVISION
python bench/versions.py ../before . --seconds 20 W1 W2-order2 F conv4-leaky-relu-order1

Each version runs in a process of its own, with the workloads and the kernels of its checkout. Both are first compared
with the plain loop in float64. Other work on the machine slows neighbors in time alike, so that the median ratio of
neighbors tells which version is faster where the medians alone do not.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

WARM_UP = 2  # iterations that are not timed
FEWEST = 5  # pairs of iterations


class Version:
    """A checkout's learner of one workload, in a process of its own; a context manager."""

    def __init__(self, checkout: Path, workload: str, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(checkout), workload, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Version:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, question: str) -> list[float]:
        """Return errors of loss and meta-gradient ("parity"), or seconds of an iteration, wall and CPU ("iterate")."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(question, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the process ended at {question!r}; its error is above")
        return [float(number) for number in answer.split()]


def serve(checkout: Path, workload: str, threads: int) -> None:
    """Answer the questions that come by standard input, with that checkout's maml_fast."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    sys.path[:1] = [str(checkout), str(checkout / "bench")]
    import parity
    import torch
    from peers import OURS, TRUTH
    from place import Place
    from workloads import named

    Place(threads).keep_to()
    work = named(workload)
    learner, episodes = OURS(work, work.start(torch.float32)), work.episodes()
    for line in sys.stdin:
        if line.strip() == "parity":
            numbers = list(parity.check(work.for_parity(), TRUTH, precision=None)[:2])
        else:
            wall, cpu = time.perf_counter(), time.process_time()
            learner.iteration(episodes)
            numbers = [time.perf_counter() - wall, time.process_time() - cpu]
        print(*numbers, file=answers, flush=True)


def compare(checkouts: list[Path], workload: str, seconds: float, threads: int) -> str:
    """Return a row of the table."""
    with Version(checkouts[0], workload, threads) as before, Version(checkouts[1], workload, threads) as after:
        errors = [max(version.ask("parity")) for version in (before, after)]
        for _ in range(WARM_UP):
            once = before.ask("iterate")[0] + after.ask("iterate")[0]
        pairs = [(before.ask("iterate"), after.ask("iterate")) for _ in range(max(int(seconds / once), FEWEST))]
    cells = [workload]
    for of_version in zip(*pairs, strict=True):
        low, median, high = statistics.quantiles([1e3 * wall for wall, _ in of_version], n=4)
        cells.append(f"{median:.1f} ({low:.1f}–{high:.1f})")
    for clock in range(2):
        low, median, high = statistics.quantiles([then[clock] / now[clock] for then, now in pairs], n=4)
        cells.append(f"{median:.2f} ({low:.2f}–{high:.2f})")
    return "| " + " | ".join([*cells, str(len(pairs)), f"{max(errors):.0e}"]) + " |"


def main() -> None:
    """Print the table, a row at a time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, help="a checkout of the earlier version")
    parser.add_argument("after", type=Path, help="a checkout of the later version")
    parser.add_argument("workloads", nargs="+", help="W1, W2-order2, F, or a net of the zoo and an order: lenet-order1")
    parser.add_argument("--seconds", type=float, default=20, help="time for a workload's pairs (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's threads (default: %(default)s)")
    arguments = parser.parse_args()
    checkouts = [arguments.before.resolve(), arguments.after.resolve()]
    print("| workload | before, ms | after, ms | before ÷ after | the same of CPU time | pairs | parity |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for workload in arguments.workloads:
        print(compare(checkouts, workload, arguments.seconds, arguments.threads), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        main()
