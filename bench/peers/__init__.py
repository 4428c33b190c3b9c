"""Ways to train on a workload: maml_fast first, then other libraries and plain PyTorch. Add a new peer below."""

from __future__ import annotations

from peers.graphed import Graphed
from peers.higher import Higher
from peers.jax import JaxMap, JaxVmap, JaxVmapConv
from peers.learn2learn import Compat, Learn2Learn
from peers.learner import Learner
from peers.loop import TaskLoop
from peers.metalearn import MetaLearn
from peers.naive import Naive
from peers.ours import Ours
from peers.processes import Processes
from peers.torchopt import TorchOpt
from peers.tutorial import TutorialLoop
from peers.vmap import Vmap

__all__ = ["GRAPHED", "NAIVE", "OURS", "PEERS", "TRUTH", "TUTORIAL", "ZOO_PEERS", "Learner", "named", "of_use_on"]

OURS: type[Learner] = Ours
GRAPHED: type[Learner] = Graphed
TRUTH: type[Learner] = TaskLoop  # ours is compared with it
TUTORIAL: type[Learner] = TutorialLoop
NAIVE: type[Learner] = Naive  # of any algorithm; for MAML it would be TRUTH again, so that it is no peer
PEERS: tuple[type[Learner], ...] = (
    Ours,
    Graphed,
    TutorialLoop,
    TaskLoop,
    Processes,
    Vmap,
    Higher,
    Learn2Learn,
    Compat,
    TorchOpt,
    MetaLearn,
    JaxMap,
    JaxVmap,
    JaxVmapConv,
)
ZOO_PEERS: tuple[type[Learner], ...] = (Vmap, Processes, MetaLearn, JaxMap, JaxVmap)  # who can take any net, or some


def of_use_on(device: str) -> tuple[type[Learner], ...]:
    """The peers that a device is for."""
    return tuple(peer for peer in PEERS if device in peer.devices)


def named(name: str) -> type[Learner]:
    """The peer of that name."""
    return next(peer for peer in (*PEERS, NAIVE) if peer.name == name)
