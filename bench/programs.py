"""What the programs that train on Omniglot share: where their data are, and on what they ran."""

from __future__ import annotations

import argparse
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from maml_fast import native
from maml_fast.train._record import describe_machine


def add_arguments(parser: argparse.ArgumentParser, datasets: tuple[str, ...] | None = None) -> None:
    """--dataset, --root, --threads and --seed."""
    parser.add_argument("--dataset", choices=datasets, default="omniglot")
    parser.add_argument("--root", help="folder of the data (default: omniglot in MAML_FAST_DATA)")
    parser.add_argument("--threads", type=int, help="of PyTorch (default: as torch decides)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and episodes (default: %(default)s)")


def check(parser: argparse.ArgumentParser, given: argparse.Namespace, record: str) -> None:
    """Find Omniglot; refuse an --out that already has a record of this name."""
    if given.dataset == "omniglot" and given.root is None:
        if "MAML_FAST_DATA" not in os.environ:
            parser.error("omniglot needs --root DIR, or MAML_FAST_DATA, the folder that holds omniglot/")
        given.root = str(Path(os.environ["MAML_FAST_DATA"], "omniglot"))
    if (given.out / record).exists():
        parser.error(f"{given.out} holds a {record} already; choose another --out")


def conditions() -> dict[str, Any]:
    """Date, machine and backend, for a record."""
    machine = describe_machine()
    del machine["command"]  # full of paths
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"date": now, "machine": machine, "backend": str(native.backend())}
