"""``torchmeta.utils.prototype``."""

from maml_fast.compat.torchmeta._prototypes import get_num_samples, get_prototypes, prototypical_loss

__all__ = ["get_num_samples", "get_prototypes", "prototypical_loss"]
