"""Tasks for a seed are those of learn2learn: the literal ones here were drawn by it."""

from __future__ import annotations

import pickle
import random

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from maml_fast.compat.learn2learn import data
from maml_fast.compat.learn2learn.data import transforms as tf
from maml_fast.compat.learn2learn.data.samplers import TasksetSampler
from maml_fast.compat.learn2learn.data.utils import download_file

LABELS = [5, 2, 9, 2, 5, 9, 7, 7, 2, 5, 7, 9, 2, 5, 9, 7, 3, 3, 3, 3]

CHOICES = {
    "NWays and KShots": lambda d: [tf.NWays(d, 3), tf.KShots(d, 2), *_rest(d)],
    "both in one": lambda d: [tf.FusedNWaysKShots(d, n=3, k=2), *_rest(d)],
    "a function": lambda d: lambda none: _rest(d)[2](_rest(d)[1](_rest(d)[0](tf.FusedNWaysKShots(d, 3, 2)(none)))),
}
TASKS = [([1, 12, 6, 7, 2, 11], [0, 0, 1, 1, 2, 2]), ([19, 16, 0, 13, 7, 6], [1, 1, 0, 0, 2, 2])]


def _rest(dataset):
    return [tf.LoadData(dataset), tf.RemapLabels(dataset), tf.ConsecutiveLabels(dataset)]


@pytest.fixture
def dataset():
    return data.MetaDataset(TensorDataset(torch.arange(20.0), torch.tensor(LABELS)))


def drawn(taskset, n=2, seed=7):
    random.seed(seed)
    return [tuple(part.long().tolist() for part in taskset.sample()) for _ in range(n)]


def test_samples_of_every_class(dataset):
    assert dataset.labels == [5, 2, 9, 7, 3]
    assert dataset.labels_to_indices[7] == [6, 7, 10, 15]
    assert dataset.indices_to_labels[15] == 7
    given = data.MetaDataset(dataset.dataset, labels_to_indices={"a": [3, 1], "b": [0]})
    assert (given.labels, given.indices_to_labels) == (["a", "b"], {3: "a", 1: "a", 0: "b"})
    given = data.MetaDataset(dataset.dataset, indices_to_labels={0: "x", 2: "y", 3: "x"})
    assert given.labels_to_indices == {"x": [0, 3], "y": [2]}


def test_some_classes(dataset):
    some = data.FilteredMetaDataset(dataset, [3, 9])
    assert some.labels_to_indices == {3: [0, 1, 2, 3], 9: [4, 5, 6, 7]}
    assert [int(some[i][0]) for i in range(len(some))] == [16, 17, 18, 19, 2, 5, 11, 14]
    with pytest.raises(ValueError, match=r"no label 4; it has \[5, 2, 9, 7, 3\]"):
        data.FilteredMetaDataset(dataset, [3, 4])


def test_a_union_has_new_labels(dataset):
    union = data.UnionMetaDataset([data.FilteredMetaDataset(dataset, [3, 9]), dataset])
    assert (len(union), union.labels) == (28, [0, 1, 2, 3, 4, 5, 6])
    assert union[0] == [16, 0]
    assert union[8] == [0, 2]
    assert union.labels_to_indices[3] == [9, 11, 16, 20]
    with pytest.raises(IndexError, match="sample 28 of 28"):
        union[28]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_seed_draws_learn2learns_tasks(dataset, choice):
    assert drawn(data.Taskset(dataset, CHOICES[choice](dataset))) == TASKS


def test_with_replacement_from_some_classes(dataset):
    fused = tf.FusedNWaysKShots(dataset, n=2, k=3, replacement=True, filter_labels=[9, 3, 7])
    tasks = data.Taskset(dataset, [fused, tf.LoadData(dataset), tf.ConsecutiveLabels(dataset), tf.RemapLabels(dataset)])
    assert drawn(tasks) == [([18, 16, 17, 2, 2, 2], [0, 0, 0, 1, 1, 1]), ([16, 17, 16, 15, 6, 6], [1, 1, 1, 0, 0, 0])]


def test_transforms_of_a_task_that_is_described_already(dataset):
    steps = [tf.LoadData(dataset), tf.FilterLabels(dataset, [2, 3, 9]), tf.NWays(dataset, 2)]
    tasks = data.Taskset(dataset, [*steps, tf.KShots(dataset, 3, replacement=True), tf.RemapLabels(dataset, False)])
    for indices, labels in drawn(tasks, 5):
        of_class = {LABELS[i] for i in indices}
        assert len(of_class) == 2
        assert of_class <= {2, 3, 9}
        assert sorted(labels) == [0, 0, 0, 1, 1, 1]
    random.seed(0)
    classes = {LABELS[each.index] for each in tf.FusedNWaysKShots(dataset, 3, 1)(tf.TaskTransform(dataset)(None))}
    assert len(classes) == 3


def test_a_finite_number_of_tasks_is_kept(dataset):
    tasks = data.Taskset(dataset, CHOICES["both in one"](dataset), num_tasks=3)
    assert [x for x, _ in drawn(tasks, 4)] == [
        [1, 12, 6, 7, 2, 11],
        [19, 16, 0, 13, 7, 6],
        [17, 16, 13, 0, 7, 15],
        [17, 16, 13, 0, 7, 15],
    ]
    once, again = ([x.tolist() for x, _ in tasks] for _ in range(2))
    assert len(once) == len(tasks) == 3
    assert once == again
    endless = data.Taskset(dataset, CHOICES["both in one"](dataset))
    assert len(endless) == 1
    assert next(iter(endless))[0].tolist() != endless[0][0].tolist()


