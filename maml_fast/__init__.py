"""Task-batched MAML with fused conv-BN-ReLU-pool kernels: forward, backward and double backward.

import maml_fast as mf

bank = mf.data.load("strokes")["train"]
sampler = mf.EpisodeSampler(bank, n_way=5, k_shot=1, k_query=15, meta_batch_size=32)
maml = mf.MAML(mf.models.Conv4(n_way=5), inner_lr=0.4, inner_steps=1, order=2)
for episodes in sampler:
    maml(episodes).loss.backward()
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from maml_fast import algorithms, data, distributed, models, nn, ops
from maml_fast.data._bank import ImageBank
from maml_fast.data._episodes import Episodes, EpisodeSampler
from maml_fast.deployment import deploy
from maml_fast.fusion import FusedModel, fuse
from maml_fast.maml import (
    MAML,
    Annealing,
    EvaluationResult,
    LearnedRule,
    Learner,
    MAMLOutput,
    TaskResults,
    evaluate,
    use_engine,
)
from maml_fast.native import Backend, backend, build, use_backend

if TYPE_CHECKING:
    from maml_fast import compat

__all__ = [
    "MAML",
    "Annealing",
    "Backend",
    "EpisodeSampler",
    "Episodes",
    "EvaluationResult",
    "FusedModel",
    "ImageBank",
    "LearnedRule",
    "Learner",
    "MAMLOutput",
    "TaskResults",
    "__version__",
    "algorithms",
    "backend",
    "build",
    "compat",
    "data",
    "deploy",
    "distributed",
    "evaluate",
    "fuse",
    "models",
    "nn",
    "ops",
    "use_backend",
    "use_engine",
]

try:
    __version__ = version("maml_fast")
except PackageNotFoundError:  # a checkout that is on the path but not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Import ``compat``, which is large, when it is first used."""
    if name == "compat":
        return import_module("maml_fast.compat")
    raise AttributeError(f"module 'maml_fast' has no attribute {name!r}")
