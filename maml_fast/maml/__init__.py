"""MAML itself: the inner loop over all tasks of a batch, the meta-gradient through it, and its evaluation."""

from maml_fast.maml.engines import use_engine
from maml_fast.maml.evaluation import EvaluationResult, evaluate
from maml_fast.maml.learner import MAML
from maml_fast.maml.meta_learner import MetaLearner
from maml_fast.maml.values import MAMLOutput, TaskResults

__all__ = ["MAML", "EvaluationResult", "MAMLOutput", "MetaLearner", "TaskResults", "evaluate", "use_engine"]
