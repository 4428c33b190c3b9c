"""``fuse(model)``: an ordinary module's conv-BN-ReLU-pool runs on the fused operation, its parameters shared.

``runner`` runs a module by its recorded programs, or as it is written; ``model`` is what users hold.
"""

from maml_fast.fusion._model import FusedModel, fuse
from maml_fast.fusion._runner import Runner
from maml_fast.program import FusionReport

__all__ = ["FusedModel", "FusionReport", "Runner", "fuse"]
