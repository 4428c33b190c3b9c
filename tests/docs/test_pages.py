"""README and the pages of docs/: their code runs, their commands are understood, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from photos import write_photos
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

import maml_fast as mf
from maml_fast.cli import main
from maml_fast.deployment import adapt_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = {"pip", "pytest", "python", "mkdocs", "torchrun", "srun", "head=$(scontrol", "-m", "#!/bin/bash"}

pytestmark = pytest.mark.backendless


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[Any]:
    return Sybil([CodeBlockParser(language, lambda example: None)]).parse(page).examples()


@pytest.fixture
def short_trainings(monkeypatch):
    """A sampler for a whole training ends after two small batches."""
    sampler = mf.EpisodeSampler

    def short(*arguments: Any, **options: Any) -> mf.EpisodeSampler:
        is_whole = options["meta_batch_size"] == 32
        return sampler(*arguments, **(options | {"batches": 2, "meta_batch_size": 2} if is_whole else options))

    monkeypatch.setattr(mf, "EpisodeSampler", short)


@pytest.fixture
def one_process(monkeypatch):
    """The environment that torchrun gives a process that is alone."""
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}.items():
        monkeypatch.setenv(name, str(value))
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def given(page: str, folder: Path, run: Path) -> dict[str, Any]:
    """What a page's code takes for granted."""
    if page != "docs/deploying.md":
        return {}
    photos = write_photos(folder / "photos", {"circle": 2, "cross": 2})
    write_photos(folder, {"box": 1})
    (folder / "box").rename(folder / "new")
    (folder / "new" / "0.png").rename(folder / "new" / "a.jpg")
    adapt_run(run, photos, out=folder / "leaves.pt", judged=False)
    maml = mf.MAML(mf.models.Conv4(2, hidden=4, image_size=16), inner_lr=0.4)
    x = torch.rand(4, 1, 16, 16)
    return {"maml": maml, "mf": mf, "torch": torch, "x_spt": x, "y_spt": torch.arange(2).repeat(2), "x_qry": x}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_code_runs(page, tmp_path, monkeypatch, short_trainings, one_process, zero_run):
    monkeypatch.chdir(tmp_path)
    document = Sybil([PythonCodeBlockParser()]).parse(page)
    document.namespace.update(given(name_of(page), tmp_path, zero_run))
    for example in document.examples():
        example.evaluate()


def commands(page: Path) -> list[list[str]]:
    """The words of every command in a page's shell blocks."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.parsed.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                found += [words] if words else []
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_commands_are_understood(page):
    for words in commands(page):
        program, *arguments = words
        if program != "maml-fast":
            assert program in OTHERS, f"what is {program}?"
            continue
        command = main.commands[arguments[0]]
        context = click.Context(command, **command.context_settings)
        values, _, _ = command.make_parser(context).parse_args(arguments[1:])
        kinds = {parameter.name: parameter.type for parameter in command.params}
        for name, value in values.items():
            if isinstance(kinds[name], click.Choice) and isinstance(value, str):
                kinds[name].convert(value, None, context)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf8")):
        assert link.startswith("https://") or (page.parent / link).exists(), f"{link} does not exist"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf8").splitlines()) <= 120


def test_every_page_is_in_the_sites_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf8")
    for page in PAGES[1:]:
        assert f" {page.relative_to(ROOT / 'docs')}\n" in navigation, f"{page} is in no menu"
