"""The report of several runs: what stands in it, what it needs, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
from checkout import ROOT
from tiny_run import TINY

from maml_fast.report import write_report
from maml_fast.report._run import differences, read_runs
from maml_fast.train import train

RECORDS = ROOT / "bench" / "results" / "2026-11-21-omniglot-5w1s-algorithms"
RUNS = [RECORDS / "anil", RECORDS / "reptile"]


@pytest.fixture(scope="module")
def page(tmp_path_factory, whole) -> Path:
    """Two records of the past and a run with its episode."""
    return write_report([*RUNS, whole.path], tmp_path_factory.mktemp("report") / "report.html")


def test_results_curves_and_differences_of_all_runs(page):
    text = page.read_text()
    assert all(run.name in text for run in RUNS)
    anil = json.loads((RUNS[0] / "summary.json").read_text())["evaluation"]
    assert f"{100 * anil['accuracy']:.2f} ± {100 * anil['interval']:.2f} %" in text
    assert text.count("<svg") == 1
    assert text.count("data:image/png;base64,") == 1
    assert "<th>algorithm</th><td>anil</td><td>reptile</td><td>maml</td>" in text.replace("\n", "")
    assert ">k_shot<" not in text  # the same in all


def test_page_is_whole_and_asks_for_nothing(page):
    class Checked(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.links: list[str] = []

        def handle_starttag(self, tag, attributes):
            self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
            assert tag != "script"
            if tag not in {"meta", "link", "img", "path", "use", "br"}:
                self.open.append(tag)

        def handle_endtag(self, tag):
            if tag not in {"path", "use"}:
                assert self.open.pop() == tag

    parser = Checked()
    parser.feed(page.read_text())
    assert parser.open == []
    assert all(link.startswith(("data:", "#")) for link in parser.links)


def test_one_run_alone_differs_from_nothing(tmp_path):
    text = write_report(RUNS[:1], tmp_path / "one.html").read_text()
    assert "1 training run<" in text
    assert "What differs" not in text


def test_names_tell_runs_apart(tmp_path):
    for parent in ("a", "b"):
        shutil.copytree(RUNS[0], tmp_path / parent / "run")
    runs = read_runs([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert [run.name for run in runs] == ["a/run", "b/run"]
    assert differences(runs) == {}


def test_a_name_is_text_and_no_markup(tmp_path):
    copy = tmp_path / "<b>&run"
    shutil.copytree(RUNS[0], copy)
    assert "&lt;b&gt;&amp;run" in write_report([copy], tmp_path / "page.html").read_text()


@pytest.mark.usefixtures("plain_pictures")
def test_a_run_that_has_just_begun(tmp_path):
    path = train(TINY, out=tmp_path / "run").path
    for file in path.iterdir():
        if file.name not in ("config.json", "metrics.jsonl"):
            file.unlink()
    (path / "metrics.jsonl").write_text("")
    text = write_report([path], tmp_path / "page.html").read_text()
    assert "not evaluated yet" in text
    assert re.search(r"0 of 6</td>\s*<td class=\"number\">not complete", text)


def test_bad_requests(tmp_path):
    out = tmp_path / "page.html"
    with pytest.raises(ValueError, match="runs is empty"):
        write_report([], out)
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        write_report([tmp_path], out)
    with pytest.raises(ValueError, match="is given twice"):
        write_report([RUNS[0], RUNS[0] / "."], out)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_report(RUNS, tmp_path / "no" / "page.html")
    copy = Path(shutil.copytree(RUNS[0], tmp_path / "run"))
    next(copy.glob("evaluation-*")).write_text("{}")
    with pytest.raises(ValueError, match=r"evaluation-test.*json is damaged: it has no 'split'"):
        write_report([copy], out)
    assert not out.exists()
    out.write_text("")
    with pytest.raises(FileExistsError, match="exists already"):
        write_report(RUNS, out)


@browser.needed
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_complaint(page, width):
    with browser.served(page.parent) as address:
        shown = browser.open_page(address, page.name, width)
    assert shown.complaints == []
    assert shown.page_width <= width
