"""Drop-in replacement for learn2learn: only the import changes.

    from maml_fast.compat import learn2learn as l2l  # instead of: import learn2learn as l2l

    maml = l2l.algorithms.MAML(model, lr=0.4)
    learner = maml.clone()
    learner.adapt(loss(learner(x_spt), y_spt))
    loss(learner(x_qry), y_qry).backward()

Nothing changes if a program is run by ``python -m maml_fast.compat.learn2learn program.py``: there, ``import
learn2learn`` means this package.

The loop over tasks stays; within a task, conv-BN-ReLU-pool runs on the fused kernels, as
:mod:`.algorithms.base_learner` describes. :class:`maml_fast.MAML` computes all tasks at once and is several times as
fast. The interface is that of learn2learn 0.2.0 (Arnold et al. 2020), without reinforcement learning and PyTorch
Lightning.
"""

from maml_fast.compat.learn2learn import algorithms, data, nn, optim, utils, vision
from maml_fast.compat.learn2learn._out import missing
from maml_fast.compat.learn2learn.algorithms import MAML, BaseLearner, MetaSGD, maml_update
from maml_fast.compat.learn2learn.utils import (
    accuracy,
    clone_distribution,
    clone_module,
    clone_named_parameters,
    clone_parameters,
    detach_distribution,
    detach_module,
    magic_box,
    update_module,
)

__all__ = [
    "MAML",
    "BaseLearner",
    "MetaSGD",
    "accuracy",
    "algorithms",
    "clone_distribution",
    "clone_module",
    "clone_named_parameters",
    "clone_parameters",
    "data",
    "detach_distribution",
    "detach_module",
    "magic_box",
    "maml_update",
    "nn",
    "optim",
    "update_module",
    "utils",
    "vision",
]

__version__ = "0.2.0"  # whose interface this is


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)
