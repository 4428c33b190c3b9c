"""What processes that form a group do together: real ones, over loopback."""

from __future__ import annotations

import os
import signal
import socket

import pytest
import torch

from maml_fast.distributed import PeerFailedError, PeerLostError, PeerStopped
from maml_fast.distributed._group import Group
from maml_fast.distributed._joining import joined
from maml_fast.distributed._shards import share_of

pytestmark = pytest.mark.backendless

N_TASKS = 8


def rows() -> torch.Tensor:
    """Numbers whose sum depends on the order."""
    return torch.randn(N_TASKS, 11, generator=torch.Generator().manual_seed(0)).exp() * 1e3


def own(group: Group) -> torch.Tensor:
    share = group.share(N_TASKS)
    return rows()[share.start : share.stop]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 11])
def test_shares_are_in_order_and_alike(size):
    parts = [share_of(N_TASKS, rank, size) for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(N_TASKS))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("size", [2, 4])
def test_sums_and_rows(ranks, size):
    in_order = Group().sum_in_order(rows(), N_TASKS)
    assert not torch.equal(in_order, Group().sum_in_order(rows().flip(0), N_TASKS))

    def task(rank):
        with joined() as group:
            assert (group.rank, group.size, group.leads) == (rank, size, rank == 0)
            assert torch.equal(group.sum_in_order(own(group), N_TASKS), in_order)
            assert torch.equal(group.all_gather_rows(own(group), N_TASKS), rows())
            total = own(group).sum(dim=0)
            group.all_reduce(total)
            torch.testing.assert_close(total, in_order)
            assert group.all_gather(rank) == list(range(size))
            assert group.broadcast(lambda: f"of {rank}") == "of 0"
            group.check_same("what is", 3)
            assert group.describe() == f"{size} on 1 machine, by gloo"

    ranks.succeed(size, task)


def test_a_process_may_join_again(ranks):
    def task(rank):
        for _ in range(3):
            with joined() as group:
                assert group.all_gather(rank) == [0, 1]

    ranks.succeed(2, task)


def fail_on_one(group: Group) -> None:
    with group.fail_together():
        if group.rank == 1:
            raise ValueError("no such disk")


def test_an_error_of_one_is_an_error_of_all(ranks):
    def task(rank):
        with joined() as group:
            with pytest.raises(ValueError if rank == 1 else PeerFailedError, match="no such disk") as told:
                fail_on_one(group)
            assert ("rank 1 (process" in str(told.value)) == (rank != 1)
            with pytest.raises(ZeroDivisionError if rank == 0 else PeerFailedError, match="division by zero"):
                group.broadcast(lambda: 1 / 0)
            with pytest.raises(ValueError, match=r"the colors on ranks 1, 2 \(.*\) differ from those on rank 0"):
                group.check_same("the colors", min(rank, 1))

    ranks.succeed(3, task)


def leaves(how):
    """A task in which rank 1 leaves, and the others find out in a sum."""

    def task(rank):
        with joined() as group:
            if rank == 1:
                how()
            group.all_reduce(torch.ones(3))

    return task


def test_one_that_was_killed_is_named(ranks):
    ends = ranks(3, leaves(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert ends[1].exitcode == -signal.SIGKILL
    for survivor in (ends[0], ends[2]):
        assert survivor.exitcode == 1
        assert f"{PeerLostError.__name__}: rank 1 (process " in survivor.told
        assert "died, or does not answer" in survivor.told


def test_one_that_failed_is_named_with_its_error(ranks):
    ends = ranks(3, leaves(lambda: 1 / 0))
    for survivor in (ends[0], ends[2]):
        assert f"{PeerFailedError.__name__}: rank 1 (process " in survivor.told
        assert "failed: ZeroDivisionError: division by zero" in survivor.told


def test_one_that_was_stopped_stops_the_others(ranks):
    def stop():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGINT)

    ends = ranks(3, leaves(stop))
    for survivor in (ends[0], ends[2]):
        assert f"{PeerStopped.__name__}: rank 1 was stopped by signal 2" in survivor.told


def test_the_machine_where_all_meet_may_be_lost_with_its_process(ranks):
    """Without torchrun the first process holds the store."""

    def task(rank):
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE")
        with joined() as group:
            if rank == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            group.all_reduce(torch.ones(3))

    ends = ranks(2, task, {"MASTER_PORT": free_port()})
    assert f"{PeerLostError.__name__}: rank 0 (process " in ends[1].told


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def test_half_an_address_is_refused(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ValueError, match="RANK is set, but MASTER_PORT is not; start the processes with torchrun"),
        joined(),
    ):
        pass


def test_without_torchrun_a_process_is_alone():
    with joined() as group:
        assert (group.rank, group.size, group.describe()) == (0, 1, "1")
        assert group.all_gather(3) == [3]
