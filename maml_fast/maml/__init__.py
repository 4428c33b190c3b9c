"""The MAML algorithm: inner loops over all tasks of a meta-batch, their meta-gradient, and evaluation."""

from maml_fast.inner_loop._engines import use_engine
from maml_fast.inner_loop._optimizers import LearnedRule
from maml_fast.inner_loop._problem import Annealing
from maml_fast.inner_loop._values import MAMLOutput, TaskResults
from maml_fast.maml._evaluation import EvaluationResult, evaluate
from maml_fast.maml._learner import Learner
from maml_fast.maml._maml import MAML

__all__ = [
    "MAML",
    "Annealing",
    "EvaluationResult",
    "LearnedRule",
    "Learner",
    "MAMLOutput",
    "TaskResults",
    "evaluate",
    "use_engine",
]
