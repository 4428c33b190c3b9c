"""``torchmeta.toy``: regression tasks."""

from maml_fast.compat.torchmeta._sinusoid import Sinusoid
from maml_fast.compat.torchmeta.toy import helpers

__all__ = ["Sinusoid", "helpers"]
