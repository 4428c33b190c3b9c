"""Data, model, learner and samplers of a run, created from its arguments, and evaluations with them."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maml_fast import native
from maml_fast.algorithms import ALGORITHMS
from maml_fast.data import ImageBank, load
from maml_fast.data._dataset import DataSet, Progress
from maml_fast.data._episodes import Episodes, EpisodeSampler
from maml_fast.data._files import write_atomically
from maml_fast.distributed import shard
from maml_fast.distributed._group import Group
from maml_fast.maml import EvaluationResult, Learner
from maml_fast.maml._evaluation import Statistics, result_of, scores_of
from maml_fast.train._config import TrainConfig
from maml_fast.train._networks import make_model
from maml_fast.train._record import Row, RunFolder

__all__ = ["Workbench", "make_learner"]

SINGLE_PROCESS = Group()


@dataclass(frozen=True)
class Workbench:
    """The objects of one run, on one of its processes."""

    config: TrainConfig
    data: DataSet
    learner: Learner
    group: Group

    @classmethod
    def open(cls, config: TrainConfig, progress: Progress | None = None, group: Group = SINGLE_PROCESS) -> Workbench:
        """Load the data, create the learner, and check that the requested episodes can be drawn from every part.

        Raises:
            FileNotFoundError, ValueError: the data set is missing, damaged, too small, or not for this model.
        """
        data = load(
            config.dataset,
            config.root,
            split=config.split,
            image_size=config.image_size,
            channels=config.channels,
            progress=progress,
        )
        bench = cls(config, data, make_learner(config, data["train"].image_shape), group)
        for part in data:
            bench.sampler(part)  # raises if there are too few classes, or too few images in one
        return bench

    @property
    def tasks_per_call(self) -> int:
        """Number of tasks that this process computes in one call."""
        return 1 if self.config.fixed_order else max(1, len(self.group.share(self.config.meta_batch_size)))

    def training_batches(self, iteration: int) -> Generator[Episodes, None, None]:
        """Yield this process's parts of the meta-batches after ``iteration``. They are the same after any resume."""
        if iteration < self.config.iterations:
            yield from self.training_sampler(iteration)

    def training_sampler(self, iteration: int) -> EpisodeSampler:
        """Return the sampler of training batches. Episode ``e`` of the run is in iteration ``e // meta_batch_size``."""
        config, group = self.config, self.group
        sampler = self._sampler(
            "train",
            config.seed,
            n_way=config.n_way,
            rotate=config.rotate,
            crop_padding=config.crop_padding,
            flip=config.flip,
            color_jitter=config.color_jitter,
            meta_batch_size=config.meta_batch_size,
            start_episode=iteration * config.meta_batch_size,
            batches=config.iterations - iteration,
        )
        return shard(sampler, group.rank, group.size, uneven=True)

    def sampler(self, part: str, seed: int | None = None, start_episode: int = 0) -> EpisodeSampler:
        """Return an endless sampler of evaluation episodes, the same ones for the same seed (default: the run's).

        Its batches have as many episodes as a process computes per call in training.
        """
        config = self.config
        return self._sampler(
            part,
            config.seed if seed is None else seed,
            n_way=config.n_way_in_evaluation,
            rotate=config.eval_rotate,
            meta_batch_size=self.tasks_per_call,
            start_episode=start_episode,
        )

    def _sampler(self, part: str, seed: int, n_way: int, meta_batch_size: int, **options: Any) -> EpisodeSampler:
        config = self.config
        return EpisodeSampler(
            self.data[part],
            n_way,
            config.k_shot,
            config.k_query,
            meta_batch_size,
            seed,
            scale=config.scale,
            device=config.device,
            **options,
        )

    @property
    def monitored(self) -> str:
        """The part that is evaluated during training: the validation classes if there are any, else the test ones."""
        return "val" if "val" in self.data else "test"

    @property
    def evaluation_learner(self) -> Learner:
        """The learner, resized to the number of classes of an evaluation episode."""
        config = self.config
        same = config.n_way_in_evaluation == config.n_way
        return self.learner if same else self.learner.for_classes(config.n_way_in_evaluation)

    def evaluate(self, part: str, episodes: int, seed: int | None = None) -> Row:
        """Return accuracy on a part and its 95 % interval, after the last inner step and after every one."""
        result = self._evaluate(self.evaluation_learner, part, episodes, seed, "own")
        return {
            "split": part,
            "n_way": self.config.n_way_in_evaluation,
            "accuracy": result.accuracy,
            "interval": result.interval,
            "accuracies": list(result.accuracies or ()),
            "intervals": list(result.intervals or ()),
            "episodes": result.n_episodes,
            "inner_steps": result.inner_steps,
            "batch_norm": result.batch_norm,
        }

    def evaluate_by_support(self, part: str, episodes: int, seed: int | None = None) -> Row | None:
        """Return accuracy and interval after the last step, with batch-norm statistics of the support set.

        ``None`` if the learner is not transductive: then a prediction does not depend on other queries.
        """
        learner = self.evaluation_learner
        if not learner.is_transductive:
            return None
        result = self._evaluate(learner, part, episodes, seed, "support")
        return {"accuracy": result.accuracy, "interval": result.interval, "batch_norm": result.batch_norm}

    def _evaluate(
        self, learner: Learner, part: str, episodes: int, seed: int | None, batch_norm: Statistics
    ) -> EvaluationResult:
        """Evaluate on ``episodes`` episodes, of which every process computes its share."""
        share = self.group.share(episodes)
        own = None
        if share:
            sampler = self.sampler(part, seed, share.start)
            own = scores_of(learner, sampler, len(share), self.config.steps_in_evaluation, batch_norm)
        return result_of([each for each in self.group.all_gather(own) if each is not None])

    def facts(self) -> dict[str, str]:
        """Return what is reported at the start of a run: backend, engine, fusion, batch-norm policy, data and split."""
        train = self.data["train"]
        episodes = Episodes(*(part[: self.tasks_per_call] for part in self.training_sampler(0).batch(0)))
        return {
            **self._recipe_fact(),
            "algorithm": ALGORITHMS[self.config.algorithm].title,
            "backend": str(native.backend()),
            "engine": self.learner.engine_for(episodes.to(self.config.device)),
            "fused": _fusion_text(self.learner),
            "batch norm": self.learner.batch_norm,
            "data": f"{self.data.name}, images {' x '.join(map(str, train.image_shape))}",
            "split": str(self.data.split),
        }

    def _recipe_fact(self) -> dict[str, str]:
        if self.config.recipe is None:
            return {}
        overrides = ", ".join(f"{name} {value}" for name, value in self.config.overrides.items())
        return {"recipe": f"{self.config.recipe}, but {overrides}" if overrides else self.config.recipe}

    def describe_data(self) -> Row:
        """Return data set and split, with digests of the classes and of their pixels."""
        return {
            "name": self.data.name,
            "split": self.data.split.describe(),
            "image_shape": list(self.data["train"].image_shape),
            "pixels_sha256": {part: _digest(bank) for part, bank in self.data.items()},
        }

    def check_data(self, record: Row, folder: RunFolder) -> None:
        """Raise ValueError unless the data are those that ``record`` (``config.json``) names, in whatever folder."""
        now, then = self.describe_data(), record.get("data", {})
        same_split = now["split"]["sha256"] == then.get("split", {}).get("sha256")
        if not same_split or any(now[name] != then.get(name) for name in ("image_shape", "pixels_sha256")):
            raise ValueError(
                f"the data differ from those of {folder.path} in classes, split or pixels; give the root of its data"
            )

    def draw_curve(self, folder: RunFolder, rows: Sequence[Row], seconds: float, last: Row | None = None) -> None:
        """Write learning_curve.png. ``last``, the final evaluation, replaces an evaluation of the same iteration."""
        from maml_fast.train import _plots as plots  # imports matplotlib, which few processes need

        if last is not None and last["split"] == self.monitored:
            rows = [*(row for row in rows if "loss" in row or row["iteration"] != last["iteration"]), last]
        picture = plots.draw_learning_curve(
            rows, self.config.title, self.config.n_way_in_evaluation, self.config.inner_steps, seconds
        )
        write_atomically(folder.learning_curve, picture)

    def draw_episode(self, folder: RunFolder) -> None:
        """Write episode.png, which shows the first test episode."""
        from maml_fast.train import _plots as plots

        config, learner = self.config, self.evaluation_learner
        episodes = self.sampler("test").batch(0).to(config.device)
        episode = Episodes(*(tensor[:1] for tensor in episodes))  # [1, ...]
        steps = config.steps_in_evaluation
        with torch.no_grad():
            before, after = (
                learner.predict(learner.adapt(episode.x_spt, episode.y_spt, inner_steps=count), episode.x_qry).argmax(
                    -1
                )
                for count in (0, steps)
            )
        tensors = (episode.x_spt, episode.y_spt, episode.x_qry, episode.y_qry, before, after)
        support, support_labels, query, query_labels, *predictions = (tensor[0].cpu().numpy() for tensor in tensors)
        picture = plots.EpisodePicture(
            self._to_unit_range(support), support_labels, self._to_unit_range(query), query_labels, *predictions
        )
        title = f"One test episode · {config.dataset} · {config.n_way_in_evaluation}-way {config.k_shot}-shot"
        write_atomically(folder.episode, plots.draw_episode(picture, title, steps))

    def _to_unit_range(self, images: np.ndarray) -> np.ndarray:
        """Undo ``config.scale``: return pixels from 0 (black) to 1 (white)."""
        return {"unit": images, "raw": images / 255, "inverted": 1 - images}[self.config.scale]


def make_learner(config: TrainConfig, image_shape: tuple[int, int, int]) -> Learner:
    """Create the learner of a run, with a new model for images of shape [C, H, W]."""
    learner = ALGORITHMS[config.algorithm].make(make_model(config, image_shape), config.learner_settings)
    return learner.to(config.device)


def _fusion_text(learner: Learner) -> str:
    """List the convolutions that run on the fused operation, and those that do not, with the reason."""
    if learner.fusion is None:
        return "nothing"
    fused, left = learner.fusion.fused, learner.fusion.left
    return "\n".join(
        [f"{len(fused)} of {len(fused) + len(left)} convolutions", *fused, *(f"not {line}" for line in left)]
    )


def _digest(bank: ImageBank) -> str:
    """Return the SHA-256 of the number of images in every class and of the first image of every class."""
    digest = hashlib.sha256(repr(bank.counts.tolist()).encode())
    for start in bank.starts:
        digest.update(bank.images[start].tobytes())
    return digest.hexdigest()
