"""Meta-batches as the tutorial's class takes them: 5-way 1-shot, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def blobs(classes, images, generator):
    """Bright random blobs on a black ground, one pattern a class, moved and dimmed from image to image; 0..255."""
    coarse = torch.rand(classes, 1, 1, 7, 7, generator=generator, dtype=torch.float64)
    patterns = F.interpolate((coarse > 0.6).double().flatten(0, 1), scale_factor=4).unflatten(0, (classes, 1))
    shifts = torch.randint(-3, 4, (classes, images, 2), generator=generator).tolist()
    moved = [[torch.roll(patterns[c, 0], shift, (-2, -1)) for shift in of_class] for c, of_class in enumerate(shifts)]
    ink = 200 + 55 * torch.rand(classes, images, 1, 28, 28, generator=generator, dtype=torch.float64)
    return torch.stack([torch.stack(images_) for images_ in moved]) * ink


def make_batch(n_tasks, n_query_per_class, generator):
    """5-way 1-shot episodes of 0..255 images."""
    tasks = []
    for _ in range(n_tasks):
        images = blobs(5, 1 + n_query_per_class, generator)
        order = torch.randperm(5, generator=generator)
        queries = torch.randperm(5 * n_query_per_class, generator=generator)
        labels = torch.arange(5).repeat_interleave(n_query_per_class)
        tasks.append((images[order, 0], order, images[:, 1:].flatten(0, 1)[queries], labels[queries]))
    return tuple(torch.stack(parts) for parts in zip(*tasks, strict=True))
