"""Downloads of files, verified by checksum."""

from __future__ import annotations

from pathlib import Path

from maml_fast.data._dataset import Progress
from maml_fast.data._files import naming_disk_errors

__all__ = ["download"]


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
    import pooch

    with naming_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    downloader = pooch.HTTPDownloader(timeout=timeout, progressbar=_Bar(progress) if progress else False)
    try:
        pooch.retrieve(url, f"md5:{md5}", path.name, path.parent, downloader=downloader)
    except Exception as error:  # from several libraries
        raise RuntimeError(
            f"cannot fetch {url} ({error}); try again, or fetch it elsewhere and put it at {path}"
        ) from error


class _Bar:
    """Calls ``progress`` where pooch would move a progress bar."""

    def __init__(self, progress: Progress) -> None:
        self.total, self._done, self._progress = 0, 0, progress  # pooch sets the total, 0 if the server names none

    def update(self, n_bytes: int) -> None:
        self._done += n_bytes  # pooch counts the last block as a full one
        total = self.total or self._done
        self._progress(min(self._done, total), total)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass
