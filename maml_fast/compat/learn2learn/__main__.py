"""Runs a program that imports learn2learn, unchanged, with this package in learn2learn's place.

python -m maml_fast.compat.learn2learn program.py --its --arguments
python -m maml_fast.compat.learn2learn -m package.module --its --arguments
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from maml_fast.compat.learn2learn._alias import install_alias

USAGE = "usage: python -m maml_fast.compat.learn2learn (PROGRAM.py | -m MODULE) [ARGUMENTS ...]"


def main() -> None:
    """Run the program that the command line names."""
    arguments = sys.argv[1:]
    as_module = arguments[:1] == ["-m"]
    arguments = arguments[as_module:]
    if not arguments or arguments[0].startswith("-"):
        sys.exit(USAGE)
    program = arguments[0]
    if not as_module and not Path(program).exists():
        sys.exit(f"there is no program {program}\n{USAGE}")
    install_alias()
    sys.argv = arguments
    if as_module:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(program).resolve().parent)
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
