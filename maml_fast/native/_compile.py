"""Compiles the library in a process of its own, as ``python _compile.py JOB.json``, and tries whether it loads.

A process of its own keeps the user's environment variables, warnings, output and, should the library be broken, life.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Hand the job to torch; whatever goes wrong ends as a log on stdout and a non-zero exit status."""
    with open(sys.argv[1], encoding="utf8") as order:
        job = json.load(order)
    sys.path[:] = job["sys_path"]  # the parent's: its torch, and not this file's folder, whose names would shadow

    from torch.utils import cpp_extension

    cpp_extension.load(**job["arguments"], verbose=True)


if __name__ == "__main__":
    main()
