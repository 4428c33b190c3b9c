"""A record of benchmarks as a run would make it, and the tables of its report."""

from __future__ import annotations

import measurements
from peers import NAIVE, OURS, TRUTH


def make_record(**changes):
    """A record as a run would make it: two peers, one block, one sampler; nothing measured here."""
    found = measurements.Measurements()
    for who, milliseconds in ((OURS.title, (10, 12, 11)), (TRUTH.title, (40, 44, 48))):
        row = found.row("iteration", "W9", "a net", who)
        row.seconds = [1e-3 * each for each in milliseconds]
        row.flops, row.parity, row.peak_mib = 0.5e9, {"loss": 1e-15, "gradient": 2e-13, "float32_loss": 0.0}, 77.4
    found.row("iteration", "W9", "a net", OURS.title).shares = {"convolutions": 0.8, "waiting": 0.05}
    found.row("iteration", "W9", "a net", "torch.func.vmap").skipped = "needs about 10.0 GiB of memory"
    found.row("iteration", "W9", "a net", "higher").failed = "higher on W9 was killed by SIGSEGV"
    found.row("iteration", "W8", "another net", "torch.func.vmap").skipped = "needs about 10.0 GiB of memory"
    found.row("iteration", "W7", "not asked for", OURS.title)
    for who, seconds in (("per-task torch", 6e-3), ("native", 2e-3)):
        row = found.row("op", "block 7", "backward", who)
        row.seconds, row.flops, row.parity = [seconds], 0.1e9, {"values": 3e-16}
    found.row("sampler", "W9", "make a meta-batch", "native").seconds = [0.11e-3]
    for at, milliseconds in ((1, 4), (2, 4), (4, 12), (8, 16)):
        row = found.row("scaling", "tasks", "forward", "float32", at)
        row.seconds, row.flops, row.tasks = [1e-3 * milliseconds], at * 0.1e9, at
    row = found.row("scaling", "tasks", "forward", "float64", 4)
    row.seconds, row.flops, row.tasks = [30e-3], 0.4e9, 4
    row = found.row("chunks", "W9", "a net", OURS.title, 4)
    row.seconds, row.peak_mib = [13e-3], 55.4
    row = found.row("many tasks", "W9", "a net", OURS.title, 64)
    row.seconds, row.peak_mib, row.flops, row.tasks = [160e-3], 57.4, 8e9, 64
    for who, milliseconds, ran in ((OURS.title, 3, "fused blocks: 4"), (NAIVE.title, 12, None)):
        row = found.row("algorithms", "anil", "a common net", who)
        row.seconds, row.parity, row.ran = [1e-3 * milliseconds], {"loss": 2e-15, "gradient": 3e-14}, ran
        row.peak_mib = 10.4 * milliseconds
    found.row("algorithms", "boil", "a small net", OURS.title).failed = "maml_fast on A-boil failed"
    about = {
        "date": "2031-02-03T04:05:06+00:00",
        "machine": {
            "processor": "Abacus 9000",
            "gpu": "Slide Rule 7",
            "cores": 6,
            "platform": "Linux",
            "maml_fast": "1.2",
            "python": "3.12.1",
            "torch": "2.99",
            "numpy": "2.1",
        },
        "libraries": {"higher": "0.2.1"},
        "backend": {"name": "native", "reason": "avx9 kernels"},
        "threads": 5,
        "device": "cpu",
        "precision": "exact",
        "settings": {"quick": False, "sweeps": 3, "seconds": 2.0},
        "load_average_before": [0.25, 1, 1],
        "load_average_after": [3.75, 1, 1],
        "minutes": 7.5,
        "complete": True,
    }
    sgemm = changes.pop("sgemm_gflops", {"numpy": 100.0, "torch": 60.0})
    return found.record({**about, **changes}, sgemm)


def table_row(text, start):
    return [cell.strip() for cell in next(line for line in text.splitlines() if line.startswith(start)).split("|")][
        1:-1
    ]
