"""Downloads of files, verified by checksum."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from maml_fast.data._dataset import Progress
from maml_fast.data._files import naming_disk_errors, replacing

__all__ = ["download"]

_BLOCK = 1 << 16


def download(url: str, path: Path, md5: str, *, progress: Progress | None = None, timeout: float = 30.0) -> None:
    """Download `url` to `path`, which appears only once the file is complete and its checksum is right.

    Args:
        url: the address of the file.
        path: the file to write.
        md5: the published MD5 checksum, in hexadecimal.
        progress: called with (bytes done, bytes in total).
        timeout: seconds without a response after which the download fails.

    Raises:
        RuntimeError: the connection fails, the response is not the expected file, or `path` is not writable.
    """
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with replacing(path) as file:
        try:
            with urllib.request.urlopen(url, timeout=timeout) as answer:
                total = int(answer.headers.get("Content-Length") or 0)
                while block := answer.read(_BLOCK):
                    digest.update(block)
                    done += len(block)
                    with naming_disk_errors(path):
                        file.write(block)
                    if progress:
                        progress(done, max(total, done))
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise RuntimeError(f"cannot fetch {url} ({reason}); fetch it elsewhere and put it at {path}") from error
        if done < total:
            raise RuntimeError(f"{url} broke off after {done:,} of {total:,} bytes; try again")
        if digest.hexdigest() != md5:
            raise RuntimeError(
                f"{url} is not the file expected: its MD5 is {digest.hexdigest()}, not {md5}; try again, or fetch it "
                f"elsewhere and put it at {path}"
            )
