"""Episodes from the tasks of other programs."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch

from maml_fast import Episodes

pytestmark = pytest.mark.backendless


def task(number, n_support=2, n_query=3):
    generator = torch.Generator().manual_seed(number)
    rows = [torch.rand(n, 4, generator=generator) for n in (n_support, n_query)]
    return rows[0], torch.arange(n_support), rows[1], torch.arange(n_query) % 2


def assert_holds(episodes, tasks):
    assert isinstance(episodes, Episodes)
    for t, expected in enumerate(tasks):
        for part, wanted in zip(episodes, expected, strict=True):
            assert torch.equal(part[t], wanted)
    assert episodes.meta_batch_size == len(tasks)


def test_tasks_of_four_tensors_are_stacked():
    tasks = [task(0), task(1), task(2)]
    assert_holds(Episodes.from_tasks(tasks), tasks)
    assert_holds(Episodes.from_tasks(iter(tasks)), tasks)
    assert_holds(Episodes.from_tasks([list(tasks[0])]), tasks[:1])
    arrays = [tuple(part.numpy() for part in each) for each in tasks]
    assert_holds(Episodes.from_tasks(arrays), tasks)


def test_a_pair_is_split_by_rows():
    x, y = torch.rand(5, 4), torch.rand(5, 1)
    episodes = Episodes.from_tasks([(x, y), (x + 1, y + 1)], n_support=2)
    assert_holds(episodes, [(x[:2], y[:2], x[2:], y[2:]), (x[:2] + 1, y[:2] + 1, x[2:] + 1, y[2:] + 1)])


def test_a_pair_is_split_by_classes():
    y = torch.tensor([1, 1, 0, 2, 0, 2, 1, 0, 2])
    x = torch.arange(9.0)[:, None]
    episodes = Episodes.from_tasks([(x, y)], k_shot=2)
    assert episodes.x_spt.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert episodes.y_spt.tolist() == [[1, 1, 0, 2, 0, 2]]
    assert episodes.x_qry.flatten().tolist() == [6, 7, 8]
    assert episodes.y_qry.tolist() == [[1, 0, 2]]


def test_easyfsls_list_of_classes_is_left_out():
    tasks = [(*task(0), [7, 3]), (*task(1), [1, 2])]
    assert_holds(Episodes.from_tasks(tasks), [each[:4] for each in tasks])


@pytest.mark.parametrize(("support", "query"), [("train", "test"), ("support", "query")])
def test_a_batch_of_torchmeta_has_all_tasks_already(support, query):
    tasks = [task(0), task(1)]
    x_spt, y_spt, x_qry, y_qry = map(torch.stack, zip(*tasks, strict=True))
    assert_holds(Episodes.from_tasks(OrderedDict({support: [x_spt, y_spt], query: [x_qry, y_qry]})), tasks)


X, Y = torch.rand(4, 3), torch.tensor([0, 0, 1, 1])

WRONG = {
    "none": ([], {}, ValueError, "at least one task, got none"),
    "no iterable": (3, {}, TypeError, "tasks must be an iterable of tasks or a batch of torchmeta, got 3"),
    "a tensor": (X, {}, TypeError, r"tasks must be an iterable .* got Tensor \[4, 3\]"),
    "three": ([task(0), task(1)[:3]], {}, TypeError, r"tasks\[1\] must be \(x, y\) or \(x_spt, y_spt, x_qry, y_qry\)"),
    "a number": ([(X, Y, X, 3)], {}, TypeError, r"tasks\[0\]\[3\] must be a tensor or a NumPy array, got 3"),
    "sizes": (
        [task(0), task(1, n_query=4)],
        {},
        ValueError,
        r"but x_qry is \[3, 4\] in tasks\[0\] and \[4, 4\]",
    ),
    "keys": ({"train": (X, Y)}, {}, ValueError, r"keys 'train' and 'test' or 'support' and 'query', got \['train"),
    "half": ({"train": X, "test": (X, Y)}, {}, TypeError, r"tasks\['train'\] must be \(x, y\), got Tensor"),
    "not said": ([(X, Y)], {}, ValueError, r"tasks\[0\] is a pair \(x, y\): say how many"),
    "said twice": ([(X, Y)], {"n_support": 1, "k_shot": 1}, ValueError, "by either n_support or k_shot"),
    "said of four": ([task(0)], {"k_shot": 1}, ValueError, r"split pairs \(x, y\), but tasks\[0\] is"),
    "rows": ([(X, Y[:3])], {"n_support": 1}, ValueError, r"equally many rows, got x \[4, 3\] and y \[3\]"),
    "all rows": ([(X, Y)], {"n_support": 4}, ValueError, r"tasks\[0\] has 4 rows, of which n_support=4 leave no query"),
    "all of a class": ([(X, Y)], {"k_shot": 2}, ValueError, r"class 0 of tasks\[0\] has 2 rows, of which k_shot=2"),
    "no classes": ([(X, X)], {"k_shot": 1}, ValueError, r"y of tasks\[0\] is \[4, 3\]; use n_support"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case):
    tasks, options, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        Episodes.from_tasks(tasks, **options)


def test_arrays_keep_their_dtype():
    episodes = Episodes.from_tasks([tuple(np.ones(2, dtype) for dtype in (np.float32, np.int64) * 2)])
    assert [part.dtype for part in episodes] == [torch.float32, torch.int64] * 2
