"""What a training run is asked to do: its arguments and their checks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from maml_fast._arguments import check_fields, flag, instance, int_from, location, number, takes, text
from maml_fast.algorithms import ALGORITHMS, Settings
from maml_fast.algorithms._protonet import DISTANCES
from maml_fast.data._conversion import MAX_SIZE
from maml_fast.data._gpu_sampler import check_device
from maml_fast.inner_loop._chunks import TASK_CHUNK, TaskChunk
from maml_fast.inner_loop._heads import HEADS, Head
from maml_fast.inner_loop._optimizers import INNER_OPTIMIZERS
from maml_fast.maml._arguments import MOST_STEPS, STEPS
from maml_fast.program._batch_norm import InnerBatchNorm
from maml_fast.train._networks import NETWORKS, network_name, title_of_network
from maml_fast.train._options import mapping, option, options_of
from maml_fast.train._recipes import DEFAULTS, RECIPES
from maml_fast.train._schedule import SCHEDULES

__all__ = ["DEVICES", "EPISODES", "THREADS", "TrainConfig"]

DEVICES = ("cpu", "cuda")

# Beyond these bounds a number is a typing error that would take all memory.
EPISODES, THREADS = int_from(2, 1_000_000_000), int_from(1, 1024)
_PER_TASK = int_from(1, 1_000_000)
_STEP_SIZE, _POSITIVE = number(least=0), number(above=0)
_SHARE = number(least=0, below=1)

_DATA, _EPISODES, _ALGORITHM, _INNER = "Data", "Episodes", "Algorithm", "Inner loop"
_OUTER, _MODEL, _EVALUATION, _MACHINE = "Meta-optimizer", "Model", "Evaluation", "Run"


@dataclass(frozen=True)
class TrainConfig:
    """Arguments of one run. They, the data and the backend decide every number in it.

    Every field is described by its ``option``; ``maml-fast train --help-all`` prints them. The defaults here are those
    of the embedded data set; :meth:`for_dataset` gives those of another, :meth:`for_recipe` those of a published
    training. Arguments that mean nothing to the algorithm must stay at their defaults.

    Raises:
        ValueError, TypeError: an argument is out of range or of another type; names it, its value and what it may be.
    """

    recipe: str | None = option(None, tuple(RECIPES), "Published training (list: maml-fast recipes).", _DATA, True)
    dataset: str = option("strokes", tuple(DEFAULTS), "Data set; strokes and glyphs need no files.", _DATA, True)
    root: str | None = option(None, location, "Folder of the data set.", _DATA, True)
    split: str | None = option(
        None, location, "omniglot: tutorial, vinyals or finn; or a folder of split files.", _DATA
    )
    image_size: int | None = option(
        None, int_from(1, MAX_SIZE), "Pixels per side (default: 28; cifar-fs and fc100 32; others in color 84).", _DATA
    )
    channels: str | None = option(None, ("L", "RGB"), "Gray or color (default: the data set's own).", _DATA)
    scale: Literal["unit", "raw", "inverted"] = option(
        "inverted", ("unit", "raw", "inverted"), "Pixels: unit 0 to 1, raw 0 to 255, inverted 1 to 0.", _DATA
    )
    rotate: bool = option(True, flag, "Rotate classes of training episodes by multiples of 90 degrees.", _DATA)
    eval_rotate: bool = option(False, flag, "Rotate classes of evaluation episodes too.", _DATA)
    crop_padding: int = option(0, int_from(0, MAX_SIZE), "Move training images by up to so many pixels.", _DATA)
    flip: bool = option(False, flag, "Flip training images left to right at random.", _DATA)
    color_jitter: float = option(
        0.0, _SHARE, "Vary brightness, contrast, saturation of training images by up to this share.", _DATA
    )

    n_way: int = option(5, int_from(2), "Classes per episode.", _EPISODES, True)
    k_shot: int = option(1, _PER_TASK, "Support images per class.", _EPISODES, True)
    k_query: int = option(15, _PER_TASK, "Query images per class.", _EPISODES, True)
    meta_batch_size: int = option(8, _PER_TASK, "Episodes per meta-iteration.", _EPISODES, True)

    algorithm: str = option(
        "maml", tuple(ALGORITHMS), "maml, fomaml, anil, boil, maml++, reptile ...", _ALGORITHM, True
    )
    order: int = option(2, (1, 2), "2: second-order MAML; 1: first-order.", _ALGORITHM, True)
    head: Head = option(
        "learned",
        tuple(HEADS),
        "Initial classifier: learned, zero, tied, proto.",
        _ALGORITHM,
        True,
    )
    batch_norm: InnerBatchNorm | None = option(
        None,
        ("batch", "per_step", "per_step_running"),  # no network here has running statistics to begin with
        "Batch statistics, or scale, shift and statistics per inner step (default: per_step for maml++).",
        _ALGORITHM,
    )
    first_order_iterations: int | None = option(
        None, int_from(0), "First-order iterations at the start (default: the algorithm's own).", _ALGORITHM
    )
    multi_step_iterations: int | None = option(
        None, int_from(0), "Iterations with MAML++'s multi-step loss (default: 5000 for maml++, else 0).", _ALGORITHM
    )
    inner_batch: int = option(10, int_from(1), "Images per inner step of reptile.", _ALGORITHM)
    distance: str = option("euclidean", tuple(DISTANCES), "Distance between embeddings of protonet.", _ALGORITHM)

    inner_lr: float = option(0.4, _STEP_SIZE, "Step size of the inner loop.", _INNER, True)
    inner_steps: int = option(1, int_from(1, MOST_STEPS), "Gradient steps in training.", _INNER, True)
    inner_optimizer: str = option("sgd", tuple(INNER_OPTIMIZERS), "Optimizer of the inner loop.", _INNER)
    learn_inner_lr: bool = option(False, flag, "Meta-learn the inner step size too.", _INNER)
    adapted: str | None = option(
        None,
        instance(str, "give names with commas between"),
        "What adapts: head, or names with commas (default: all).",
        _INNER,
        True,
    )

    meta_lr: float = option(3e-3, _POSITIVE, "Step size of Adam; for reptile of SGD.", _OUTER, True)
    meta_schedule: str = option("constant", tuple(SCHEDULES), "Schedule of the step size.", _OUTER)
    least_meta_lr: float = option(0.0, _STEP_SIZE, "Step size at the end of the schedule.", _OUTER)
    clip_value: float | None = option(None, _POSITIVE, "Bound for each number of the meta-gradient.", _OUTER)
    clip_norm: float | None = option(None, _POSITIVE, "Bound for the norm of the meta-gradient.", _OUTER)
    iterations: int = option(200, int_from(1), "Meta-iterations of the whole run.", _OUTER, True)
    seed: int = option(0, int_from(0, 2**63 - 1), "Seed of initial weights and episodes.", _OUTER, True)

    model: str = option(
        "conv4", network_name, f"{', '.join(NETWORKS)}, or your own as file.py:Class or module:Class.", _MODEL, True
    )
    model_args: dict[str, Any] | None = option(
        None, mapping, "Arguments of your class: hidden=64,norm=group.", _MODEL, True
    )
    hidden: int = option(32, int_from(1, 65536), "Channels of conv4, or of resnet12's first block.", _MODEL, True)

    eval_n_way: int | None = option(
        None, int_from(2), "Classes per evaluation episode (default: --n-way).", _EVALUATION
    )
    eval_every: int = option(50, int_from(1), "Meta-iterations between evaluations.", _EVALUATION, True)
    eval_episodes: int = option(100, EPISODES, "Episodes of each evaluation.", _EVALUATION)
    test_episodes: int = option(600, EPISODES, "Episodes of the evaluation at the end.", _EVALUATION)
    eval_inner_steps: int | None = option(
        None,
        STEPS,
        "Gradient steps in evaluation (default: 3, or --inner-steps if that is more or the head is not learned).",
        _EVALUATION,
    )

    task_chunk: TaskChunk = option(
        "auto",
        TASK_CHUNK,
        "Tasks in memory at once: a number, or auto: what fits in 96 MiB (GPU: all).",
        _MACHINE,
    )
    checkpoint_seconds: float = option(30.0, _STEP_SIZE, "Seconds between checkpoints, at most.", _MACHINE)
    threads: int | None = option(None, THREADS, "Threads (default: PyTorch's choice).", _MACHINE, True)
    device: str = option("cpu", DEVICES, "Where to train.", _MACHINE, True)
    fixed_order: bool = option(
        False, flag, "Sum gradients in the order of tasks: the same bits for any number of processes.", _MACHINE
    )
    cuda_graph: bool | None = option(
        None, flag, "On a GPU, replay whole meta-iterations as a CUDA graph (default: where possible).", _MACHINE
    )

    def __post_init__(self) -> None:
        check_fields(self, **{name: option.kind for name, option in options_of(type(self)).items()})
        self._check_algorithm()
        if self.least_meta_lr > self.meta_lr:
            raise ValueError(f"least_meta_lr {self.least_meta_lr} is above meta_lr {self.meta_lr}")
        if self.root is not None:  # absolute: a run may be resumed from another folder
            object.__setattr__(self, "root", os.path.abspath(os.path.expanduser(self.root)))
        if self.split is not None:
            split = os.fspath(self.split)
            object.__setattr__(self, "split", os.path.abspath(split) if os.path.isdir(split) else split)
        self._check_model()
        check_device(self.device)
        if self.cuda_graph and self.device == "cpu":
            raise ValueError("cuda_graph needs device cuda, and the device is cpu; leave cuda_graph out")

    def _check_algorithm(self) -> None:
        learner, name = ALGORITHMS[self.algorithm], self.algorithm
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in learner.ignores and value != field.default:
                raise ValueError(f"{field.name} {value!r} is not an option of algorithm {name}; leave it out")
        if self.eval_n_way not in (None, self.n_way) and name == "boil":
            raise ValueError(
                f"eval_n_way {self.eval_n_way} is not n_way {self.n_way}, but {name} has a classifier of n_way "
                "classes, which does not adapt; leave it out"
            )

    def _check_model(self) -> None:
        if self.model in NETWORKS:
            if self.model_args is not None:
                raise ValueError(f"model_args are for a class of your own; {self.model} takes none, leave them out")
        elif self.hidden != type(self).hidden:
            raise ValueError(f"hidden {self.hidden} is for conv4; give it to {self.model} by model_args")

    @classmethod
    @takes(dataset=text)
    def for_dataset(cls, dataset: str = "strokes", **changes: Any) -> TrainConfig:
        """Return the defaults of a data set, updated by ``changes``.

        Defaults that the algorithm or the model does not use are left out.

        Raises:
            ValueError, TypeError: as for the constructor.
        """
        algorithm = ALGORITHMS.get(text("algorithm", changes.get("algorithm", cls.algorithm)))
        defaults = _without(DEFAULTS.get(dataset, {}), algorithm.ignores if algorithm else ())
        return cls(dataset=dataset, **{**_for_model(defaults, changes), **changes})

    @classmethod
    @takes(recipe=text)
    def for_recipe(cls, recipe: str, **changes: Any) -> TrainConfig:
        """Return the arguments of a recipe, updated by ``changes``, which :attr:`overrides` lists.

        Raises:
            ValueError, TypeError: as for the constructor.
        """
        settings = RECIPES[recipe].settings if recipe in RECIPES else {}
        return cls(recipe=recipe, **{**_for_model(settings, changes), **changes})

    @classmethod
    @takes(arguments=instance(Mapping, "such as config.json holds"))
    def from_arguments(cls, arguments: Mapping[str, Any]) -> TrainConfig:
        """Restore what :meth:`arguments` returned; ValueError names the arguments that this version does not know."""
        unknown = sorted(set(arguments) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown arguments {', '.join(unknown)}: was the run made by another maml_fast?")
        return cls(**arguments)

    def arguments(self) -> dict[str, Any]:
        """Return all arguments as plain values, for ``config.json``."""
        return dataclasses.asdict(self)

    @property
    def overrides(self) -> dict[str, Any]:
        """The arguments in which the run differs from its recipe; empty without one."""
        fixed = RECIPES[self.recipe].settings if self.recipe else {}
        return {name: getattr(self, name) for name, value in fixed.items() if getattr(self, name) != value}

    @property
    def adapted_names(self) -> str | list[str] | None:
        """``adapted`` in the form that :class:`maml_fast.MAML` takes."""
        if self.adapted is None or self.adapted == "head":
            return self.adapted
        return [name.strip() for name in self.adapted.split(",")]

    @property
    def steps_in_evaluation(self) -> int:
        """Inner steps of an evaluation.

        By default 3 (Finn et al. 2017), or ``inner_steps`` where that is more or the head is not learned: from zeros or
        prototypes, more steps than in training may lead astray.
        """
        if self.eval_inner_steps is not None:
            return self.eval_inner_steps
        return max(3, self.inner_steps) if self.head == "learned" else self.inner_steps

    @property
    def title(self) -> str:
        """One line that tells runs apart."""
        learner = ALGORITHMS[self.algorithm]
        order = "" if "order" in learner.ignores else f", {'second' if self.order == 2 else 'first'} order"
        model = title_of_network(self.model)
        return f"{self.dataset} · {self.n_way}-way {self.k_shot}-shot · {model} · {learner.title}{order}"

    @property
    def n_way_in_evaluation(self) -> int:
        """Classes of an evaluation episode."""
        return self.n_way if self.eval_n_way is None else self.eval_n_way

    @property
    def learner_settings(self) -> Settings:
        """The arguments that the algorithm may read."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(Settings)}
        return Settings(**{**settings, "adapted": self.adapted_names})


def _for_model(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the channels of Conv4 where the model is a class of the user's own."""
    return _without(settings, () if changes.get("model", TrainConfig.model) in NETWORKS else ("hidden",))


def _without(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
