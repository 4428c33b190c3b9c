"""A native library of two tiny files that compile at once, and a backend that is chosen anew."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from build_folder import MadeOnce

from maml_fast.native import _build

MODULE = """
#include <Python.h>
int Answer();
static PyObject* PyAnswer(PyObject*, PyObject*) { return PyLong_FromLong(Answer()); }
static PyObject* Capability(PyObject*, PyObject*) { return PyUnicode_FromString("tiny"); }
static PyObject* HasCuda(PyObject*, PyObject*) { Py_RETURN_FALSE; }
static PyMethodDef methods[] = {{"answer", PyAnswer, METH_NOARGS, nullptr},
                                {"cpu_capability", Capability, METH_NOARGS, nullptr},
                                {"has_cuda", HasCuda, METH_NOARGS, nullptr},
                                {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "maml_fast_native", nullptr, -1, methods};
PyMODINIT_FUNC PyInit_maml_fast_native() { return PyModule_Create(&module_def); }
"""


# Both sources are called module.cpp, and the folder has a space: neither may trouble the build.
FILES = {
    "bindings/module.cpp": MODULE,
    "cpu/module.cpp": '#include "answer.h"\nint Answer() { return kAnswer; }\n',
    "cpu/answer.h": "constexpr int kAnswer = 42;\n",
}


def write_csrc(folder: Path) -> Path:
    for name, text in FILES.items():
        path = folder / "c src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "c src"


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    return write_csrc(tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def built(made_once: MadeOnce) -> tuple[Path, Path]:
    """Sources, and a cache that holds their library, compiled as a user's is; not to be changed."""
    folder = made_once("built", lambda folder: _build.ensure(write_csrc(folder), folder / "cache"))
    return folder / "c src", folder / "cache"


@pytest.fixture
def fresh(fresh_backend, monkeypatch, csrc) -> Path:
    """A new process with the tiny sources; its cache folder."""
    monkeypatch.setattr(_build, "find_csrc", lambda: csrc)
    return fresh_backend


@pytest.fixture
def no_compiler(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def answer(library: Path) -> int:
    spec = importlib.util.spec_from_file_location(_build.NAME, library)
    assert spec is not None
    return importlib.util.module_from_spec(spec).answer()


NO_COMPILER = r"no C\+\+ compiler found"
