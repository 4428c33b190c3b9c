"""Your own training loop on many processes, with Lightning Fabric.

pip install lightning && torchrun --nproc-per-node 2 examples/with_fabric.py
"""

import os

import torch
from lightning_fabric import Fabric

import maml_fast as mf


def main(iterations: int = 100) -> mf.MAML:
    """Train Conv4 on drawn strokes; every process samples its share of each meta-batch."""
    fabric = Fabric(devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    fabric.launch()
    sampler = mf.EpisodeSampler(mf.data.load("strokes")["train"], 5, 1, 15, meta_batch_size=8, batches=iterations)
    torch.manual_seed(0)
    maml = mf.MAML(mf.models.Conv4(n_way=5, hidden=32), inner_lr=0.4)
    parallel, optimizer = fabric.setup(maml, torch.optim.Adam(maml.parameters(), lr=3e-3))
    for episodes in mf.distributed.shard(sampler):
        optimizer.zero_grad()
        out = parallel(episodes.to(fabric.device))
        fabric.backward(out.loss)
        optimizer.step()
    fabric.print(f"query accuracy {float(out.query_accuracy):.3f}")
    return maml


if __name__ == "__main__":
    main()
