"""Your own training loop on many processes, with Hugging Face's Accelerate.

pip install accelerate && accelerate launch --cpu --num-processes 2 examples/with_accelerate.py
"""

import torch
from accelerate import Accelerator

import maml_fast as mf


def main(iterations: int = 100) -> mf.MAML:
    """Train Conv4 on drawn strokes; every process samples its share of each meta-batch."""
    accelerator = Accelerator()
    sampler = mf.EpisodeSampler(mf.data.load("strokes")["train"], 5, 1, 15, meta_batch_size=8, batches=iterations)
    torch.manual_seed(0)
    maml = mf.MAML(mf.models.Conv4(n_way=5, hidden=32), inner_lr=0.4)
    parallel, optimizer = accelerator.prepare(maml, torch.optim.Adam(maml.parameters(), lr=3e-3))
    for episodes in mf.distributed.shard(sampler):
        optimizer.zero_grad()
        out = parallel(episodes.to(accelerator.device))
        accelerator.backward(out.loss)
        optimizer.step()
    accelerator.print(f"query accuracy {float(out.query_accuracy):.3f}")
    return maml


if __name__ == "__main__":
    main()
