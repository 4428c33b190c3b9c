"""The run folder: what a training leaves on disk, written so that a kill at any moment leaves it whole.

A run folder holds ``config.json`` (everything needed to repeat the run), ``metrics.jsonl`` (one JSON object a line),
``checkpoint.pt`` (tensors and plain types only), the pictures, and one ``evaluation-*.json`` per evaluation.
"""

from __future__ import annotations

import contextlib
import io
import json
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy
import torch

from maml_fast import native
from maml_fast.data._files import write_atomically
from maml_fast.train._earlier import arguments_of_today, state_of_today

__all__ = ["CHECKPOINT_FORMAT", "RUNS", "RunFolder", "describe_machine", "load_tensors"]

CHECKPOINT_FORMAT = 1
RUNS = "runs"  # where runs go that are not told where

Row = dict[str, Any]


def describe_machine(device: str = "cpu") -> Row:
    """Versions and hardware, for ``config.json``; of a GPU where ``device`` is one, for asking initializes CUDA."""
    return {
        "maml_fast": _version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cores": native.usable_cores(),
        "threads": torch.get_num_threads(),
        "gpu": None if device == "cpu" else torch.cuda.get_device_name(),
        "command": sys.argv,
    }


def _version() -> str:
    try:
        return metadata.version("maml_fast")
    except metadata.PackageNotFoundError:
        return _checkout() or "not installed"


def _checkout() -> str | None:
    """The commit that is run from, and whether files differ from it; None where git does not tell."""
    folder = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    if not (folder / ".git").exists():
        return None  # a repository further up is another project's
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"checkout {told.stdout.strip()}"


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, and the reading and writing of its files."""

    path: Path

    @property
    def config(self) -> Path:
        """What the run was asked to do, with what, and where."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One row per iteration and per evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The newest state that training can go on from."""
        return self.path / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """The state before it, for when that file is damaged."""
        return self.path / "checkpoint-previous.pt"

    @property
    def learning_curve(self) -> Path:
        """Accuracy and loss over the iterations."""
        return self.path / "learning_curve.png"

    @property
    def episode(self) -> Path:
        """One test episode, before and after adaptation."""
        return self.path / "episode.png"

    @property
    def summary(self) -> Path:
        """Result of a complete run."""
        return self.path / "summary.json"

    def evaluation(self, split: str, inner_steps: int, seed: int, n_way: int | None = None) -> Path:
        """Result of one evaluation; repeating it with another split, step count, seed or ways writes another file."""
        ways = "" if n_way is None else f"-{n_way}way"
        return self.path / f"evaluation-{split}{ways}-{inner_steps}steps-seed{seed}.json"

    @staticmethod
    def create(out: Path | str | None, stem: str, parent: Path | str = RUNS) -> RunFolder:
        """Claim a new folder: ``out``, which must be new or empty, or the first free ``parent/stem-001``, ``-002``, ...

        Raises:
            FileExistsError: ``out`` is a file, or a folder that holds something.
            OSError: the folder cannot be made or written.
        """
        folder = RunFolder(_claim_next(Path(parent), stem) if out is None else _claim(Path(out)))
        with _naming(folder.path), tempfile.TemporaryFile(dir=folder.path):
            return folder

    def take(self) -> None:
        """Make the claimed folder this run's own: under the lock, where no other process can have written to it since.

        What a run left that was stopped before its first checkpoint is removed.

        Raises:
            FileExistsError: another run has begun in it.
        """
        _refuse_if_occupied(self.path)
        for name in _BEFORE_THE_FIRST_CHECKPOINT:
            (self.path / name).unlink(missing_ok=True)

    def give_back(self) -> None:
        """Remove the folder again, if nothing is in it but the lock."""
        with contextlib.suppress(OSError):
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()

    @staticmethod
    def open(path: Path | str) -> RunFolder:
        """An existing run.

        Raises:
            FileNotFoundError: there is no folder, or it holds no config.json.
        """
        folder = RunFolder(Path(path))
        if not folder.config.is_file():
            raise FileNotFoundError(
                f"{path} is not a run folder: it has no config.json; give a folder that train wrote"
            )
        return folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for one process; the lock is the operating system's, so a killed process frees it."""
        import filelock

        lock = filelock.FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RuntimeError(f"{self.path} is being trained by another process; wait for it or stop it") from None
        except OSError as error:
            raise OSError(f"cannot write the run folder {self.path}: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def write_json(self, path: Path, content: Row) -> None:
        """Write one JSON document atomically, for people to read."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(path, (text + "\n").encode(), make_folders=False)

    def read_config(self) -> Row:
        """``config.json``; ValueError naming the file when it is damaged."""
        try:
            content = json.loads(self.config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.config} is damaged ({error}); restore it, or start a new run") from None
        kinds = {"arguments": dict, "data": dict, "sessions": list}
        content = content if isinstance(content, dict) else {}
        wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name, kind()), kind)]
        if (
            "arguments" not in content
            or wrong
            or not all(isinstance(each, dict) for each in content.get("sessions", ()))
        ):
            what = f"{wrong[0]} is of another kind" if wrong else "no arguments in it"
            raise ValueError(f"{self.config} is damaged ({what}); restore it, or start a new run")
        return {**content, "arguments": arguments_of_today(content["arguments"])}

    def save_checkpoint(self, state: Row) -> None:
        """Write ``state``, made of tensors and plain types, atomically; the one before it is kept."""
        buffer = io.BytesIO()
        torch.save({"format": CHECKPOINT_FORMAT, **state}, buffer)
        if self.checkpoint.is_file():
            write_atomically(self.previous_checkpoint, self.checkpoint.read_bytes(), make_folders=False)
        write_atomically(self.checkpoint, buffer.getvalue(), make_folders=False)

    def load_checkpoint(self) -> Row:
        """The state that :meth:`save_checkpoint` wrote, on the CPU.

        Raises:
            FileNotFoundError: the run has none.
            ValueError: the file is truncated, corrupt, or of another format.
        """
        if not self.checkpoint.is_file():
            raise FileNotFoundError(
                f"{self.checkpoint} is missing: the run stopped before its first checkpoint; start it again by --out "
                f"{self.path}"
            )
        try:
            state = load_tensors(self.checkpoint)
        except ValueError as error:
            remedy = "restore it from a copy, or start a new run"
            if self.previous_checkpoint.is_file():
                remedy = f"put {self.previous_checkpoint.name} in its place, the one before it, and go on from there"
            raise ValueError(
                f"{self.checkpoint} cannot be read, it is truncated or damaged ({error}); {remedy}"
            ) from error
        known = isinstance(state, dict) and state.get("format") == CHECKPOINT_FORMAT
        if not known or type(state.get("iteration")) is not int:
            raise ValueError(f"{self.checkpoint} is not a checkpoint of format {CHECKPOINT_FORMAT}; start a new run")
        return state_of_today(state)

    @contextlib.contextmanager
    def fitting_checkpoint(self) -> Iterator[None]:
        """Tell any trouble inside, where a checkpoint is taken up, as one ValueError about the checkpoint."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self.checkpoint} does not fit {self.config.name} ({reason}); is it of another run?"
            ) from error


