"""Accuracy against wall time: the tutorial's recipe, trained by maml_fast and by the tutorial's own loop.

Both start from the same weights and see the same episodes in the same order. They take turns, so that other work of
the machine slows both alike. Only training is timed; the tutorial's loop also scores the queries after its inner steps,
as the original does. After every turn both are evaluated in the same way on the same test episodes. Writes race.json
and race.png.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from peers import Learner
from peers.nets import TUTORIAL
from peers.ours import Ours
from peers.tutorial import TutorialLoop
from picture import OURS_COLOR, PEER_COLOR
from programs import add_arguments, check, conditions
from workloads import Workload

from maml_fast.data import Episodes
from maml_fast.data._files import write_atomically
from maml_fast.train import TrainConfig
from maml_fast.train._networks import make_model
from maml_fast.train._plots import GRID
from maml_fast.train._tiles import FAINT, INK
from maml_fast.train._workbench import Workbench

RECORD = "race.json"
RECIPE = "tutorial-omniglot-5w1s"
RACERS: dict[type[Learner], str] = {Ours: OURS_COLOR, TutorialLoop: PEER_COLOR}
ENDLESS = 10**9  # iterations

Point = dict[str, float]


class Racer:
    """A peer in training, with its clock and its accuracies."""

    def __init__(self, peer: type[Learner], bench: Workbench) -> None:
        self.bench = bench
        start = list(make_model(bench.config, bench.data["train"].image_shape).parameters())
        self.learner = peer(workload_of(bench), start)
        self.batches: Iterator[Episodes] = bench.training_batches(0)
        self.iterations, self.seconds = 0, 0.0
        self.points: list[Point] = []

    def train(self, seconds: float) -> None:
        """Train until ``seconds`` of training have passed."""
        while self.seconds < seconds:
            started = time.perf_counter()
            self.learner.iteration(next(self.batches))
            self.seconds += time.perf_counter() - started
            self.iterations += 1

    def evaluate(self) -> None:
        """Record the accuracy of the present weights, by maml_fast's evaluation."""
        with torch.no_grad():
            for theirs, ours in zip(self.learner.parameters, self.bench.learner.model.parameters(), strict=True):
                ours.copy_(theirs)
        row = self.bench.evaluate("test", self.bench.config.test_episodes)
        point = {"seconds": self.seconds, "iterations": self.iterations}
        self.points.append({**point, "accuracy": row["accuracy"], "interval": row["interval"]})


def workload_of(bench: Workbench) -> Workload:
    """Return the recipe as a workload for the benchmarks' peers."""
    config = bench.config
    return Workload(
        "race",
        RECIPE,
        model=lambda: make_model(config, bench.data["train"].image_shape),
        network=TUTORIAL,
        meta_batch_size=config.meta_batch_size,
        inner_steps=config.inner_steps,
        order=config.order,
        inner_lr=config.inner_lr,
        meta_lr=config.meta_lr,
        n_way=config.n_way,
        k_shot=config.k_shot,
        k_query=config.k_query,
    )


def race(bench: Workbench, minutes: float, every: float) -> dict[str, list[Point]]:
    """Train each peer for this many minutes and evaluate it every ``every`` seconds; return the curves by name."""
    racers = {peer.title: Racer(peer, bench) for peer in RACERS}
    turns = max(1, math.ceil(60 * minutes / every))
    for turn in range(turns + 1):
        for name, racer in racers.items():
            racer.train(60 * minutes * turn / turns)
            racer.evaluate()
            point = racer.points[-1]
            print(
                f"{point['seconds']:8.1f} s  {name:20} {point['accuracy']:.2%} ± {point['interval']:.2%} "
                f"after {racer.iterations} iterations",
                flush=True,
            )
    return {name: racer.points for name, racer in racers.items()}


def draw(curves: dict[str, list[Point]], title: str, caption: str) -> bytes:
    """PNG of the curves with their 95 % bands."""
    figure = Figure(figsize=(9.0, 5.2), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, points), color in zip(curves.items(), RACERS.values(), strict=True):
        minutes = [point["seconds"] / 60 for point in points]
        low, high = ([p["accuracy"] + sign * p["interval"] for p in points] for sign in (-1, 1))
        axes.fill_between(minutes, low, high, color=color, alpha=0.2, linewidth=0)
        last = points[-1]
        label = f"{name}: {last['accuracy']:.1%} ± {last['interval']:.1%} after {last['iterations']:,} iterations"
        axes.plot(minutes, [p["accuracy"] for p in points], color=color, linewidth=2.2, marker="o", markersize=3.5,
                  label=label)  # fmt: skip
    axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", color=INK)
    axes.set_xlabel(f"minutes of training\n{caption}", color=FAINT, fontsize=9)
    axes.set_ylabel("test accuracy", color=INK)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def describe(bench: Workbench, asked: argparse.Namespace) -> dict[str, Any]:
    """Return the conditions of the race, for the record."""
    config = bench.config
    return {
        **conditions(),
        "recipe": RECIPE,
        "overrides": {name: value for name, value in config.overrides.items() if name != "iterations"},
        "data": bench.describe_data(),
        "minutes": asked.minutes,
        "every_seconds": asked.every,
        "batch_norm": bench.learner.batch_norm,
        "load_average": os.getloadavg(),
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="accuracy_race.py", description=__doc__.split("\n\n")[0])
    add_arguments(parser, ("omniglot", "strokes"))
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, each (default: %(default)s)")
    parser.add_argument("--every", type=float, default=45.0, help="seconds of training between evaluations (45)")
    parser.add_argument("--episodes", type=int, default=600, help="of every evaluation (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("race"), help="folder for the record (default: %(default)s)")
    asked = parser.parse_args(arguments)
    for name in ("minutes", "every"):
        value = getattr(asked, name)
        if not 0 < value < math.inf:
            parser.error(f"--{name} must be a positive number, got {value}")
    check(parser, asked, RECORD)
    return asked


def open_bench(asked: argparse.Namespace) -> Workbench:
    data = {"root": asked.root} if asked.dataset == "omniglot" else {"dataset": asked.dataset, "split": None}
    settings = {"seed": asked.seed, "test_episodes": asked.episodes, "iterations": ENDLESS}
    return Workbench.open(TrainConfig.for_recipe(RECIPE, **data, **settings))


def main(arguments: list[str] | None = None) -> None:
    asked = parse(arguments)
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    bench = open_bench(asked)
    record = describe(bench, asked)
    curves = race(bench, asked.minutes, asked.every)
    machine = record["machine"]
    caption = (
        f"{machine['processor']}, threads: {machine['threads']}; {record['backend']}\n"
        f"evaluations ({asked.episodes} episodes, same for both) are not on the clock"
    )
    title = f"The tutorial's recipe on {bench.config.dataset}: test accuracy against training time"
    write_atomically(asked.out / RECORD, (json.dumps({**record, "curves": curves}, indent=1) + "\n").encode())
    write_atomically(asked.out / "race.png", draw(curves, title, caption))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"accuracy_race.py: error: {error}")
