from __future__ import annotations

import hashlib
import os
import socket
from http.server import BaseHTTPRequestHandler

import pytest
from web_server import serving

from maml_fast.data._download import download

pytestmark = pytest.mark.backendless

CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/unmeasured":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/truncated" else CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with serving(Handler) as address:
        yield address


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize("page", ["whole", "unmeasured"])
def test_download(page, server, tmp_path):
    told = []
    download(f"{server}/{page}", tmp_path / "x.zip", MD5, progress=lambda *counts: told.append(counts))
    assert (tmp_path / "x.zip").read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert os.listdir(tmp_path) == ["x.zip"]


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


BAD = {
    "not found": ("{server}/missing", MD5, "cannot fetch .*/missing .*Not Found.*put it at .*x.zip"),
    "truncated": ("{server}/truncated", MD5, "cannot fetch .*/truncated .*try again.*put it at .*x.zip"),
    "another file": (
        "{server}/whole",
        "0" * 32,
        f"cannot fetch .*expected md5:{'0' * 32} but got {MD5}.*put it at .*x.zip",
    ),
    "nobody there": (f"http://127.0.0.1:{closed_port()}/x", MD5, "cannot fetch .*refused"),
    "no such host": ("http://host.invalid/x", MD5, "cannot fetch http://host.invalid/x"),
    "not a url": ("images.zip", MD5, "cannot fetch images.zip .*No scheme supplied"),
}


@pytest.mark.parametrize(("url", "md5", "message"), BAD.values(), ids=BAD)
def test_bad_download_leaves_nothing(url, md5, message, server, tmp_path):
    with pytest.raises(RuntimeError, match=message):
        download(url.format(server=server), tmp_path / "x.zip", md5, timeout=10)
    assert os.listdir(tmp_path) == []


def test_unwritable_folder_is_told_before_the_download(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match=r"cannot write .*file/x.zip"):
        download("http://host.invalid/x", tmp_path / "file" / "x.zip", MD5)
