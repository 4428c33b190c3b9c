"""Two hosts with addresses of their own: network namespaces, and a cable between them."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from forks import fork
from tiny_run import TINY, assert_same_run

from maml_fast.train import train
from maml_fast.train._record import RunFolder

pytestmark = pytest.mark.backendless

CONFIG = dataclasses.replace(TINY, fixed_order=True, iterations=2)
NEW_HOST, NEW_USER, NEW_NET = 0x04000000, 0x10000000, 0x40000000  # CLONE_NEWUTS, ... of sched.h
ADDRESSES = ("10.9.0.1", "10.9.0.2")


def can_make_hosts() -> bool:
    tools = shutil.which("unshare") and shutil.which("ip")
    return bool(tools) and subprocess.run(["unshare", "-rnu", "true"], capture_output=True).returncode == 0


def leave(spaces: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(spaces) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def become(rank: int) -> None:
    """The host of a rank, at its end of the cable."""
    ctypes.CDLL(None).sethostname(f"host{rank}".encode(), 5)
    for command in (f"addr add {ADDRESSES[rank]}/24 dev end{rank}", f"link set end{rank} up", "link set lo up"):
        subprocess.run(["ip", *command.split()], check=True)
    place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "GROUP_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(MASTER_ADDR=ADDRESSES[0], MASTER_PORT="29500", GLOO_SOCKET_IFNAME=f"end{rank}")


@pytest.mark.skipif(not can_make_hosts(), reason="no network namespaces can be made here")
def test_two_hosts(tmp_path, whole, plain_pictures):
    def other(ready: int, plugged: int) -> None:
        leave(NEW_NET | NEW_HOST)
        os.write(ready, b"1")
        os.read(plugged, 1)
        become(1)
        train(CONFIG, out=tmp_path / "run")

    def one() -> None:
        user = os.getuid()
        leave(NEW_USER | NEW_NET | NEW_HOST)
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        is_ready, ready = os.pipe()
        is_plugged, plugged = os.pipe()
        process = fork(lambda: other(ready, is_plugged), tmp_path / "told by the other")
        os.read(is_ready, 1)
        cable = f"link add end0 type veth peer name end1 netns {process.pid}"
        subprocess.run(["ip", *cable.split()], check=True)
        os.write(plugged, b"1")
        become(0)
        train(CONFIG, out=tmp_path / "run")
        process.join()
        assert process.exitcode == 0

    host = fork(one, tmp_path / "told by one")
    host.join()
    assert host.exitcode == 0, "".join(path.read_text() for path in tmp_path.glob("told*"))
    facts = RunFolder(tmp_path / "run").read_config()["facts"]
    assert facts["processes"] == "2 on 2 machines, by gloo, 1 thread each"
    assert_same_run(tmp_path / "run", train(CONFIG, out=tmp_path / "whole").path)
