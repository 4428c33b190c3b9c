"""The run folder: the files of a training run, written so that a kill at any moment leaves them consistent.

A run folder holds ``config.json`` (everything needed to repeat the run), ``metrics.jsonl`` (one JSON object per line),
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
from maml_fast.train._earlier import state_with_current_names, with_current_names

__all__ = ["CHECKPOINT_FORMAT", "RUNS", "RunFolder", "describe_machine", "load_tensors"]

CHECKPOINT_FORMAT = 1
RUNS = "runs"  # default parent folder of runs

Row = dict[str, Any]


def describe_machine(device: str = "cpu") -> Row:
    """Return versions and hardware, for ``config.json``. Querying the GPU initializes CUDA, so a CPU run does not."""
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
    """Return the commit of the source checkout and whether files differ from it; None if git can't tell."""
    folder = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    if not (folder / ".git").exists():
        return None  # a repository in a parent folder belongs to another project
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"checkout {described.stdout.strip()}"


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class RunFolder:
    """The files of one run: their paths, and functions that read and write them."""

    path: Path

    @property
    def config(self) -> Path:
        """Arguments of the run, its data, and the machine and versions of every session."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One row per iteration and per evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint, which training resumes from."""
        return self.path / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """The checkpoint before the newest one, in case that is damaged."""
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
        """Path of the result of one evaluation; each split, number of steps, seed and number of ways has its own."""
        ways = "" if n_way is None else f"-{n_way}way"
        return self.path / f"evaluation-{split}{ways}-{inner_steps}steps-seed{seed}.json"

    @staticmethod
    def create(out: Path | str | None, stem: str, parent: Path | str = RUNS) -> RunFolder:
        """Create a run folder: ``out``, which must be new or empty, or the first free ``parent/stem-001``, ``-002``...

        Raises:
            FileExistsError: ``out`` is a file, or a folder that is not empty.
            OSError: the folder cannot be created or written.
        """
        folder = RunFolder(_claim_next(Path(parent), stem) if out is None else _claim(Path(out)))
        with _naming_folder(folder.path), tempfile.TemporaryFile(dir=folder.path):
            return folder

    def take(self) -> None:
        """Claim the created folder for this run. The caller must hold the lock, so that no other process writes to it.

        Removes the files of a run that was stopped before its first checkpoint.

        Raises:
            FileExistsError: another run has started in the folder.
        """
        _refuse_if_occupied(self.path)
        for name in _BEFORE_THE_FIRST_CHECKPOINT:
            (self.path / name).unlink(missing_ok=True)

    def give_back(self) -> None:
        """Remove the folder again if it holds only the lock."""
        with contextlib.suppress(OSError):
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()

    @staticmethod
    def open(path: Path | str) -> RunFolder:
        """Open the folder of an existing run.

        Raises:
            FileNotFoundError: the folder does not exist, or has no config.json.
        """
        folder = RunFolder(Path(path))
        if not folder.config.is_file():
            raise FileNotFoundError(
                f"{path} is not a run folder: it has no config.json; give a folder that train wrote"
            )
        return folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for this process. It is a lock of the operating system, which a killed process releases.

        Raises:
            RuntimeError: another process holds the lock.
            OSError: the folder cannot be written.
        """
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
        """Write an indented JSON document atomically."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(path, (text + "\n").encode(), make_folders=False)

    def read_config(self) -> Row:
        """Return the content of ``config.json``, with arguments under their current names.

        Raises:
            ValueError: the file is damaged; the message names it.
        """
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
            what = f"{wrong[0]} has the wrong type" if wrong else "no arguments in it"
            raise ValueError(f"{self.config} is damaged ({what}); restore it, or start a new run")
        return {**content, "arguments": with_current_names(content["arguments"])}

    def save_checkpoint(self, state: Row) -> None:
        """Write ``state``, which holds only tensors and plain types, atomically. The previous checkpoint is kept."""
        buffer = io.BytesIO()
        torch.save({"format": CHECKPOINT_FORMAT, **state}, buffer)
        if self.checkpoint.is_file():
            write_atomically(self.previous_checkpoint, self.checkpoint.read_bytes(), make_folders=False)
        write_atomically(self.checkpoint, buffer.getvalue(), make_folders=False)

    def load_checkpoint(self) -> Row:
        """Return the state that :meth:`save_checkpoint` wrote, with its tensors on the CPU.

        Raises:
            FileNotFoundError: the run has no checkpoint.
            ValueError: the file is truncated, corrupt, or of another format.
        """
        if not self.checkpoint.is_file():
            raise FileNotFoundError(
                f"{self.checkpoint} is missing: the run stopped before its first checkpoint; start it again with --out "
                f"{self.path}"
            )
        try:
            state = load_tensors(self.checkpoint)
        except ValueError as error:
            remedy = "restore it from a copy, or start a new run"
            if self.previous_checkpoint.is_file():
                remedy = f"put {self.previous_checkpoint.name} in its place and resume from there"
            raise ValueError(
                f"{self.checkpoint} cannot be read, it is truncated or damaged ({error}); {remedy}"
            ) from error
        known = isinstance(state, dict) and state.get("format") == CHECKPOINT_FORMAT
        if not known or type(state.get("iteration")) is not int:
            raise ValueError(f"{self.checkpoint} is not a checkpoint of format {CHECKPOINT_FORMAT}; start a new run")
        return state_with_current_names(state)

    @contextlib.contextmanager
    def fitting_checkpoint(self) -> Iterator[None]:
        """Turn any error inside, where a checkpoint is loaded, into a ValueError about the checkpoint."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self.checkpoint} does not fit {self.config.name} ({reason}); is it from another run?"
            ) from error


def load_tensors(path: Path) -> Any:
    """Load a file that ``torch.save`` wrote, with its tensors on the CPU. It may hold only tensors and plain values.

    Raises:
        ValueError: the file is truncated, corrupt, or holds other objects; the message says which.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not verify checksums
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it has a wrong checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen types for a damaged file
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from error


@contextlib.contextmanager
def _naming_folder(path: Path) -> Iterator[None]:
    """Turn any OSError inside into an error about the run folder ``path``."""
    try:
        yield
    except OSError as error:
        raise type(error)(
            f"cannot write the run folder {path}: {error.strerror or error}; choose another --out"
        ) from None


def _claim(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file, not a folder; choose another --out")
    with _naming_folder(path):
        path.mkdir(parents=True, exist_ok=True)
        _refuse_if_occupied(path)
    return path


_LOCK = ".lock"
_BEFORE_THE_FIRST_CHECKPOINT = ("config.json", "metrics.jsonl")  # files that a run writes until then


def _refuse_if_occupied(path: Path) -> None:
    """Raise unless ``path`` is empty or holds only files of a run that stopped before its first checkpoint."""
    names = {entry.name for entry in path.iterdir()}
    # Without a lock the files are not those of a run.
    harmless = {_LOCK, *_BEFORE_THE_FIRST_CHECKPOINT} if _LOCK in names else set()
    if any(name not in harmless and not (name.startswith(".") and name.endswith(".part")) for name in names):
        raise FileExistsError(f"{path} is not empty; choose another --out, or continue that run with --resume {path}")


def _claim_next(parent: Path, stem: str) -> Path:
    with _naming_folder(parent):
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = parent / f"{stem}-{number:03d}"
            try:
                path.mkdir()  # atomic: two runs that start at the same time get different folders
                return path
            except FileExistsError:
                number += 1
