"""Small networks and episodes for the tests of MAML, in double precision."""

from __future__ import annotations

import torch
from torch import nn

from maml_fast import Episodes


def make_episodes(n_tasks=3, n_support=5, n_query=10, shape=(1, 10, 10), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Episodes(
        torch.rand(n_tasks, n_support, *shape, generator=generator, dtype=dtype),
        torch.arange(n_support).remainder(5).expand(n_tasks, -1),
        torch.rand(n_tasks, n_query, *shape, generator=generator, dtype=dtype),
        torch.randint(5, (n_tasks, n_query), generator=generator),
    )


def conv_net(dropout=0.0, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(200, 5)).double()


def two_blocks(outputs=5):
    """On images of 10 x 10: two blocks, and a classifier unless embeddings are wanted."""
    torch.manual_seed(1)
    layers = []
    for channels in (1, 6):
        layers += [nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), *([] if outputs is None else [nn.Linear(24, outputs)])).double()


def gradient(maml, episodes):
    parameters = [parameter for parameter in maml.parameters() if parameter.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(maml(episodes).loss, parameters)])


def three_way_net() -> nn.Module:
    """On images of 8 x 8: two blocks, and a classifier of three classes."""

    def block(channels: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)]

    torch.manual_seed(0)
    return nn.Sequential(*block(1), *block(5), nn.Flatten(), nn.Linear(5 * 4, 3)).double()
