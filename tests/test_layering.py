"""The house's plan: which room may import which, and where its tests stand. A new module gets its place here first."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import CSRC, HELPERS, TESTS

import maml_fast

pytestmark = pytest.mark.backendless

PACKAGE = Path(maml_fast.__file__).parent

# room: (its modules, the rooms it may import from; all may use arguments)
ROOMS = {
    "arguments": ("_arguments", ""),
    "native": ("native", ""),
    "reference": ("_reference", ""),
    "ops": ("ops", "native reference"),
    "nn": ("nn _recurrent", "ops"),
    "program": ("program", "nn ops"),
    "fusion": ("fusion", "program"),
    "models": ("models", "nn"),
    "data": ("data", "native"),
    "distributed": ("distributed", "data native"),
    "lowering": ("lowering", "program nn ops"),
    "inner_loop": ("inner_loop", "lowering program data nn ops native"),
    "maml": ("maml", "inner_loop program data native"),
    "algorithms": ("algorithms", "maml inner_loop program data ops"),
    "train": ("train", "algorithms maml inner_loop program models data distributed native"),
    "deployment": ("deployment", "train algorithms maml inner_loop fusion models data nn"),
    "report": ("report", "train data"),
    "compat": ("compat", "maml inner_loop models data fusion"),
    "cli": ("cli __main__", "report deployment train maml data distributed native"),
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
    """Return the file's top-level module or subpackage: maml_fast/data/_bank.py is part of data."""
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
    return sorted(path for path in CSRC.rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"})


def includes(path: Path) -> Iterator[str]:
    yield from re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(encoding="utf8"), re.MULTILINE)


def test_every_module_has_a_room_and_every_name_a_module():
    assert {module_of(path) for path in python_files()} - {"__init__"} == set(ROOM_OF)


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_it_may(room):
    allowed = {room, "arguments", *ROOMS[room][1].split()}
    wrong = []
    for path in python_files():
        if ROOM_OF.get(module_of(path)) != room:
            continue
        for name in imports(path):
            package, _, inner = name.partition(".")
            if package != "maml_fast":
                continue
            target = inner.split(".")[0]
            if ROOM_OF.get(target) not in allowed:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_only_one_file_calls_the_build_machinery_and_one_opens_the_library():
    users = {path.name for path in python_files() if any("cpp_extension" in name for name in imports(path))}
    assert users == {"_compile.py"}
    loading = re.compile(r"spec_from_file_location|\bctypes\b|load_library")
    openers = {path.name for path in python_files() if loading.search(path.read_text(encoding="utf8"))}
    assert openers == {"__init__.py", "_ask_gpus.py"}  # the latter opens the driver, in a process of its own


def test_every_source_folder_has_a_place():
    assert {path.relative_to(CSRC).parts[0] for path in c_files()} <= set(FOLDERS)


@pytest.mark.parametrize("path", c_files(), ids=lambda path: str(path.relative_to(CSRC)))
def test_includes(path):
    folder = path.relative_to(CSRC).parts[0]
    allowed = {folder, *FOLDERS[folder].split()}
    for name in includes(path):
        inside = (CSRC / name).is_file()
        assert not inside or name.split("/")[0] in allowed, f"{name} is not for {folder}"
        assert inside or not (path.parent / name).is_file(), f"{name}: write it from csrc on, {folder}/{name}"
        assert not FRAMEWORKS.match(name) or folder == "bindings", f"only csrc/bindings may include {name}"


def test_every_folder_of_tests_is_named_after_what_it_tests():
    """What is in no package, or in several, is tested at the top."""
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    folders = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("*/*.py")}
    assert folders <= {*packages, "bench", "csrc", "docs", "helpers"}


def test_a_test_is_imported_by_no_file():
    """What two files share is a helper."""
    files, tests = sorted(TESTS.rglob("*.py")), {path.stem for path in TESTS.rglob("test_*.py")}
    assert [f"{path} imports {name}" for path in files for name in imports(path) if tests & {*name.split(".")}] == []


def test_what_is_no_test_is_a_helper():
    no_tests = {path for path in TESTS.rglob("*.py") if not path.name.startswith("test_")}
    assert no_tests == {TESTS / "conftest.py", *HELPERS.rglob("*.py")}
    collected = re.compile(r"^(def test|class Test)", re.MULTILINE)
    assert [path for path in no_tests if collected.search(path.read_text(encoding="utf8"))] == []
