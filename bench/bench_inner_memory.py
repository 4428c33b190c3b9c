"""The effect of ``inner_memory``: memory that hardly grows with the inner steps, at the price of time."""

from __future__ import annotations

import pytest
import settings
from child import Child
from long_loop import LongLoop
from peers import OURS

NETS = {"conv4": "Conv4-32 on 28x28", "lstm": "LSTM of 64 over 32 steps", "resnet12": "narrow ResNet-12 on 16x16"}
STEPS, QUICK_STEPS = (5, 20, 80, 320, 1000), (5, 20)
KEPT = {"all steps": None, "5 steps": 5}


def pytest_generate_tests(metafunc):
    asked = settings.of(metafunc)
    nets = [net for net in NETS if any(net == workload.net for workload in asked.zoo)]
    cases = [
        pytest.param(net, steps, what, id=f"{net}-{steps}-{what.replace(' ', '-')}-{sweep}")
        for net in nets
        for steps in (QUICK_STEPS if asked.quick else STEPS)
        for what in KEPT
        for sweep in range(asked.sweeps)
    ]
    metafunc.parametrize(("net", "steps", "what"), cases)


def test_inner_memory(net, steps, what, found, asked):
    row = found.row("inner memory", NETS[net], what, OURS.title, steps)
    arguments = (net, steps, KEPT[what], asked.place, asked.quick)
    with Child(f"{net}, {steps} inner steps, {what} in memory", LongLoop, *arguments) as child:
        seconds, row.peak_mib = child.call("measure")
        row.seconds.append(seconds)
        row.ran = child.call("ran")
        if KEPT[what] is not None and row.parity is None:
            row.parity = child.call("parity")
