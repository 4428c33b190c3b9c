"""Training as a product: runs that are recorded, resumed bitwise and evaluated."""

from maml_fast.train.config import TrainConfig
from maml_fast.train.runs import evaluate_run, resume, train
from maml_fast.train.trainer import Reporter, RunResult, TrainingInterrupted

__all__ = ["Reporter", "RunResult", "TrainConfig", "TrainingInterrupted", "evaluate_run", "resume", "train"]
