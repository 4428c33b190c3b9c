"""``torchmeta.utils.data``: tasks, sets of tasks and their loaders."""

from maml_fast.compat.torchmeta._loaders import (
    BatchMetaDataLoader,
    CombinationRandomSampler,
    CombinationSequentialSampler,
    MetaDataLoader,
)
from maml_fast.compat.torchmeta._meta_datasets import ClassDataset, CombinationMetaDataset, MetaDataset
from maml_fast.compat.torchmeta._out import missing
from maml_fast.compat.torchmeta._tasks import ConcatTask, Dataset, SubsetTask, Task

__all__ = [
    "BatchMetaDataLoader",
    "ClassDataset",
    "CombinationMetaDataset",
    "CombinationRandomSampler",
    "CombinationSequentialSampler",
    "ConcatTask",
    "Dataset",
    "MetaDataLoader",
    "MetaDataset",
    "SubsetTask",
    "Task",
]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)
