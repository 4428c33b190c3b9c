"""Adapt the checkpoint of a training run to a folder of pictures."""

from __future__ import annotations

import datetime
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from maml_fast._arguments import choice, flag, function, location, optional, takes
from maml_fast.algorithms import ALGORITHMS
from maml_fast.data._dataset import MessageCallback, Progress, print_to_stderr
from maml_fast.data._files import write_atomically
from maml_fast.deployment._adapted import Adapted
from maml_fast.deployment._formats import FORMATS, check_format, save_as
from maml_fast.deployment._judgement import Judgement, balanced, judge
from maml_fast.deployment._module import deploy, for_classes
from maml_fast.deployment._preprocessing import Preprocessing
from maml_fast.deployment._support import SupportSet, read_support
from maml_fast.inner_loop._heads import HEADS
from maml_fast.maml import Learner
from maml_fast.maml._arguments import STEPS
from maml_fast.train._config import TrainConfig
from maml_fast.train._integrity import check_arguments
from maml_fast.train._record import Row, RunFolder, describe_machine
from maml_fast.train._workbench import make_learner

__all__ = ["AdaptedRun", "adapt_run"]


class AdaptedRun(NamedTuple):
    """The result of :func:`adapt_run`.

    Attributes:
        model: the adapted model.
        support: the pictures that it was adapted to.
        judgement: the leave-one-out predictions for these pictures; ``None`` with ``judged=False``.
        path: the model file that was written.
        sheet: the sheet of pictures that was written, a PNG.
    """

    model: Adapted
    support: SupportSet
    judgement: Judgement | None
    path: Path
    sheet: Path


@takes(
    run=location,
    folder=location,
    out=location,
    format=choice(*FORMATS),
    inner_steps=optional(STEPS),
    judged=flag,
    progress=optional(function()),
    say=function(),
)
def adapt_run(
    run: Path | str,
    folder: Path | str,
    *,
    out: Path | str,
    format: str = "torch",
    inner_steps: int | None = None,
    judged: bool = True,
    progress: Progress | None = None,
    say: MessageCallback = print_to_stderr,
) -> AdaptedRun:
    """Adapt a run's checkpoint to ``folder/<class>/<picture>``, estimate its accuracy, and write the model to a file.

    There may be any number of classes and of pictures per class, and pictures of any size and mode. A class with more
    pictures does not weigh more. A sheet of the pictures is written next to ``out``, under the same name with the
    suffix ``.png``. The data that the run was trained on are not needed.

    Args:
        run: a run folder.
        folder: a folder with a subfolder of pictures for each class.
        out: the model file to write.
        format: "torch", which :func:`open_adapted` reads; "onnx"; or "export", which ``torch.export.load`` reads.
        inner_steps: number of inner steps; by default the number that the run evaluates with.
        judged: whether to estimate the accuracy, by adapting anew without each picture.
        progress: called with (pictures judged, pictures to be judged).
        say: called with a line for the user.

    Raises:
        FileNotFoundError: if there is no run, checkpoint or folder of pictures, or no folder to write ``out`` into.
        FileExistsError: if ``out`` or its sheet exists already.
        PermissionError: if the folder of ``out`` is not writable.
        ValueError: if a file is damaged, a picture can't be read, there are fewer than two classes, or the run can't be
            used for that many; the message names what is wrong.
        RuntimeError: if a package that the format needs is not installed, or a file can't be written.
    """
    out = Path(out)
    sheet = out.with_suffix(".png") if out.suffix in _SUFFIXES else out.with_name(f"{out.name}.png")
    check_format(format)
    _check_free(out, sheet)
    source = _Source.of(Path(run))
    support = read_support(Path(folder), source.preprocessing, say=say)
    steps = source.config.steps_in_evaluation if inner_steps is None else inner_steps
    learner = _learner_for(len(support.class_names), source, say)
    judgement = judge(learner, support.x, support.y, steps, progress) if judged else None
    with balanced(learner, support.y):
        module = deploy(learner, support.x, support.y, inner_steps=steps)
    provenance = {**source.provenance, "inner_steps": steps, **_support_provenance(support, Path(folder))}
    estimate = {} if judgement is None else judgement.described()
    model = Adapted(module, support.class_names, source.preprocessing, estimate, provenance)
    save_as(format, model, out)
    title = f"{Path(folder).resolve().name} · {len(support.class_names)} classes · {source.provenance['run']}"
    _draw(sheet, support, judgement, title)
    return AdaptedRun(model, support, judgement, out, sheet)


_SUFFIXES = (".pt", ".pth", ".onnx", ".pt2")


def _check_free(*files: Path) -> None:
    """Raise unless all files can be created; called before any work is done."""
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} exists already; choose another --out, or remove it")
        if not file.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {file.parent} to write {file.name} into; make it first")
        if not os.access(file.parent, os.W_OK):
            raise PermissionError(f"{file.parent} can't be written; choose another --out")


def _learner_for(n_classes: int, source: _Source, say: MessageCallback) -> Learner:
    """Return the run's learner for ``n_classes`` classes; tell the user if it reuses learned classifier rows."""
    config, learner = source.config, source.learner
    served = for_classes(learner, n_classes)
    if served is not learner and "head" not in ALGORITHMS[config.algorithm].ignores and config.head == "learned":
        say(
            f"the run learned one classifier row for each of {config.n_way} classes, and the {n_classes} classes here "
            "start from these rows in order, repeated where there are too few; runs trained with --head zero or proto "
            "do not have this problem"
        )
    return served


def _draw(sheet: Path, support: SupportSet, judgement: Judgement | None, title: str) -> None:
    from maml_fast.deployment._sheet import draw_support  # not at the top: it imports matplotlib

    write_atomically(sheet, draw_support(support, judgement, title), make_folders=False)


class _Source(NamedTuple):
    """The configuration, trained learner and preprocessing of a run, and where they come from."""

    config: TrainConfig
    learner: Learner
    preprocessing: Preprocessing
    provenance: Row

    @staticmethod
    def of(path: Path) -> _Source:
        folder = RunFolder.open(path)
        record = folder.read_config()
        overrides = {"device": "cpu", "cuda_graph": None, "threads": None}
        config = TrainConfig.from_arguments({**record["arguments"], **overrides})
        shape = record.get("data", {}).get("image_shape")
        state = folder.load_checkpoint()
        with folder.fitting_checkpoint():
            channels, height, width = shape
            learner = make_learner(config, (channels, height, width))
            learner.load_state_dict(state["maml"])
            check_arguments(state, record["arguments"])
        preprocessing = Preprocessing(height, "L" if channels == 1 else "RGB", config.scale)
        provenance = {
            "run": folder.path.resolve().name,
            "iteration": state["iteration"],
            "checkpoint_sha256": hashlib.sha256(folder.checkpoint.read_bytes()).hexdigest(),
            "arguments": record["arguments"],
            "head": HEADS.get(config.head, config.head),
        }
        return _Source(config, learner, preprocessing, provenance)


def _support_provenance(support: SupportSet, folder: Path) -> Row:
    machine = describe_machine()
    files_by_class: dict[str, list[str]] = {name: [] for name in support.class_names}
    for file, label in zip(support.files, support.labels, strict=True):
        files_by_class[support.class_names[label]].append(file.name)
    return {
        "folder": folder.resolve().name,
        "pictures": files_by_class,
        "pictures_sha256": support.sha256,
        "adapted": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {name: str(machine[name]) for name in ("maml_fast", "torch", "python")},
    }
