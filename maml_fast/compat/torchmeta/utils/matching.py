"""``torchmeta.utils.matching``."""

from maml_fast.compat.torchmeta._matching import (
    matching_log_probas,
    matching_loss,
    matching_probas,
    pairwise_cosine_similarity,
)

__all__ = ["matching_log_probas", "matching_loss", "matching_probas", "pairwise_cosine_similarity"]
