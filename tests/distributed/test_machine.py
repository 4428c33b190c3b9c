"""A process's part of its machine."""

from __future__ import annotations

import pytest
import torch

from maml_fast.distributed import _machine as machine
from maml_fast.distributed._group import Group
from maml_fast.distributed._launch import launch
from maml_fast.distributed._machine import cores_each, take_gpu, threads_of

pytestmark = pytest.mark.backendless


def of(local_size: int, rank: int = 0) -> Group:
    group = Group()
    group.local_size, group.size, group.rank = local_size, 2 * local_size, rank
    return group


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)


@pytest.mark.parametrize(("processes", "cores"), [(1, 8), (2, 4), (3, 2), (8, 1), (9, 1)])
def test_processes_share_the_cores(processes, cores):
    assert cores_each(processes) == cores


def test_threads_never_exceed_the_cores():
    assert threads_of(Group(), None) == 6
    assert threads_of(Group(), 16) == 16  # a single process may ask for any number
    assert threads_of(of(1), None) == 6
    assert threads_of(of(2), None) == 4
    assert threads_of(of(8), None) == 1
    assert threads_of(of(3), 2) == 2
    with pytest.raises(ValueError, match=r"3 processes of 3 threads need more than the 8 cores.*at most --threads 2"):
        threads_of(of(3), 3)


def test_more_processes_than_cores_are_said_once():
    with pytest.warns(RuntimeWarning, match="9 processes share 8 cores"):
        assert threads_of(of(9), None) == 1
    assert threads_of(of(9, rank=1), None) == 1


def test_every_process_takes_its_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    take_gpu(of(2))
    take_gpu(Group())
    assert taken == [1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="local rank 2 has no GPU: there are 2 here"):
        take_gpu(of(3))


def test_a_process_of_a_group_starts_no_group(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="torchrun has started this process already"):
        launch(2, "maml_fast", [])


def test_launch_looks_at_its_arguments():
    with pytest.raises(ValueError, match="processes must be"):
        launch(0, "maml_fast", [])
