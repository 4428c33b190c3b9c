"""One training run on many processes: sharding of meta-batches, reductions, and errors about lost or failed peers.

``torchrun`` starts the processes and ``torch.distributed`` connects them.
"""

from maml_fast.distributed._errors import PeerFailedError, PeerLostError, PeerStopped
from maml_fast.distributed._shards import shard

__all__ = ["PeerFailedError", "PeerLostError", "PeerStopped", "shard"]
