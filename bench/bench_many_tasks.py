"""A meta-batch of many tasks: each task takes as long as in a small one, and memory stays that of a few tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import settings
from child import Child
from contestant import Contestant
from peers import OURS


def pytest_generate_tests(metafunc):
    asked = settings.of(metafunc)
    tasks = 16 if asked.quick else 256
    cases = [pytest.param(workload, tasks, id=f"{workload.name}-{tasks}") for workload in asked.kinds_of_episodes]
    metafunc.parametrize(("workload", "tasks"), cases)


def test_many_tasks(workload, tasks, found, asked):
    row = found.row("many tasks", workload.name, workload.title, OURS.title, tasks)
    row.flops, row.tasks = replace(workload, meta_batch_size=tasks).flops(), tasks
    arguments = (workload.name, OURS.name, asked.place, {}, tasks)
    with Child(f"maml_fast on {workload.name} with {tasks} tasks", Contestant, *arguments) as child:
        row.peak_mib = child.call("peak_mib")
        row.seconds += child.call("times", asked.seconds)
