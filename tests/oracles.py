"""Independent ways to compute what maml_fast computes: slow, plain, and without a line of it.

They are the benchmarks' peers; networks are functions of a list of parameters, in the order in which the module under
test lists them.
"""

from __future__ import annotations

import torch.nn.functional as F
from peers.inner_loop import Problem
from peers.loop import loop_loss
from peers.nets import TUTORIAL, ConvNet, Parameters, elementary_batch_norm
from peers.tutorial import Tutorial
from peers.vmap import vmap_loss
from torch import Tensor

__all__ = ["TUTORIAL", "ConvNet", "Problem", "Tutorial", "elementary_batch_norm", "loop_loss", "mlp", "vmap_loss"]


def mlp(parameters: Parameters, x: Tensor) -> Tensor:
    x = x.flatten(1)
    for i in range(0, len(parameters) - 2, 2):
        x = F.relu(F.linear(x, parameters[i], parameters[i + 1]))
    return F.linear(x, *parameters[-2:])
