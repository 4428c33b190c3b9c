"""Many processes, one run: who they are, what each of them takes, how sums are made, and what becomes of one that dies.

On PyTorch's own engine: ``torchrun`` starts the processes, ``torch.distributed`` connects them.
"""

from maml_fast.distributed._errors import PeerFailedError, PeerLostError, PeerStopped
from maml_fast.distributed._shards import shard

__all__ = ["PeerFailedError", "PeerLostError", "PeerStopped", "shard"]
