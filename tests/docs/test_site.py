"""The site of the documentation in a browser, on a screen and on a phone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import browser
import pytest
from checkout import ROOT

pytestmark = [browser.needed, pytest.mark.backendless]

PAGES = sorted(str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[str]:
    """The site's address."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    with browser.served(folder) as address:
        yield address


def test_pages_fit_a_phone_and_the_browser_complains_of_nothing(site):
    for page, shown in browser.open_pages(site, PAGES, 390).items():
        assert shown.complaints == []
        assert shown.page_width <= 390, page


def test_first_page_on_a_screen(site):
    assert browser.open_page(site, "index.html", 1280).complaints == []
