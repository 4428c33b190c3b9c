"""Programs that people have, with the library that they import and with maml_fast: CPU time of an iteration.

python bench/drop_in.py --learn2learn CHECKOUT --dragen1860 CHECKOUT --rounds 3 anil_fc100 dragen1860_omniglot

CHECKOUT is a copy of the original's repository; learn2learn's has to be built, and its examples need torchvision. No
program is changed, except that `betas=(0, 0.999)`, which current versions of torch reject, becomes `(0.0, 0.999)`.
Tasks are random images of the sizes that the program's data set has. Every run has a process of its own, and the two
libraries take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

LIBRARIES = ("original", "maml_fast")
SIZES = {"mini-imagenet": (3, 84), "omniglot": (1, 28), "fc100": (3, 32), "cifarfs": (3, 32)}
WARM_UP = 1  # iterations that are not timed, after the first


class Example(NamedTuple):
    """An example of learn2learn: its file, the arguments of its main, and what it prints after each iteration."""

    file: str
    arguments: dict[str, Any]
    prints: str = "Iteration"


EXAMPLES = {
    "maml_toy": Example("maml_toy.py", {}, ""),
    "maml_omniglot": Example("vision/maml_omniglot.py", {"meta_batch_size": 32, "cuda": False}),
    "meta_mnist": Example("vision/meta_mnist.py", {"tps": 8}, "Loss"),
    "anil_fc100": Example("vision/anil_fc100.py", {"meta_bsz": 4}),
    "anilkfo_cifarfs": Example("vision/anilkfo_cifarfs.py", {"meta_batch_size": 4}),
    "metacurvature_fc100": Example("vision/metacurvature_fc100.py", {"meta_batch_size": 4}),
    "maml_miniimagenet": Example("vision/maml_miniimagenet.py", {"meta_batch_size": 2}),
    "reptile_miniimagenet": Example("vision/reptile_miniimagenet.py", {"meta_bsz": 2, "test_steps": 1}),
}


class Net(NamedTuple):
    """A net of dragen1860's, as a config list, and the settings of the script that trains it."""

    config: list[tuple[str, list[Any]]]
    settings: dict[str, Any]


def _strided(channels: int, kernel: int, stride: int) -> list[tuple[str, list[Any]]]:
    return [("conv2d", [64, channels, kernel, kernel, stride, 0]), ("relu", [True]), ("bn", [64])]


def _pooled(channels: int, stride: int) -> list[tuple[str, list[Any]]]:
    layers: list[tuple[str, list[Any]]] = [("conv2d", [32, channels, 3, 3, 1, 0]), ("relu", [True]), ("bn", [32])]
    return [*layers, ("max_pool2d", [2, stride, 0])]


def _classifier(features: int) -> list[tuple[str, list[Any]]]:
    return [("flatten", []), ("linear", [5, features])]


NETS = {
    "dragen1860_omniglot": Net(
        [*_strided(1, 3, 2), *_strided(64, 3, 2), *_strided(64, 3, 2), *_strided(64, 2, 1), *_classifier(64)],
        {"task_num": 32, "imgsz": 28, "imgc": 1, "update_lr": 0.4},
    ),
    "dragen1860_miniimagenet": Net(
        [*_pooled(3, 2), *_pooled(32, 2), *_pooled(32, 2), *_pooled(32, 1), *_classifier(800)],
        {"task_num": 4, "imgsz": 84, "imgc": 3, "update_lr": 0.01},
    ),
}
COMMON = {"n_way": 5, "k_spt": 1, "k_qry": 15, "meta_lr": 1e-3, "update_step": 5, "update_step_test": 10}

Clock = Callable[[], None]  # called after every iteration


class DoneError(Exception):
    """Enough iterations have been timed."""


class Tasks:
    """Tasks of a few random images around the mean image of each class, the same in every process."""

    def __init__(self, size: tuple[int, int], ways: int, samples: int) -> None:
        import torch

        channels, side = size
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(ways).repeat_interleave(samples)
        self._tasks = []
        for _ in range(8):
            means = torch.randn(ways, 1, channels, side, side, generator=generator)
            noise = torch.randn(ways, samples, channels, side, side, generator=generator)
            self._tasks.append(((means + 0.5 * noise).flatten(0, 1), labels))
        self._drawn = 0

    def sample(self) -> Any:
        """Return the images and labels of the next task."""
        self._drawn += 1
        images, labels = self._tasks[self._drawn % len(self._tasks)]
        return images.clone(), labels.clone()

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.sample()


class TaskSets(tuple[Tasks, ...]):
    """The tasks for training, validation and testing."""

    train = property(lambda self: self[0])
    validation = property(lambda self: self[1])
    test = property(lambda self: self[2])


def task_sets(name: str, train_ways: int, train_samples: int, test_ways: int, test_samples: int, **_: Any) -> TaskSets:
    """Stand in for ``get_tasksets``."""
    sizes = (train_ways, train_samples), (test_ways, test_samples), (test_ways, test_samples)
    return TaskSets(Tasks(SIZES[name], *each) for each in sizes)


