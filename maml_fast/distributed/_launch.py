"""Starting the processes of a run on this machine, by torchrun's own launcher."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from maml_fast._arguments import many, takes, text, whole
from maml_fast.distributed._errors import PeerLostError
from maml_fast.distributed._machine import cores_each

__all__ = ["is_first", "is_told_by_another", "launch", "launch_id"]


@takes(processes=whole(1, 1024), module=text, arguments=many(text))
def launch(processes: int, module: str, arguments: Sequence[str]) -> int:
    """Run ``python -m module arguments`` in so many processes that form a group; return their exit status.

    Each has its share of the cores, unless ``OMP_NUM_THREADS`` says how many threads it may have.

    Raises:
        ValueError: this process is one of such a group itself.
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
    """What tells apart the launches that this process may belong to; the same after torchrun has restarted it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return f"{os.environ['TORCHELASTIC_RUN_ID']} by process {os.getppid()} on {socket.gethostname()}"


def is_first() -> bool:
    """Whether this process is the one that speaks for all that were started with it."""
    return int(os.environ.get("RANK", 0)) == 0


def is_told_by_another(error: BaseException) -> bool:
    """Whether the first process says what is to be said of an error: all, unless it is the one that died."""
    return not is_first() and not isinstance(error, PeerLostError)
