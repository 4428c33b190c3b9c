"""Accuracy at other numbers of classes than in training, for each head, with both kinds of batch norm statistics.

Trains MAML 5-way with each head, and evaluates every run at several ways: with the statistics of the queries' batch,
and with those of the support set. Writes ways.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from programs import add_arguments, check, conditions

from maml_fast.data._files import write_atomically
from maml_fast.inner_loop._heads import HEADS
from maml_fast.train import TrainConfig, evaluate_run, train

RECORD = "ways.json"
WAYS = (3, 5, 10, 20)


def main(arguments: list[str] | None = None) -> None:
    """Train, evaluate, write."""
    given = parse(arguments)
    rows: list[dict[str, Any]] = []
    for head in given.heads:
        with tempfile.TemporaryDirectory() as folder:
            rows += evaluations(given, head, Path(folder, "run"))
        write(given, rows)


def evaluations(given: argparse.Namespace, head: str, run: Path) -> Iterator[dict[str, Any]]:
    """Train one run, and evaluate it at every number of classes."""
    config = TrainConfig.for_dataset(
        given.dataset,
        root=given.root,
        head=head,
        hidden=given.hidden,
        k_query=5,
        meta_batch_size=given.tasks,
        inner_steps=given.steps,
        eval_inner_steps=given.steps,
        iterations=given.iterations,
        eval_every=given.iterations,
        test_episodes=given.episodes,
        threads=given.threads,
        seed=given.seed,
    )
    result = train(config, out=run)
    for n_way in given.ways:
        row = {"head": head, "seconds": result.seconds} | evaluate_run(run, n_episodes=given.episodes, n_way=n_way)
        print(line(row), flush=True)
        yield row


def line(row: dict[str, Any]) -> str:
    """Return a row as text."""
    both = (row, row["by_support"])
    return f"{row['head']:8} {row['n_way']:>2}-way  " + "  ".join(
        f"{each['accuracy']:.2%} ± {each['interval']:.2%}" for each in both
    )


def write(given: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the record so far."""
    asked = {name: value for name, value in vars(given).items() if name not in ("out", "root")}
    record = {**conditions(), "asked": asked, "rows": rows}
    write_atomically(given.out / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new folder for the record")
    add_arguments(parser)
    parser.add_argument("--heads", type=lambda names: names.split(","), default=list(HEADS), help="with commas")
    parser.add_argument("--ways", type=lambda ways: [*map(int, ways.split(","))], default=list(WAYS))
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--tasks", type=int, default=16, help="of a meta-batch")
    parser.add_argument("--steps", type=int, default=1, help="inner steps, in training and evaluation")
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--episodes", type=int, default=600)
    given = parser.parse_args(arguments)
    check(parser, given, RECORD)
    return given


if __name__ == "__main__":
    main(sys.argv[1:])
