"""Networks of the meta-learning literature, as ordinary modules of one task.

``Conv4``, ``ResNet12`` and ``TutorialNet`` map images [N, C, H, W] to logits [N, n_way], ``MLP`` vectors [N, ...] to
outputs [N, sizes[-1]], ``LSTM`` sequences [N, L, inputs] to outputs [N, L, outputs]. They are written with the layers
of ``torch.nn``; :func:`maml_fast.fuse` runs their blocks on the fused operation.
"""

from __future__ import annotations

from maml_fast.models._conv4 import Conv4
from maml_fast.models._lstm import LSTM
from maml_fast.models._mlp import MLP
from maml_fast.models._resnet12 import ResNet12
from maml_fast.models._tutorial import TutorialNet

__all__ = ["LSTM", "MLP", "Conv4", "ResNet12", "TutorialNet"]
