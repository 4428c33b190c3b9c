"""``torchmeta.utils``."""

from maml_fast.compat.torchmeta._out import missing
from maml_fast.compat.torchmeta.utils import data, gradient_based, matching, prototype
from maml_fast.compat.torchmeta.utils.gradient_based import gradient_update_parameters
from maml_fast.compat.torchmeta.utils.matching import (
    matching_log_probas,
    matching_loss,
    matching_probas,
    pairwise_cosine_similarity,
)
from maml_fast.compat.torchmeta.utils.prototype import get_num_samples, get_prototypes, prototypical_loss

__all__ = [
    "data",
    "get_num_samples",
    "get_prototypes",
    "gradient_based",
    "gradient_update_parameters",
    "matching",
    "matching_log_probas",
    "matching_loss",
    "matching_probas",
    "pairwise_cosine_similarity",
    "prototype",
    "prototypical_loss",
]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)
