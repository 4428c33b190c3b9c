"""Drop-in replacement for learn2learn's MAML and MetaSGD: only the import changes.

    from maml_fast.compat import learn2learn as l2l  # instead of: import learn2learn as l2l

    maml = l2l.algorithms.MAML(model, lr=0.4)
    learner = maml.clone()
    learner.adapt(loss(learner(x_spt), y_spt))
    loss(learner(x_qry), y_qry).backward()

The loop over tasks stays; within a task, conv-BN-ReLU-pool runs on the fused kernels, as :mod:`.algorithms` describes.
:class:`maml_fast.MAML` computes all tasks at once and is several times as fast. The interface is that of learn2learn
0.2.0 (Arnold et al. 2020), without its data sets, vision models and optimizers.
"""

from typing import NoReturn

from maml_fast.compat.learn2learn import algorithms, utils
from maml_fast.compat.learn2learn.algorithms import MAML, BaseLearner, MetaSGD, maml_update
from maml_fast.compat.learn2learn.utils import clone_module, clone_parameters, detach_module, update_module

__all__ = [
    "MAML",
    "BaseLearner",
    "MetaSGD",
    "algorithms",
    "clone_module",
    "clone_parameters",
    "detach_module",
    "maml_update",
    "update_module",
    "utils",
]


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(
        f"maml_fast.compat.learn2learn has no {name!r}, only {', '.join(__all__)}; "
        "for episodes see maml_fast.data and maml_fast.EpisodeSampler"
    )
