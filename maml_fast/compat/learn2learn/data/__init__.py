"""Data sets that know their classes, and the tasks that are drawn from them."""

from maml_fast.compat.learn2learn.data import transforms
from maml_fast.compat.learn2learn.data.meta_dataset import FilteredMetaDataset, MetaDataset, UnionMetaDataset
from maml_fast.compat.learn2learn.data.task_dataset import DataDescription, TaskDataset, Taskset
from maml_fast.compat.learn2learn.data.utils import InfiniteIterator, OnDeviceDataset, partition_task

__all__ = [
    "DataDescription",
    "FilteredMetaDataset",
    "InfiniteIterator",
    "MetaDataset",
    "OnDeviceDataset",
    "TaskDataset",
    "Taskset",
    "UnionMetaDataset",
    "partition_task",
    "transforms",
]
