"""What tests ask for in a process of its own, which finds it by the name of this module."""

from __future__ import annotations

import os
import signal

import parity
from peers import named
from torch import nn

from maml_fast.nn import BatchStatNorm2d


class Subject:
    def __init__(self, closed=None):
        self.closed = closed

    def add(self, a, b):
        return a + b

    def environment(self, name):
        return os.environ.get(name)

    def fail(self):
        raise ValueError("no such thing as 7")

    def die(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def leave(self):
        os._exit(3)

    def close(self):
        if self.closed is not None:
            self.closed.touch()


def strided_net():
    """Layers in the tutorial's two orders, at the tutorial's stride and padding."""
    first = nn.Conv2d(1, 3, 3, stride=2, padding=2), BatchStatNorm2d(3), nn.MaxPool2d(2), nn.ReLU()
    second = nn.Conv2d(3, 3, 3, stride=2, padding=2), nn.ReLU(), BatchStatNorm2d(3)
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(3 * 2 * 2, 5))


class Judge:
    """Tells how far a peer is from maml_fast on a workload that has no name of its own."""

    def errors(self, workload, peer):
        return parity.check(workload, named(peer))._asdict()

    def close(self): ...
