"""PyTorch's own launcher, as users meet it: started, stopped, gone on with, and restarted after a death."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forks import fork
from ranks import kill_in_iteration
from tiny_run import TINY, assert_same_run, state, untimed
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from maml_fast.cli._run_options import as_arguments
from maml_fast.train import resume, train
from maml_fast.train._record import RunFolder

pytestmark = pytest.mark.backendless

LONG = dataclasses.replace(TINY, fixed_order=True, iterations=100_000, eval_every=100_000, checkpoint_seconds=0)


def test_started_stopped_and_gone_on_with(tmp_path, plain_pictures):
    """As ``maml-fast train --processes 2``, by Ctrl-C, and by one process."""
    run, told, errors = tmp_path / "run", tmp_path / "told", tmp_path / "errors"
    arguments = as_arguments({**LONG.arguments(), "out": run, "processes": 2})
    with told.open("w") as out, errors.open("w") as err:
        started = subprocess.Popen([sys.executable, "-m", "maml_fast", "train", *arguments], stdout=out, stderr=err)
        while started.poll() is None and len(untimed(run)) < 4:
            time.sleep(0.1)
        started.send_signal(signal.SIGINT)
        assert started.wait() == 128 + signal.SIGINT, errors.read_text()
    assert re.search(r"processes +2 on 1 machine, by gloo, 1 thread each", told.read_text())
    assert told.read_text().count("test accuracy") == 1
    stopped = re.findall(r"maml-fast: stopped after iteration (\d+); go on with", errors.read_text())
    assert [int(each) for each in stopped] == [state(run)["iteration"]]

    iterations = int(stopped[0]) + 2
    resume(run, iterations=iterations)
    whole = train(dataclasses.replace(LONG, iterations=iterations), out=tmp_path / "whole").path
    assert_same_run(run, whole)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_restarted_after_a_death_it_goes_on(tmp_path, monkeypatch, whole, plain_pictures):
    """As by ``torchrun --max-restarts 1``, and without being told where to go; ``whole`` has imported all it takes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("maml_fast.distributed._heartbeats.HEARTBEAT_TIMEOUT", 3.0)
    monkeypatch.setattr("maml_fast.distributed._machine.usable_cores", lambda: 8)
    config = dataclasses.replace(TINY, fixed_order=True, checkpoint_seconds=0)

    def work() -> None:
        if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            kill_in_iteration(3)
        train(config)

    def agent() -> None:
        launch = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=2,
            rdzv_backend="static",
            rdzv_endpoint=f"127.0.0.1:{free_port()}",
            rdzv_configs={"rank": 0},
            max_restarts=1,
            monitor_interval=0.1,
            start_method="fork",
        )
        elastic_launch(launch, work)()

    told = tmp_path / "told"
    process = fork(agent, told)
    process.join()
    assert process.exitcode == 0, told.read_text()
    (run,) = Path("runs").iterdir()
    assert [session["from_iteration"] for session in RunFolder(run).read_config()["sessions"]] == [0, 3]
    assert_same_run(run, train(config, out=tmp_path / "whole").path)
