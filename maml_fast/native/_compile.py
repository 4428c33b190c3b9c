"""Compiles the library in a separate process, as ``python _compile.py JOB.json``, and checks that it loads.

A separate process leaves the user's environment variables, warnings and output alone, and a broken library can't crash
the user's process.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Pass the job to torch; any failure results in a log on stdout and a non-zero exit status."""
    with open(sys.argv[1], encoding="utf8") as order:
        job = json.load(order)
    sys.path[:] = job["sys_path"]  # the parent's, with its torch, and without this folder, whose modules may shadow

    from torch.utils import cpp_extension

    cpp_extension.load(**job["arguments"], verbose=True)


if __name__ == "__main__":
    main()
