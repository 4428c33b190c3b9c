"""A leaderboard: algorithms on several nets, trained briefly on the data set "glyphs", which needs no download.

Images are in color, 28 x 28, because gray ones are nearly solved by comparing pixels. All runs have the same number of
meta-iterations. Every algorithm has one setting for all nets, close to that of its recipe. Writes leaderboard.json and
the table leaderboard.md, after every run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn
from zoo.mlps import OmniglotFC

from maml_fast import native
from maml_fast.algorithms import ALGORITHMS
from maml_fast.data._files import write_atomically
from maml_fast.train import TrainConfig, train
from maml_fast.train._record import describe_machine
from maml_fast.train._workbench import Workbench

RECORD, TABLE = "leaderboard.json", "leaderboard.md"

# The learned optimizers, whose meta-iterations take seconds, only on request.
USUAL = [name for name in ALGORITHMS if name not in ("learned-optimizer", "meta-lstm")]

Row = dict[str, Any]


def fully_connected(n_way: int | None, in_channels: int, image_size: int) -> nn.Module:
    """Build the fully connected net of Finn et al. 2017; without ``n_way`` it returns embeddings."""
    net = OmniglotFC(in_channels * image_size**2, n_way=n_way or 1)
    if n_way is None:
        net.classifier = nn.Identity()
    return net


NETS = {
    "conv4": "conv4",
    "conv4-strided": "conv4-strided",
    "fully-connected": f"{__file__}:fully_connected",
}
_LSTM = {"inner_steps": 5, "eval_inner_steps": 5, "order": 1, "meta_batch_size": 4, "meta_schedule": "cosine"}
SETTINGS: Mapping[str, Mapping[str, Any]] = {  # differences from the data set's defaults
    "maml++": {"inner_lr": 0.1, "inner_steps": 3, "multi_step_iterations": 0},
    "reptile": {
        "inner_lr": 1e-3,
        "inner_steps": 5,
        "eval_inner_steps": 50,
        "meta_batch_size": 5,
        "meta_lr": 1.0,
        "meta_schedule": "linear",
    },
    "protonet": {"n_way": 20, "eval_n_way": 5, "meta_batch_size": 2, "meta_lr": 1e-3},
    "learned-optimizer": {**_LSTM, "inner_lr": 0.1},
    "meta-lstm": {**_LSTM, "inner_lr": 0.3, "meta_lr": 5e-3},
}


def main(arguments: list[str] | None = None) -> None:
    """Train all, and write after each."""
    given = parse(arguments)
    rows: list[Row] = []
    for net in given.nets:
        for algorithm in given.algorithms:
            rows.append(result(given, algorithm, net))
            print(line(rows[-1]), flush=True)
            write(given, rows)


def result(given: argparse.Namespace, algorithm: str, net: str) -> Row:
    """Train one algorithm on one net, and evaluate it on the test classes."""
    config = config_of(given, algorithm, net)
    with tempfile.TemporaryDirectory() as folder:
        trained = train(config, out=Path(folder, "run"))
    names = ("accuracy", "interval", "episodes", "inner_steps", "batch_norm")
    return {
        "algorithm": algorithm,
        "net": net,
        **{name: trained.evaluation[name] for name in names},
        "iterations": trained.iterations,
        "seconds": trained.seconds,
        "settings": SETTINGS.get(algorithm, {}),
    }


def config_of(given: argparse.Namespace, algorithm: str, net: str) -> TrainConfig:
    return TrainConfig.for_dataset(
        "glyphs",
        channels="RGB",
        image_size=28,
        algorithm=algorithm,
        model=NETS[net],
        iterations=given.iterations,
        eval_every=given.iterations,
        eval_episodes=2,  # only the test at the end counts
        test_episodes=given.episodes,
        threads=given.threads,
        seed=given.seed,
        **SETTINGS.get(algorithm, {}),
    )


def line(row: Row) -> str:
    return f"{row['net']:16} {row['algorithm']:18} {percent(row)}  {row['seconds']:6.1f} s"


def percent(row: Row) -> str:
    return f"{row['accuracy']:.1%} ± {row['interval']:.1%}".replace("%", "").strip()


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table: a row for each algorithm, the best on its best net first, and a column for each net."""
    nets = list(dict.fromkeys(row["net"] for row in rows))
    of = {(row["algorithm"], row["net"]): row for row in rows}
    best = {
        name: max(row["accuracy"] for row in rows if row["algorithm"] == name)
        for name in dict.fromkeys(row["algorithm"] for row in rows)
    }
    lines = [f"| algorithm | {' | '.join(nets)} |", f"|---|{'--:|' * len(nets)}"]
    for name in sorted(best, key=lambda name: -best[name]):
        cells = [of.get((name, net)) for net in nets]
        shown = " | ".join("" if cell is None else f"{percent(cell)} ({cell['seconds']:.0f} s)" for cell in cells)
        lines.append(f"| {ALGORITHMS[name].title} | {shown} |")
    return "\n".join(lines) + "\n"


def write(given: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Write the record so far."""
    machine = describe_machine()
    del machine["command"]  # full of paths
    record = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "asked": {name: value for name, value in vars(given).items() if name != "out"},
        "data": Workbench.open(config_of(given, rows[0]["algorithm"], rows[0]["net"])).describe_data(),
        "machine": machine,
        "backend": str(native.backend()),
        "rows": rows,
    }
    write_atomically(given.out / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    write_atomically(given.out / TABLE, table(rows).encode())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new folder for the record")
    parser.add_argument("--algorithms", type=names_among(ALGORITHMS), default=USUAL, help="with commas")
    parser.add_argument("--nets", type=names_among(NETS), default=list(NETS), help="with commas")
    parser.add_argument("--iterations", type=int, default=200, help="meta-iterations of every run (%(default)s)")
    parser.add_argument("--episodes", type=int, default=300, help="test episodes (%(default)s)")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0, help="of weights and episodes (%(default)s)")
    given = parser.parse_args(arguments)
    if (given.out / RECORD).exists():
        parser.error(f"{given.out} holds a record already; choose another --out")
    return given


def names_among(known: Mapping[str, Any]) -> Any:
    """Return a parser of names with commas between."""

    def names(text: str) -> list[str]:
        asked = text.split(",")
        for name in asked:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name!r}; there are {', '.join(known)}")
        return asked

    return names


if __name__ == "__main__":
    main(sys.argv[1:])
