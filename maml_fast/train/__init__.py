"""Training runs: recorded in a run folder, resumed bitwise, and evaluated."""

from maml_fast.train._config import TrainConfig
from maml_fast.train._runs import evaluate_run, resume, train
from maml_fast.train._trainer import Reporter, RunResult, TrainingInterrupted

__all__ = ["Reporter", "RunResult", "TrainConfig", "TrainingInterrupted", "evaluate_run", "resume", "train"]
