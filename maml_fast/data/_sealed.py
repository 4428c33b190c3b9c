"""Files that were made once and are trusted later, if they are still what was written, by this user or by root."""

from __future__ import annotations

from pathlib import Path

from maml_fast.data._files import write_atomically
from maml_fast.native import is_ours, sha256_of

__all__ = ["is_sound", "seal"]


def seal(path: Path) -> None:
    """Keep beside a file what it is known by: size, time and digest.

    Raises:
        RuntimeError: the seal cannot be written.
    """
    write_atomically(_seal_of(path), f"{_stamp(path)} {sha256_of(path)}\n".encode())


def is_sound(path: Path) -> bool:
    """Whether a file is what was sealed; False where there is none, or another user could have written it.

    Its digest is taken only where size or time have changed, as a copy's have: a bank may hold many gigabytes.
    """
    try:
        if not (is_ours(path) and is_ours(_seal_of(path))):
            return False
        stamp, digest = _seal_of(path).read_text(encoding="ascii").rsplit(maxsplit=1)
        return stamp == _stamp(path) or digest == sha256_of(path)
    except (OSError, ValueError):
        return False


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"
