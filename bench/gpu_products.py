"""The conv blocks of W3's query set, forward and backward, once: a program for Nsight Compute to watch.

The kernels to profile run between the profiler's start and stop, after a warm-up.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace

import blocks
import torch
from place import DEVICES, PRECISIONS, Place

from maml_fast import native, ops


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="gpu_products.py", description=__doc__)
    parser.add_argument("--device", choices=DEVICES, default="cuda", help="cpu: to see that it runs")
    parser.add_argument("--precision", choices=PRECISIONS, default="tf32", help="of products of float32")
    parser.add_argument("--images", type=int, help="of a task (default: as the workload has them)")
    asked = parser.parse_args(arguments)
    if asked.device == "cuda":
        if not native.has_cuda_kernels():
            sys.exit(f"gpu_products.py: error: no kernels for GPUs, {native.backend()}: see `maml-fast doctor`")
        Place(torch.get_num_threads(), asked.device, asked.precision).keep_to()
    for watched in (False, True):
        with _watching() if watched and asked.device == "cuda" else contextlib.nullcontext():
            for block in blocks.QUERY_OF_W3:
                run(replace(block, device=asked.device, images=asked.images or block.images))
    print(f"{len(blocks.QUERY_OF_W3)} blocks, forward and backward, ran on {asked.device}")


def run(block: blocks.Block) -> None:
    blocks.run(block, ops.conv_block, block.tensors(torch.float32), "backward")


@contextlib.contextmanager
def _watching():
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    yield
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
