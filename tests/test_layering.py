"""The house's plan: which room may import which. A new module gets its place here first."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import maml_fast

pytestmark = pytest.mark.backendless

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(maml_fast.__file__).parent

# room: (its modules, the rooms it may import from). A name that begins with _ is for its own room only.
ROOMS = {
    "native": ("native", ""),
    "reference": ("reference", ""),
    "ops": ("ops _conv_block _inner_loops", "native reference"),
    "nn": ("nn recurrent", "ops"),
    "fusion": ("fusion", "nn ops"),
    "models": ("models", "nn"),
    "data": ("data", "native"),
    "maml": ("maml", "fusion data ops"),
    "algorithms": ("algorithms", "maml fusion data ops"),
    "train": ("train", "algorithms maml models data native"),
    "compat": ("compat", "maml models data fusion"),
    "cli": ("cli __main__", "train maml data native"),
}
ROOM_OF = {module: room for room, (modules, _) in ROOMS.items() for module in modules.split()}

FOLDERS = {  # of csrc
    "core": "",
    "cpu": "core",
    "cuda": "core sampler",
    "sampler": "core",
    "bindings": "core cpu cuda sampler",
}
FRAMEWORKS = re.compile(r"(torch|ATen|c10|caffe2|pybind11)/|Python\.h$")


def python_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in {"csrc", "bench"})


def module_of(path: Path) -> str:
    """Return the file's top-level module or subpackage: maml_fast/data/bank.py is part of data."""
    return Path(path.relative_to(PACKAGE).parts[0]).stem


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of all that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def c_files() -> list[Path]:
    return sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"})


def includes(path: Path) -> Iterator[str]:
    yield from re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(encoding="utf8"), re.MULTILINE)


def test_every_module_has_a_room_and_every_name_a_module():
    assert {module_of(path) for path in python_files()} - {"__init__"} == set(ROOM_OF)


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_it_may(room):
    allowed = {room, *ROOMS[room][1].split()}
    wrong = []
    for path in python_files():
        if ROOM_OF.get(module_of(path)) != room:
            continue
        for name in imports(path):
            package, _, inner = name.partition(".")
            if package != "maml_fast":
                continue
            target = inner.split(".")[0]
            private_elsewhere = target.startswith("_") and ROOM_OF.get(target) != room
            if ROOM_OF.get(target) not in allowed or private_elsewhere:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_only_one_file_calls_the_build_machinery_and_one_opens_the_library():
    users = {path.name for path in python_files() if any("cpp_extension" in name for name in imports(path))}
    assert users == {"_compile.py"}
    loading = re.compile(r"spec_from_file_location|\bctypes\b|load_library")
    openers = {path.name for path in python_files() if loading.search(path.read_text(encoding="utf8"))}
    assert openers == {"__init__.py"}


def test_every_source_folder_has_a_place():
    assert {path.relative_to(ROOT / "csrc").parts[0] for path in c_files()} <= set(FOLDERS)


@pytest.mark.parametrize("path", c_files(), ids=lambda path: str(path.relative_to(ROOT / "csrc")))
def test_includes(path):
    folder = path.relative_to(ROOT / "csrc").parts[0]
    allowed = {folder, *FOLDERS[folder].split()}
    for name in includes(path):
        inside = (ROOT / "csrc" / name).is_file()
        assert not inside or name.split("/")[0] in allowed, f"{name} is not for {folder}"
        assert inside or not (path.parent / name).is_file(), f"{name}: write it from csrc on, {folder}/{name}"
        assert not FRAMEWORKS.match(name) or folder == "bindings", f"only csrc/bindings may include {name}"
