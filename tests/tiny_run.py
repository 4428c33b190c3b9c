"""What a run left on disk, and when two runs are the same."""

from __future__ import annotations

from pathlib import Path

import torch

from maml_fast.train.metrics import read_metrics
from maml_fast.train.record import RunFolder

TIMES = ("seconds", "wait_seconds", "elapsed_seconds", "episodes_per_second")


def untimed(path: Path) -> list[dict]:
    """The rows of a run, without times."""
    rows = read_metrics(RunFolder(path).metrics)
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def state(path: Path) -> dict:
    """The checkpoint, flat, without times."""
    checkpoint = RunFolder(path).load_checkpoint()
    flat = dict(checkpoint["maml"])
    for number, moments in checkpoint["optimizer"]["state"].items():
        flat.update({f"optimizer {number} {name}": value for name, value in moments.items()})
    return {**flat, "torch_rng": checkpoint["torch_rng"], "iteration": torch.tensor(checkpoint["iteration"])}


def assert_same_run(one: Path, other: Path) -> None:
    assert untimed(one) == untimed(other)
    a, b = state(one), state(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
