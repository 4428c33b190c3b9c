"""``fuse(model)``: an ordinary module's conv-BN-ReLU-pool runs on the fused operation, its parameters shared.

``structure`` copies the module tree around the shared parameters and sets the batch norm policy; ``trace`` records
``forward`` with torch.fx and refuses what a recording would falsify; ``patterns`` reads single nodes; ``rewrite``
replaces runs of them; ``model`` puts the parts together.
"""

from maml_fast.fusion.model import FusedModel, fuse
from maml_fast.program.report import FusionReport

__all__ = ["FusedModel", "FusionReport", "fuse"]
