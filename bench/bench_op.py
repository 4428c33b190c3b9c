"""Single conv blocks: native kernels, the pure-PyTorch reference, and torch's own layers task by task.

On a GPU the times include the launches; the times of the kernels alone are recorded beside them.
"""

from __future__ import annotations

import blocks
import gpu_kernels
import parity
import pytest
import settings
import torch

SHARE = 0.25  # of the time: there are many of them, and they are short


def pytest_generate_tests(metafunc):
    asked = settings.of(metafunc)
    cases = [
        pytest.param(block, until, who, id=f"{block.net}-{block.number}-{block.images}-{until}-{who}-{sweep}")
        for block in asked.blocks
        for until in block.passes
        for sweep in range(asked.sweeps)
        for who in blocks.implementations(asked.place.device)
    ]
    metafunc.parametrize(("block", "until", "who"), cases)


def test_op(block, until, who, found, timer):
    conv_block = blocks.implementations(block.device)[who]
    row = found.row("op", block.name, until, who)
    row.parity = {"values": parity.check_block(block, conv_block, until)}
    row.flops = block.flops(until)
    tensors = block.tensors(torch.float32)
    timer(row, blocks.run, block, conv_block, tensors, until, share=SHARE)
    if block.device == "cuda" and who == "native":
        note_kernels(row, lambda: blocks.run(block, conv_block, tensors, until))


def note_kernels(row, run):
    try:
        row.kernels, row.product_flops = gpu_kernels.measure(run)._asdict(), row.flops
    except gpu_kernels.NoTraceError as error:
        row.untraced = str(error)
