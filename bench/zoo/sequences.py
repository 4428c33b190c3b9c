"""Nets of series, signals and text: 1-D convolutions, recurrent nets, transformers, embeddings."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.entry import Entry, Size, classes, tokens


def conv1d(norm: bool = True, in_channels: int = 9, hidden: int = 64, n_way: int = 6) -> nn.Module:
    """Three convolutions over a signal [N, C, L], the mean of what is left, a classifier."""
    layers: list[nn.Module] = []
    for before in (in_channels, hidden, hidden):
        layers.append(nn.Conv1d(before, hidden, 5, padding=2))
        layers += [nn.BatchNorm1d(hidden), nn.ReLU(), nn.MaxPool1d(2)] if norm else [nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(hidden, n_way))


class Recurrent(nn.Module):
    """``nn.LSTM`` or ``nn.GRU`` over a series [N, L, C], and a classifier on the last output."""

    def __init__(self, layer: type[nn.RNNBase], inputs: int = 9, hidden: int = 64, n_way: int = 6) -> None:
        super().__init__()
        self.rnn = layer(inputs, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, n_way)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        return self.fc(out[:, -1])


class Attention(nn.Module):
    """Several heads, in elementary operations: PyTorch's fused attention has no second derivative on a CPU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (each.view(n, length, self.heads, -1).transpose(1, 2) for each in (q, k, v))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, length, width))


class Layer(nn.Module):
    """Norms first, as in GPT-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Transformer(nn.Module):
    """A small transformer over a series [N, L, C]."""

    def __init__(
        self, inputs: int = 9, length: int = 32, width: int = 64, heads: int = 4, depth: int = 2, n_way: int = 6
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_way)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(dim=1))


class VisionTransformer(Transformer):
    """The same over the patches of an image [N, C, H, W]."""

    def __init__(self, patch: int = 7, channels: int = 1, image_size: int = 28, **options: int) -> None:
        super().__init__(channels * patch**2, (image_size // patch) ** 2, **options)
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.patch, stride=self.patch)  # [N, C * P * P, L]
        return super().forward(patches.transpose(1, 2))


class BagOfWords(nn.Module):
    """The mean of a text's embeddings, and two linear layers."""

    def __init__(self, vocabulary: int = 1000, width: int = 64, n_way: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, n_way)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(self.embedding(x).mean(dim=1))))


class CastBagOfWords(BagOfWords):
    """The same of tokens that come as floating-point numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.long())


def _as_numbers(draw):
    def drawn(*args):
        x, y = draw(*args)
        return x.double(), y

    return drawn


SIGNALS = Size({}, classes(6, 9, 128), support=6, queries=30, tasks=16, steps=1)
SERIES = Size({}, classes(6, 32, 9), support=6, queries=30, tasks=16, steps=1)
IMAGES = Size({"n_way": 5}, classes(5, 1, 28, 28), support=5, queries=75, tasks=16, steps=1)
TEXT = Size({}, tokens(5, 1000, 24), support=25, queries=25, tasks=16, steps=2)
FEW = {"queries": 7, "tasks": 2, "steps": 2}
SMALL_SIGNALS = replace(SIGNALS, options={"hidden": 8}, draw=classes(6, 9, 16), **FEW)
SMALL_SERIES = replace(SERIES, options={"hidden": 8}, draw=classes(6, 6, 9), **FEW)
SMALL_TRANSFORMER = replace(SERIES, options={"width": 16, "heads": 2}, draw=classes(6, 6, 9), **FEW)
SMALL_TEXT = replace(TEXT, options={"vocabulary": 30, "width": 8}, draw=tokens(5, 30, 6), support=5, **FEW)

NETS = {
    "conv1d": Entry(
        "Conv1d, batch norm, ReLU, pool, three times, on signals of 9x128", conv1d, SIGNALS, SMALL_SIGNALS, 0.1
    ),
    "conv1d-no-norm": Entry("the same without batch norm", partial(conv1d, norm=False), SIGNALS, SMALL_SIGNALS, 0.05),
    "lstm": Entry("nn.LSTM of 64 over 32 steps of 9 values", partial(Recurrent, nn.LSTM), SERIES, SMALL_SERIES, 0.1),
    "gru": Entry("nn.GRU of 64 over 32 steps of 9 values", partial(Recurrent, nn.GRU), SERIES, SMALL_SERIES, 0.1),
    "transformer": Entry(
        "transformer: two layers of 64, 4 heads, over 32 steps of 9 values",
        Transformer,
        SERIES,
        SMALL_TRANSFORMER,
        0.05,
    ),
    "vision-transformer": Entry(
        "the same over 16 patches of 28x28",
        VisionTransformer,
        IMAGES,
        replace(IMAGES, options={"n_way": 5, "width": 16, "heads": 2}, **FEW),
        0.05,
    ),
    "embedding-mean": Entry("the mean of 24 embeddings of 64, two linear layers", BagOfWords, TEXT, SMALL_TEXT, 0.1),
    "embedding-mean-cast": Entry(
        "the same of tokens that come as numbers, x.long()",
        CastBagOfWords,
        replace(TEXT, draw=_as_numbers(TEXT.draw)),
        replace(SMALL_TEXT, draw=_as_numbers(SMALL_TEXT.draw)),
        0.1,
    ),
}
