"""Meta-learners besides MAML itself: one small file each, all with the same episodes, models, kernels and trainer.

To add one, write a file with a subclass of :class:`maml_fast.Learner`, and add an entry to ``_registry.ALGORITHMS``.
"""

from maml_fast.algorithms._anil import ANIL
from maml_fast.algorithms._boil import BOIL
from maml_fast.algorithms._fomaml import FOMAML
from maml_fast.algorithms._learned_optimizer import LearnedOptimizer
from maml_fast.algorithms._maml_plus_plus import MAMLPlusPlus
from maml_fast.algorithms._meta_lstm import MetaLSTM
from maml_fast.algorithms._meta_sgd import MetaSGD
from maml_fast.algorithms._protonet import ProtoNet
from maml_fast.algorithms._registry import ALGORITHMS, Algorithm, Settings
from maml_fast.algorithms._reptile import Reptile

__all__ = [
    "ALGORITHMS",
    "ANIL",
    "BOIL",
    "FOMAML",
    "Algorithm",
    "LearnedOptimizer",
    "MAMLPlusPlus",
    "MetaLSTM",
    "MetaSGD",
    "ProtoNet",
    "Reptile",
    "Settings",
]
