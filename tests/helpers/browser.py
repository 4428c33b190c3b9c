"""A headless Chromium, where there is one: what it complains about on a page, and how wide the page is."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

# A page is opened in a frame, so that its width is exact: windows have a minimum width.
HEAD = '<!doctype html><link rel="icon" href="data:,">'
FRAME = """
<iframe src="/{page}" style="width: {width}px; height: 3000px; border: 0"
        onload="this.id = 'width ' + this.contentDocument.documentElement.scrollWidth"></iframe>"""


class Shown(NamedTuple):
    """What came of opening a page: lines of the console, and the width that its content takes in pixels."""

    complaints: list[str]
    page_width: int


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if not self.path.startswith("/frame?"):
            return super().do_GET()
        width, *pages = self.path.removeprefix("/frame?").split("&")
        content = (HEAD + "".join(FRAME.format(page=page, width=width) for page in pages)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def open_page(address: str, page: str, width: int) -> Shown:
    """Open a page of a served folder in a frame of a width in pixels."""
    return open_pages(address, [page], width)[page]


def open_pages(address: str, pages: Sequence[str], width: int) -> dict[str, Shown]:
    """Open several pages in one browser, whose start takes longest; each page gets the complaints about all of them."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
            "--virtual-time-budget=10000", "--enable-logging=stderr", "--dump-dom",
        ]  # fmt: skip
        command = [CHROMIUM, *options, f"{address}/frame?{'&'.join([str(width), *pages])}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    widths = re.findall(r'<iframe [^>]*id="width (\d+)"', done.stdout)
    assert len(widths) == len(pages), done.stderr[-2000:]
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {page: Shown(complaints, int(found)) for page, found in zip(pages, widths, strict=True)}
