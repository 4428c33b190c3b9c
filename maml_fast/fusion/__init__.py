"""``fuse(model)``: runs the conv-BN-ReLU-pool sequences of an ordinary module as fused operations.

- ``_model`` has :func:`fuse` and the :class:`FusedModel` that it returns, which shares the module's parameters.
- ``_runner`` runs a module through its recorded programs, or as it is written.
"""

from maml_fast.fusion._model import FusedModel, fuse
from maml_fast.fusion._runner import Runner, is_being_recorded
from maml_fast.program import FusionReport

__all__ = ["FusedModel", "FusionReport", "Runner", "fuse", "is_being_recorded"]
