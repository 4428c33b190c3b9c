"""``torchmeta.toy``: regression tasks."""

from maml_fast.compat.torchmeta._out import missing
from maml_fast.compat.torchmeta._sinusoid import Sinusoid
from maml_fast.compat.torchmeta.toy import helpers

__all__ = ["Sinusoid", "helpers"]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)
