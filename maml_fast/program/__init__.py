"""A model as a program: its ``forward`` recorded once as operations of PyTorch's core, each done for all tasks at once.

``recording`` takes down what ``forward`` does, on a ``tape``, and leaves its ``surroundings`` as they were; ``watch``
notices when what it depends on changes. ``operations`` is the table of forms, and ``conv_blocks`` finds the fused
block. ``program`` runs a recording; ``programs`` keeps those of a model and compares each with the model itself.
``conv_net`` reads the nets that have a native inner loop, and ``head`` tells the parameters of a net's head.
``as_written`` is the module itself, task by task: what has no program runs by that.
"""

from maml_fast.program._as_written import AsWritten, Place, counters_of, places_of, swapped, with_its_own_tensors
from maml_fast.program._batch_norm import (
    BATCH_NORM_POLICIES,
    BatchNormMode,
    BatchNormPolicy,
    InnerBatchNorm,
    is_per_step,
)
from maml_fast.program._conv_net import ConvNet, read_conv_net
from maml_fast.program._head import names_of_head
from maml_fast.program._program import Program, RunBlock
from maml_fast.program._programs import NoForm, Programs
from maml_fast.program._report import FusionPolicy, FusionReport
from maml_fast.program._watch import UnwatchableError, Watch

__all__ = [
    "BATCH_NORM_POLICIES",
    "AsWritten",
    "BatchNormMode",
    "BatchNormPolicy",
    "ConvNet",
    "FusionPolicy",
    "FusionReport",
    "InnerBatchNorm",
    "NoForm",
    "Place",
    "Program",
    "Programs",
    "RunBlock",
    "UnwatchableError",
    "Watch",
    "counters_of",
    "is_per_step",
    "names_of_head",
    "places_of",
    "read_conv_net",
    "swapped",
    "with_its_own_tensors",
]
