"""Starts the processes of a run on this machine with torchrun's launcher."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from maml_fast._arguments import int_from, many, takes, text
from maml_fast.distributed._errors import PeerLostError
from maml_fast.distributed._machine import cores_each

__all__ = ["is_first", "is_told_by_another", "launch", "launch_id"]


@takes(processes=int_from(1, 1024), module=text, arguments=many(text))
def launch(processes: int, module: str, arguments: Sequence[str]) -> int:
    """Run ``python -m module arguments`` in ``processes`` processes that form a group, and return their exit status.

    Each process gets an equal share of the cores, unless ``OMP_NUM_THREADS`` sets its number of threads.

    Raises:
        ValueError: torchrun started this process, so it belongs to a group already.
    """
    if "RANK" in os.environ:
        raise ValueError("torchrun has started this process already; leave processes out")
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("OMP_NUM_THREADS", str(cores_each(processes)))
    options = ["--standalone", f"--nproc-per-node={processes}", "-m", module, *arguments]
    try:
        run.run(run.parse_args(options))
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException as stop:
        return 128 + stop.sigval
    return 0


def launch_id() -> str | None:
    """Return an id of the torchrun launch that this process belongs to; restarts keep it. ``None`` without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return f"{os.environ['TORCHELASTIC_RUN_ID']} by process {os.getppid()} on {socket.gethostname()}"


def is_first() -> bool:
    """Whether this process has rank 0, which prints for all processes that were started together."""
    return int(os.environ.get("RANK", 0)) == 0


def is_told_by_another(error: BaseException) -> bool:
    """Whether rank 0 reports ``error`` for this process. Every process reports a lost peer, which may be rank 0."""
    return not is_first() and not isinstance(error, PeerLostError)
