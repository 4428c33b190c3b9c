"""``torchmeta.utils.gradient_based``."""

from maml_fast.compat.torchmeta._gradient_update import gradient_update_parameters

__all__ = ["gradient_update_parameters"]