def images_of(size: tuple[int, int]) -> type:
    """Return a class that stands in for a data set of 20 classes with 20 images each."""
    import torch

    class Images(torch.utils.data.Dataset):
        def __init__(self, *_: Any, **__: Any) -> None:
            channels, side = size
            self.images = torch.rand(400, channels, side, side, generator=torch.Generator().manual_seed(0))
            self.labels = [i // 20 for i in range(400)]

        def __getitem__(self, i: int) -> Any:
            return self.images[i], self.labels[i]

        def __len__(self) -> int:
            return len(self.labels)

    return Images


def run_example(example: Example, checkout: Path, library: str, clock: Clock) -> None:
    """Run an example of learn2learn, until the clock ends it."""
    if library == "original":
        sys.path.insert(0, str(checkout))
    else:
        from maml_fast.compat.learn2learn._alias import install_alias

        install_alias()
    import learn2learn
    import learn2learn.vision

    learn2learn.vision.benchmarks.get_tasksets = task_sets
    learn2learn.vision.datasets.FC100 = images_of((3, 32))
    if example.file.endswith("meta_mnist.py"):
        import torchvision.datasets

        torchvision.datasets.MNIST = images_of((1, 28))
    path = checkout / "examples" / example.file

    def printed(*values: Any, **_: Any) -> None:
        if values and str(values[0]).startswith(example.prints):
            clock()

    scope: dict[str, Any] = {"__name__": "example", "print": printed}
    exec(compile(path.read_text().replace("betas=(0,", "betas=(0.0,"), str(path), "exec"), scope)
    scope["main"](**example.arguments)


def run_net(net: Net, checkout: Path, library: str, clock: Clock) -> None:
    """Train a net of dragen1860's, until the clock ends it."""
    import torch

    if library == "original":
        sys.path.insert(0, str(checkout))
        from meta import Meta
    else:
        from maml_fast.compat.dragen1860 import Meta
    settings = types.SimpleNamespace(**COMMON, **net.settings)
    torch.manual_seed(0)
    meta = Meta(settings, net.config)
    tasks, size = settings.task_num, (settings.imgc, settings.imgsz, settings.imgsz)
    generator = torch.Generator().manual_seed(1)
    x_spt = torch.randn(tasks, 5, *size, generator=generator)
    x_qry = torch.randn(tasks, 75, *size, generator=generator)
    y_spt, y_qry = torch.arange(5).repeat(tasks, 1), torch.arange(5).repeat_interleave(15).repeat(tasks, 1)
    while True:
        meta(x_spt, y_spt, x_qry, y_qry)
        clock()


def seconds_of(program: str, library: str, checkout: Path, iterations: int, threads: int) -> list[float]:
    """Return the CPU seconds of some iterations, in this process."""
    import torch

    torch.set_num_threads(threads)
    times: list[float] = []

    def clock() -> None:
        times.append(time.process_time())
        if len(times) > iterations + WARM_UP:
            raise DoneError

    try:
        if program in NETS:
            run_net(NETS[program], checkout, library, clock)
        else:
            run_example(EXAMPLES[program], checkout, library, clock)
    except DoneError:
        pass
    return [after - before for before, after in pairwise(times[WARM_UP:])]


def measure(program: str, checkout: Path, asked: argparse.Namespace) -> str:
    """Return a row of the table."""
    medians: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    for _ in range(asked.rounds):
        for library, found in medians.items():
            command = [sys.executable, __file__, "--one", library, "--checkout", str(checkout), program]
            command += ["--iterations", str(asked.iterations), "--threads", str(asked.threads)]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found.append(statistics.median(json.loads(out.splitlines()[-1])))
    ratios = [before / now for before, now in zip(*medians.values(), strict=True)]
    cells = [f"{1e3 * statistics.median(each):.3g} ms" for each in medians.values()]
    spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
    return f"| `{program}` | {' | '.join(cells)} | {statistics.median(ratios):.2f}x ({spread}) |"


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description="Programs of others, as they are and with maml_fast.")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join((*EXAMPLES, *NETS)))
    parser.add_argument("--learn2learn", type=Path, help="a built checkout of learn2learn")
    parser.add_argument("--dragen1860", type=Path, help="a checkout of dragen1860's MAML-Pytorch")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each library")
    parser.add_argument("--iterations", type=int, default=5, help="timed iterations of a process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--checkout", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    unknown = [name for name in asked.programs if name not in EXAMPLES and name not in NETS]
    if unknown:
        parser.error(f"no such program: {', '.join(unknown)}; choose from {', '.join((*EXAMPLES, *NETS))}")
    if asked.one:
        warnings.simplefilter("ignore")
        (program,) = asked.programs
        print(json.dumps(seconds_of(program, asked.one, asked.checkout, asked.iterations, asked.threads)))
        sys.stdout.flush()
        os._exit(0)  # programs may have started threads
    print("| program | original | maml_fast | speedup |\n|---|--:|--:|--:|")
    for program in asked.programs or (*EXAMPLES, *NETS):
        checkout = asked.dragen1860 if program in NETS else asked.learn2learn
        if checkout is None:
            parser.error(f"{program} needs --{'dragen1860' if program in NETS else 'learn2learn'} CHECKOUT")
        print(measure(program, checkout, asked), flush=True)


if __name__ == "__main__":
    main()
