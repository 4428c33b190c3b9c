"""The time of an iteration on a quiet machine, and beside a busy process for every core.

python bench/busy.py --workloads sine-relu-order2,mlp-order2 --peers jax-vmap

Threads that wait for each other wait long where the system lets others run: what is quick on a quiet machine may take a
hundred times as long beside a neighbor.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from child import Child
from contestant import Contestant
from peers import OURS
from place import Place

from maml_fast.native import usable_cores


def main(arguments: Sequence[str] | None = None) -> dict[tuple[str, str], tuple[float, float]]:
    """Measure, print and return milliseconds, quiet and busy, by workload and peer."""
    options = _options(arguments)
    place, found = Place(options.threads), {}
    for workload in options.workloads.split(","):
        for peer in (OURS.name, *filter(None, options.peers.split(","))):
            with Child(f"{peer} on {workload}", Contestant, workload, peer, place) as child:
                quiet = 1e3 * statistics.median(child.call("times", options.seconds))
                with busy_cores(usable_cores()):
                    busy = 1e3 * statistics.median(child.call("times", options.seconds))
            found[workload, peer] = quiet, busy
            print(
                f"{workload:24} {peer:12} {quiet:9.3f} ms quiet  {busy:9.3f} ms busy  {busy / quiet:6.1f}x", flush=True
            )
    return found


@contextmanager
def busy_cores(number: int) -> Iterator[None]:
    """Keep this many processes busy inside the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="sine-relu-order2,sine-relu-5-steps-order2", help="with commas")
    parser.add_argument("--peers", default="jax-vmap", help="beside maml_fast, with commas")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--threads", type=int, default=usable_cores())
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
