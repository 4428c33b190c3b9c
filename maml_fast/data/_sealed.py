"""Seals of cached files, which show whether a file is unchanged and was written by this user or by root."""

from __future__ import annotations

from pathlib import Path

from maml_fast.data._files import write_atomically
from maml_fast.native import is_ours, sha256_of

__all__ = ["is_sound", "seal"]


def seal(path: Path) -> None:
    """Write the seal of a file next to it: size, modification time and SHA-256 digest.

    Raises:
        RuntimeError: the seal cannot be written.
    """
    write_atomically(_seal_of(path), f"{_stamp(path)} {sha256_of(path)}\n".encode())


def is_sound(path: Path) -> bool:
    """Return whether a file matches its seal; False if either is missing, or another user could have written it.

    The digest is computed only if size or time differ, as for a copy of the file: a bank may have many gigabytes.
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
