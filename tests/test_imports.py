"""What starting maml_fast loads: nothing that is slow to load, before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.backendless

SLOW = {
    "maml_fast.compat",
    *("PIL", "filelock", "jax", "jinja2", "matplotlib", "platformdirs", "pooch", "requests"),
    *("torch._dynamo", "torch._inductor", "torch.utils.cpp_extension", "torch.utils.tensorboard"),
}


def run(program: str, cache: os.PathLike[str]) -> str:
    """Return what a program prints in a Python of its own, and the slow modules that it has loaded at its end."""
    program = f"import sys\n{program}\nprint(sorted({SLOW!r} & sys.modules.keys()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MAML_FAST_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not os.path.exists(cache)  # nothing was compiled
    return done.stdout


def test_import_loads_nothing_slow(tmp_path):
    click = "print({'click', 'rich'} & sys.modules.keys())"
    assert run(f"import maml_fast; {click}", tmp_path / "cache") == "set()\n[]\n"


def test_commands_that_only_print_load_nothing_slow(tmp_path):
    commands = [["--help"], ["train", "--help"], ["recipes"]]
    calls = "\n".join(f"main({command}, standalone_mode=False)" for command in commands)
    printed = run(f"from maml_fast.cli import main\n{calls}", tmp_path / "cache")
    assert all(text in printed for text in ("Commands:", "--meta-batch-size", "finn2017-omniglot-5w1s"))
    assert printed.endswith("\n[]\n")
