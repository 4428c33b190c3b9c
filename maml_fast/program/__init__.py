"""Programs: a model's ``forward``, recorded once as ATen operations, each of which runs for all tasks at once.

- ``_recording`` runs ``forward`` once and records it on a ``_tape``; ``_surroundings`` restores global state after it.
- ``_watch`` detects changes of the Python state that ``forward`` depends on.
- ``_operations`` is the table of operations with their batched forms; ``_conv_blocks`` finds the fused conv blocks.
- ``_program`` runs a recording; ``_programs`` keeps a model's programs and compares each with the model itself.
- ``_conv_net`` recognizes the nets that have a native inner loop; ``_head`` finds the parameters of a net's head.
- ``_as_written`` runs the module itself, task by task; it serves models that have no program.
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
