"""Peers that compute something else than maml_fast, each in its own way."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from peers.loop import TaskLoop


class WrongLoss(TaskLoop):
    title = "wrong loss"

    def backward(self, episodes):
        return super().backward(episodes) * (1 + 1e-8)


class FirstOrder(TaskLoop):
    title = "first order"

    def __init__(self, workload, start):
        super().__init__(replace(workload, order=1), start)


class NoGradient(TaskLoop):
    title = "no gradient"

    def backward(self, episodes):
        losses = super().backward(episodes)
        for parameter in self.parameters:
            parameter.grad = None
        return losses


class NotANumber(TaskLoop):
    title = "not a number"

    def backward(self, episodes):
        return super().backward(episodes) * math.nan


class OnlyFloat32IsWrong(TaskLoop):
    title = "wrong in float32"

    def backward(self, episodes):
        losses = super().backward(episodes)
        return losses * 1.1 if losses.dtype == torch.float32 else losses
