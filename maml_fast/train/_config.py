"""What a training run is asked to do: its arguments and their checks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from maml_fast._arguments import Kind, choice, flag, instance, location, number, optional, settle, takes, text, whole
from maml_fast.algorithms import ALGORITHMS, Settings
from maml_fast.algorithms._protonet import DISTANCES
from maml_fast.data._conversion import MOST_SIZE
from maml_fast.data._gpu_sampler import check_device
from maml_fast.maml._arguments import MOST_STEPS, STEPS
from maml_fast.maml._chunks import TASK_CHUNK, TaskChunk
from maml_fast.maml._heads import HEADS, Head
from maml_fast.maml._inner_optimizers import INNER_OPTIMIZERS
from maml_fast.program._batch_norm import InnerBatchNorm
from maml_fast.train._networks import NETWORKS
from maml_fast.train._recipes import DEFAULTS, RECIPES
from maml_fast.train._schedule import SCHEDULES

__all__ = ["CHOICES", "TrainConfig"]


@dataclass(frozen=True)
class TrainConfig:
    """Arguments of one run; they, the data and the backend decide every number in it.

    Field defaults are those of the embedded data set; :meth:`for_dataset` gives another's, :meth:`for_recipe` those of
    a published training.

    Attributes:
        recipe: name of the recipe that the other arguments were taken from; None: no recipe.
        dataset: strokes (embedded), omniglot, random (noise, for smoke tests), folder (class folders of images),
            mini-imagenet, tiered-imagenet, cub, cifar-fs or fc100; see :func:`maml_fast.data.load`.
        root: where the data set lies; for all but strokes and random.
        split: tutorial, vinyals or finn, for omniglot; a folder of split files, for omniglot and folder; None: its own.
        image_size: pixels per side; None is the data set's own.
        channels: L (gray) or RGB, for folder and the data sets in color; None is the data set's own.
        n_way, k_shot, k_query: classes per episode; support and query images per class.
        meta_batch_size: episodes per meta-iteration, all trained at once.
        algorithm: maml, fomaml, anil, boil, meta-sgd, maml++, learned-optimizer, meta-lstm, reptile or protonet.
            Arguments that mean nothing to it must stay at their defaults.
        inner_lr, inner_steps: step size and steps of the inner loop, on the mean cross-entropy of the support images.
            For learned-optimizer inner_lr is the scale of its updates, for meta-lstm where its input gate begins.
        learn_inner_lr: meta-learn the inner step size too.
        adapted: what the inner loop adapts: head, or names, prefixes and globs of parameters, with commas between.
            None: everything. What does not adapt is meta-learned all the same.
        order: 2 differentiates through the inner loop, 1 is first-order MAML.
        inner_optimizer: sgd or adam, for the inner loop.
        head: what a task's classifier starts from: learned (a row for every class), zero, tied (one learned row for all
            classes) or proto (the support images' prototypes).
        batch_norm: batch (the batch's own statistics), per_step (with a scale and a shift for every inner step) or
            per_step_running (with every inner step's running statistics too); None: the algorithm's own, which is
            per_step for maml++ and batch for others.
        first_order_iterations: so many iterations of order 1 come first; None: the algorithm's own.
        multi_step_iterations: iterations over which the loss is annealed from that after all inner steps to that after
            the last; None: the algorithm's own, 5000 for maml++ and 0 for others.
        inner_batch: images of an inner step; for reptile.
        distance: euclidean (squared) or cosine; for protonet.
        meta_lr: step size of the outer optimizer: Adam; for reptile SGD.
        meta_schedule: how that step size falls towards least_meta_lr: constant (not at all), linear or cosine (until
            the run ends), halving (its distance, every 2000 iterations).
        least_meta_lr: see meta_schedule.
        clip_value: bound for every number of the meta-gradient; None: no bound.
        clip_norm: bound for the meta-gradient's norm; None: no bound.
        iterations: meta-iterations of the whole run.
        seed: of the initial weights and of every episode.
        model: conv4 (max-pool), conv4-strided (Finn's) or tutorial.
        hidden: channels of conv4 and conv4-strided.
        scale: pixels as unit (0-1), raw (0-255) or inverted (1-0).
        rotate: turn the classes of training episodes by 0, 90, 180 or 270 degrees.
        eval_rotate: turn those of evaluation episodes too.
        eval_n_way: classes per evaluation episode; None: n_way. Another number is for learners whose classifier adapts,
            and for protonet, which has none.
        eval_every: meta-iterations between evaluations on unseen classes, for validation where the split has such.
        eval_episodes: episodes of each of them.
        test_episodes: episodes of the evaluation at the end.
        eval_inner_steps: inner steps in evaluation; None is 3 (Finn et al. 2017), or `inner_steps` where that is more
            or the head is not learned: from zeros or prototypes more steps than in training may lead astray.
        task_chunk: tasks held in memory at once, "auto" for a few for every thread (all on a GPU), None for all; a run
            keeps what "auto" was when it started.
        checkpoint_seconds: at most so many seconds of training are lost by a kill.
        threads: torch.set_num_threads for this run; None leaves torch as it is.
        device: cpu or cuda.
        fixed_order: add the tasks' gradients up one by one, in the order of the episodes. No bit of the run depends on
            the number of processes then; without it they round sums differently.
        cuda_graph: replay whole meta-iterations as a CUDA graph; None: where that is possible, on a GPU. It changes no
            number.

    Raises:
        ValueError, TypeError: names the argument, its value and what it may be.
    """

    recipe: str | None = None
    dataset: str = "strokes"
    root: str | None = None
    split: str | None = None
    image_size: int | None = None
    channels: str | None = None
    n_way: int = 5
    k_shot: int = 1
    k_query: int = 15
    meta_batch_size: int = 8
    algorithm: str = "maml"
    inner_lr: float = 0.4
    inner_steps: int = 1
    inner_optimizer: str = "sgd"
    head: Head = "learned"
    batch_norm: InnerBatchNorm | None = None
    first_order_iterations: int | None = None
    multi_step_iterations: int | None = None
    inner_batch: int = 10
    distance: str = "euclidean"
    learn_inner_lr: bool = False
    adapted: str | None = None
    order: int = 2
    meta_lr: float = 3e-3
    meta_schedule: str = "constant"
    least_meta_lr: float = 0.0
    clip_value: float | None = None
    clip_norm: float | None = None
    iterations: int = 200
    seed: int = 0
    model: str = "conv4"
    hidden: int = 32
    scale: Literal["unit", "raw", "inverted"] = "inverted"
    rotate: bool = True
    eval_rotate: bool = False
    eval_n_way: int | None = None
    eval_every: int = 50
    eval_episodes: int = 100
    test_episodes: int = 600
    eval_inner_steps: int | None = None
    task_chunk: TaskChunk = "auto"
    checkpoint_seconds: float = 30.0
    threads: int | None = None
    device: str = "cpu"
    fixed_order: bool = False
    cuda_graph: bool | None = None

    def __post_init__(self) -> None:
        settle(self, **_KINDS)
        self._check_algorithm()
        if self.least_meta_lr > self.meta_lr:
            raise ValueError(f"least_meta_lr {self.least_meta_lr} is above meta_lr {self.meta_lr}")
        if self.root is not None:  # absolute: a run may be resumed from another folder
            object.__setattr__(self, "root", os.path.abspath(os.path.expanduser(self.root)))
        if self.split is not None:
            split = os.fspath(self.split)
            object.__setattr__(self, "split", os.path.abspath(split) if os.path.isdir(split) else split)
        check_device(self.device)
        if self.cuda_graph and self.device == "cpu":
            raise ValueError("cuda_graph is for device cuda; the device is cpu, leave cuda_graph out")

    def _check_algorithm(self) -> None:
        learner, name = ALGORITHMS[self.algorithm], self.algorithm
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in learner.ignores and value != field.default:
                raise ValueError(f"{field.name} {value!r} means nothing to algorithm {name}; leave it out")
        if self.eval_n_way not in (None, self.n_way) and name == "boil":
            raise ValueError(
                f"eval_n_way {self.eval_n_way} is not n_way {self.n_way}, but {name} has a classifier of n_way "
                "classes, which does not adapt; leave it out"
            )

    @classmethod
    @takes(dataset=text)
    def for_dataset(cls, dataset: str = "strokes", **changes: Any) -> TrainConfig:
        """The defaults of a data set, as far as they mean something to the algorithm, with these changes."""
        algorithm = ALGORITHMS.get(text("algorithm", changes.get("algorithm", cls.algorithm)))
        ignored = algorithm.ignores if algorithm else ()
        defaults = {name: value for name, value in DEFAULTS.get(dataset, {}).items() if name not in ignored}
        return cls(dataset=dataset, **{**defaults, **changes})

    @classmethod
    @takes(recipe=text)
    def for_recipe(cls, recipe: str, **changes: Any) -> TrainConfig:
        """A recipe by its name, with these changes, which :attr:`overrides` keeps apart."""
        return cls(recipe=recipe, **{**(RECIPES[recipe].settings if recipe in RECIPES else {}), **changes})

    @classmethod
    @takes(arguments=instance(Mapping, "such as config.json holds"))
    def from_arguments(cls, arguments: Mapping[str, Any]) -> TrainConfig:
        """Back from :meth:`arguments`; ValueError names arguments that this version does not know."""
        unknown = sorted(set(arguments) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown arguments {', '.join(unknown)}: was the run made by another maml_fast?")
        return cls(**arguments)

    def arguments(self) -> dict[str, Any]:
        """All arguments as plain values, for ``config.json``."""
        return dataclasses.asdict(self)

    @property
    def overrides(self) -> dict[str, Any]:
        """The arguments in which the run differs from its recipe; empty without one."""
        fixed = RECIPES[self.recipe].settings if self.recipe else {}
        return {name: getattr(self, name) for name, value in fixed.items() if getattr(self, name) != value}

    @property
    def adapted_names(self) -> str | list[str] | None:
        """``adapt`` as :class:`maml_fast.MAML` takes it."""
        if self.adapted is None or self.adapted == "head":
            return self.adapted
        return [name.strip() for name in self.adapted.split(",")]

    @property
    def steps_in_evaluation(self) -> int:
        """Inner steps of an evaluation."""
        if self.eval_inner_steps is not None:
            return self.eval_inner_steps
        return max(3, self.inner_steps) if self.head == "learned" else self.inner_steps

    @property
    def title(self) -> str:
        """One line that tells runs apart."""
        learner = ALGORITHMS[self.algorithm]
        order = "" if "order" in learner.ignores else f", {'second' if self.order == 2 else 'first'} order"
        return f"{self.dataset} · {self.n_way}-way {self.k_shot}-shot · {self.model} · {learner.title}{order}"

    @property
    def n_way_in_evaluation(self) -> int:
        """Classes of an evaluation episode."""
        return self.n_way if self.eval_n_way is None else self.eval_n_way

    @property
    def learner_settings(self) -> Settings:
        """What the algorithm may know of it."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(Settings)}
        return Settings(**{**settings, "adapted": self.adapted_names})


CHOICES: Mapping[str, tuple[Any, ...]] = {
    "recipe": tuple(RECIPES),
    "algorithm": tuple(ALGORITHMS),
    "inner_optimizer": tuple(INNER_OPTIMIZERS),
    "head": tuple(HEADS),
    "batch_norm": ("batch", "per_step", "per_step_running"),  # no network here keeps statistics of its own
    "distance": tuple(DISTANCES),
    "meta_schedule": tuple(SCHEDULES),
    "dataset": tuple(DEFAULTS),
    "model": tuple(NETWORKS),
    "order": (1, 2),
    "scale": ("unit", "raw", "inverted"),
    "device": ("cpu", "cuda"),
    "channels": ("L", "RGB"),
}

# Beyond these bounds a number is a slip of the hand, and takes all memory.
EPISODES, THREADS = whole(2, 1_000_000_000), whole(1, 1024)
_PER_TASK = whole(1, 1_000_000)
_STEP_SIZE, _POSITIVE = number(least=0), number(above=0)

_KINDS: Mapping[str, Kind] = {
    **{name: choice(*options) for name, options in CHOICES.items()},
    "n_way": whole(2),
    "k_shot": _PER_TASK,
    "k_query": _PER_TASK,
    "meta_batch_size": _PER_TASK,
    "inner_steps": whole(1, MOST_STEPS),
    "inner_batch": whole(1),
    "first_order_iterations": optional(whole(0)),
    "multi_step_iterations": optional(whole(0)),
    "eval_n_way": optional(whole(2)),
    "iterations": whole(1),
    "seed": whole(0, 2**63 - 1),
    "hidden": whole(1, 65536),
    "eval_every": whole(1),
    "eval_episodes": EPISODES,
    "test_episodes": EPISODES,
    "eval_inner_steps": optional(STEPS),
    "threads": optional(THREADS),
    "image_size": optional(whole(1, MOST_SIZE)),
    "task_chunk": TASK_CHUNK,
    "inner_lr": _STEP_SIZE,
    "meta_lr": _POSITIVE,
    "least_meta_lr": _STEP_SIZE,
    "checkpoint_seconds": _STEP_SIZE,
    "clip_value": optional(_POSITIVE),
    "clip_norm": optional(_POSITIVE),
    "learn_inner_lr": flag,
    "rotate": flag,
    "eval_rotate": flag,
    "fixed_order": flag,
    "cuda_graph": optional(flag),
    "adapted": optional(instance(str, "give names with commas between")),
    "root": optional(location),
    "split": optional(location),
    **{name: optional(choice(*CHOICES[name])) for name in ("recipe", "batch_norm", "channels")},
}