def test_a_data_loader_of_tasks_and_of_their_samples(dataset):
    tasks = data.Taskset(dataset, CHOICES["both in one"](dataset), num_tasks=4)
    x, y = next(iter(DataLoader(pickle.loads(pickle.dumps(tasks)), batch_size=2)))
    assert (x.shape, y.shape) == ((2, 6), (2, 6))
    random.seed(1)
    batches = list(DataLoader(dataset, batch_sampler=TasksetSampler(tasks)))
    order = list(range(4))
    random.seed(1)
    random.shuffle(order)
    expected = [[each.index for each in tasks.sampled_descriptions[i]] for i in order]
    assert [x.long().tolist() for x, _ in batches] == expected


def test_own_transforms_get_a_list_of_descriptions(dataset):
    def reversed_and_doubled(task):
        for each in task:
            each.transforms.append(lambda sample: (2 * sample[0], sample[1]))
        return task[::-1]

    tasks = data.Taskset(dataset, [*CHOICES["both in one"](dataset), reversed_and_doubled])
    assert drawn(tasks, 1) == [([22, 4, 14, 12, 24, 2], [2, 2, 1, 1, 0, 0])]
    description = tf.NWays(dataset, 1)(None)
    assert type(description) is list
    assert {LABELS[each.index] for each in description} <= set(LABELS)


def test_labels_of_any_kind_are_read_once():
    class Words(Dataset):
        reads = 0

        def __len__(self):
            return 4

        def __getitem__(self, i):
            Words.reads += 1
            return torch.tensor(float(i)), "ab"[i % 2]

    words = data.MetaDataset(Words())
    assert (words.labels, Words.reads) == (["a", "b"], 4)
    x, y = data.Taskset(words, [tf.KShots(words, 1), tf.LoadData(words), tf.RemapLabels(words)]).sample()
    assert (len(x), sorted(y.tolist())) == (2, [0, 1])


def test_labels_are_kept_in_a_file(tmp_path, dataset):
    class Kept(TensorDataset):
        _bookkeeping_path = str(tmp_path / "labels.pkl")

    kept = Kept(*dataset.dataset.tensors)
    first = data.MetaDataset(kept)
    Kept.__getitem__ = None  # not needed again
    again = data.MetaDataset(kept)
    assert first.labels_to_indices == again.labels_to_indices == dataset.labels_to_indices
    (tmp_path / "labels.pkl").write_bytes(pickle.dumps({"labels_to_indices": print}))
    with pytest.raises(ValueError, match=r"labels.pkl .* asks to run builtins.print; refused"):
        data.MetaDataset(kept)


def test_a_task_in_two_parts():
    x, y = torch.arange(24.0).view(8, 3).requires_grad_(), torch.tensor([4, 1, 1, 4, 4, 1, 1, 4])
    (x_spt, y_spt), (x_qry, y_qry) = data.partition_task(x, y, shots=1)
    assert torch.equal(x_spt, x[[1, 0]])
    assert (y_spt.tolist(), y_qry.tolist()) == ([1, 4], [1, 1, 1, 4, 4, 4])
    assert torch.equal(x_qry, x[[2, 5, 6, 3, 4, 7]])
    with pytest.raises(ValueError, match=r"at least 5; got \[4, 4\] of the classes \[1, 4\]"):
        data.partition_task(x, y, shots=5)


def test_on_device_and_endlessly(dataset):
    held = data.OnDeviceDataset(dataset, "cpu", transform=lambda x: -x)
    assert held[3] == (-3, 2)
    assert data.MetaDataset(held).labels == dataset.labels
    loop = data.InfiniteIterator([1, 2])
    assert [next(loop) for _ in range(5)] == [1, 2, 1, 2, 1]
    with pytest.raises(ValueError, match="empty"):
        next(data.InfiniteIterator([]))


def test_former_names_warn_once(dataset):
    with pytest.warns(DeprecationWarning, match="use Taskset"):
        tasks = data.TaskDataset(dataset, [tf.LoadData(dataset)])
    assert len(data.TaskDataset(dataset).dataset) == len(tasks.sample()[0]) == 20


def test_too_few_classes_or_samples(dataset):
    with pytest.raises(ValueError, match="a task needs 6 classes, but there are 5"):
        tf.NWays(dataset, 6)(None)
    with pytest.raises(ValueError, match="a task needs 5 samples of a class, but there are 4"):
        tf.KShots(dataset, 5)(None)
    with pytest.raises(TypeError, match=r"dataset must be a Dataset, got \[1, 2\]; give it __getitem__"):
        data.MetaDataset([1, 2])
    with pytest.raises(ValueError, match="num_tasks must be positive, or -1"):
        data.Taskset(dataset, num_tasks=0)
    with pytest.raises(NotImplementedError, match="UnionMetaDataset"):
        data.Taskset(dataset) + data.Taskset(dataset)


def test_a_download_is_whole_or_absent(tmp_path):
    (tmp_path / "source").write_bytes(b"content")
    download_file((tmp_path / "source").as_uri(), str(tmp_path / "copy"), size=7)
    assert (tmp_path / "copy").read_bytes() == b"content"
    with pytest.raises(OSError, match="absent"):
        download_file((tmp_path / "absent").as_uri(), str(tmp_path / "other"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "source"]
