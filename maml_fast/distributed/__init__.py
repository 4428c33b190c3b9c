"""Many processes, one run: who they are, what each of them takes, how sums are made, and what becomes of one that dies.

On PyTorch's own engine: ``torchrun`` starts the processes, ``torch.distributed`` connects them.
"""

from maml_fast.distributed.errors import PeerFailedError, PeerLostError, PeerStopped
from maml_fast.distributed.group import Group
from maml_fast.distributed.joining import joined
from maml_fast.distributed.launch import is_first, is_told_by_another, launch, launch_id
from maml_fast.distributed.machine import take_gpu, threads_of
from maml_fast.distributed.shards import shard

__all__ = [
    "Group",
    "PeerFailedError",
    "PeerLostError",
    "PeerStopped",
    "is_first",
    "is_told_by_another",
    "joined",
    "launch",
    "launch_id",
    "shard",
    "take_gpu",
    "threads_of",
]