def load_tensors(path: Path) -> Any:
    """What ``torch.save`` wrote, tensors and plain values alone, on the CPU.

    Raises:
        ValueError: the file is truncated, corrupt, or holds anything else; says what.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at checksums
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it has another checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen types for a damaged file
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from error


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Any trouble inside is told as one error about the run folder ``path``."""
    try:
        yield
    except OSError as error:
        raise type(error)(
            f"cannot write the run folder {path}: {error.strerror or error}; choose another --out"
        ) from None


def _claim(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file, not a folder; choose another --out")
    with _naming(path):
        path.mkdir(parents=True, exist_ok=True)
        _refuse_if_occupied(path)
    return path


_LOCK = ".lock"
_BEFORE_THE_FIRST_CHECKPOINT = ("config.json", "metrics.jsonl")  # what a run writes until then


def _refuse_if_occupied(path: Path) -> None:
    """Raise unless a run may begin in a folder: one that is empty, or was left before a first checkpoint."""
    left = {entry.name for entry in path.iterdir()}
    harmless = {_LOCK, *_BEFORE_THE_FIRST_CHECKPOINT} if _LOCK in left else set()  # without it they are somebody else's
    if any(name not in harmless and not (name.startswith(".") and name.endswith(".part")) for name in left):
        raise FileExistsError(f"{path} is not empty; choose another --out, or go on with that run by --resume {path}")


def _claim_next(parent: Path, stem: str) -> Path:
    with _naming(parent):
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = parent / f"{stem}-{number:03d}"
            try:
                path.mkdir()  # atomic: two runs that start together get two folders
                return path
            except FileExistsError:
                number += 1
