"""Meta-learners beside MAML itself: one small file each, all on the same episodes, models, kernels and trainer.

A new one is a file with a subclass of :class:`maml_fast.maml.MetaLearner`, and an entry in ``registry.ALGORITHMS``.
"""

from maml_fast.algorithms.anil import ANIL
from maml_fast.algorithms.boil import BOIL
from maml_fast.algorithms.fomaml import FOMAML
from maml_fast.algorithms.learned_optimiser import LearnedOptimiser
from maml_fast.algorithms.maml_plus_plus import MAMLPlusPlus
from maml_fast.algorithms.meta_lstm import MetaLSTM
from maml_fast.algorithms.meta_sgd import MetaSGD
from maml_fast.algorithms.protonet import ProtoNet
from maml_fast.algorithms.registry import ALGORITHMS, Algorithm, Settings
from maml_fast.algorithms.reptile import Reptile

__all__ = [
    "ALGORITHMS",
    "ANIL",
    "BOIL",
    "FOMAML",
    "Algorithm",
    "LearnedOptimiser",
    "MAMLPlusPlus",
    "MetaLSTM",
    "MetaSGD",
    "ProtoNet",
    "Reptile",
    "Settings",
]
