"""A model's classifier, and the values that its rows (one per class) have at the beginning of a task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from maml_fast._arguments import choice, int_from

__all__ = [
    "HEAD",
    "HEADS",
    "N_CLASSES",
    "Classifier",
    "Head",
    "PrototypeRows",
    "SharedRows",
    "Start",
    "TiedRow",
    "cycle_rows",
    "prototypes",
    "start_of",
]

Head: TypeAlias = Literal["learned", "zero", "tied", "proto"]

HEADS: Mapping[str, str] = {
    "learned": "every class has its own learned row",
    "zero": "all rows start at zero (zeroing trick, Kao et al. 2022)",
    "tied": "all rows start from one learned row (UNICORN-MAML, Ye & Chao 2022)",
    "proto": "rows start from the class prototypes (ProtoMAML, Triantafillou et al. 2020)",
}
HEAD = choice(*HEADS)
N_CLASSES = int_from(2)

IDENTITY_ERROR = 1e-3  # relative; the error is far larger if the model does not end in its classifier


@dataclass(frozen=True)
class Classifier:
    """The linear layer that a model registers last: the names of its parameters, and its size."""

    weight: str  # [n_classes, n_features]
    bias: str | None  # [n_classes]
    n_classes: int
    n_features: int

    @staticmethod
    def of(model: nn.Module, wanted_by: str) -> Classifier:
        """Return the classifier of ``model``.

        Raises:
            ValueError: the last module with parameters is not an ``nn.Linear``; the message begins with ``wanted_by``.
        """
        path, layer = _last_module(model)
        if not isinstance(layer, nn.Linear) or "weight" not in layer._parameters:
            what = f"{path or 'the model'}, a {type(layer).__name__}"
            raise ValueError(
                f"{wanted_by} needs a model that ends in an nn.Linear of a row for each class, but its last module "
                f"with parameters is {what}"
            )
        prefix = f"{path}." if path else ""
        bias = None if layer.bias is None else f"{prefix}bias"
        return Classifier(f"{prefix}weight", bias, layer.out_features, layer.in_features)

    @property
    def dimensions(self) -> dict[str, int]:
        """Number of dimensions of each parameter, by name; the first dimension is that of the classes."""
        return {self.weight: 2} if self.bias is None else {self.weight: 2, self.bias: 1}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.dimensions)

    def check_computed_last(self, head: str, computed_last: Collection[str]) -> None:
        """Raise ValueError unless this layer is the one that computes the model's output."""
        if set(computed_last) != set(self.names):
            raise ValueError(
                f"head={head!r} took {', '.join(self.names)} for the classifier, which the model registers last, but "
                f"its output is computed last with {', '.join(sorted(computed_last))}; register the classifier last"
            )

    def resize(self, model: nn.Module, n_classes: int) -> None:
        """Set the number of rows of the layer in ``model``; see :func:`cycle_rows`."""
        _, layer = _last_module(model)
        assert isinstance(layer, nn.Linear)
        for name in ("weight", "bias"):
            rows = layer._parameters[name]
            if rows is not None:
                setattr(layer, name, nn.Parameter(cycle_rows(rows.detach(), n_classes), rows.requires_grad))
        layer.out_features = n_classes


def cycle_rows(rows: Tensor, n_classes: int, dim: int = 0) -> Tensor:
    """Return ``n_classes`` rows along ``dim``: the first of ``rows``, repeated cyclically if there are too few."""
    return rows.index_select(dim, torch.arange(n_classes, device=rows.device) % rows.shape[dim])


class TiedRow(nn.Module):
    """The learned row that all classes start from: ``weight`` [n_features], and ``bias`` [1] if the layer has one.

    It is initialized with the model's first row.
    """

    def __init__(self, model: nn.Module, classifier: Classifier) -> None:
        super().__init__()
        rows = dict(model.named_parameters())
        self.weight = nn.Parameter(rows[classifier.weight].detach()[0].clone())
        bias = None if classifier.bias is None else rows[classifier.bias].detach()[:1].clone()
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))

    def by_name(self, classifier: Classifier) -> dict[str, Tensor]:
        """Return the row by the names of the classifier parameters that start from it."""
        return dict(zip(classifier.names, self.parameters(), strict=True))


@dataclass(frozen=True)
class SharedRows:
    """Initial rows that all tasks share: all zero, or all equal to the tied row."""

    classifier: Classifier
    head: Literal["zero", "tied"]

    def rows(self, adapted: Mapping[str, Tensor], row: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the classifier's initial parameters [n_classes, ...], given the model's own and the tied row."""
        if self.head == "tied":
            return {name: row[name].expand(adapted[name].shape).contiguous() for name in self.classifier.names}
        # Unlike new zeros, a product is part of the graph, also under transforms of torch.func.
        return {name: adapted[name] * 0 for name in self.classifier.names}


@dataclass(frozen=True)
class PrototypeRows:
    """Initial rows that differ between tasks: the task's nearest-prototype classifier, written as a linear layer.

    The negative squared distance of x to a class's mean embedding c equals ``2 c x - |c|^2``, up to a term that all
    classes share (Snell et al. 2017, eq. 8). So the row is 2c and the bias is -|c|^2. Gradients flow through both to
    the embeddings (Triantafillou et al. 2020, section 3.2).
    """

    classifier: Classifier

    def identity_parameters(self, like: Tensor) -> dict[str, Tensor]:
        """Return parameters that make the classifier the identity, so that the model returns its embeddings."""
        n_features = self.classifier.n_features
        assert self.classifier.bias is not None
        return {
            self.classifier.weight: torch.eye(n_features, dtype=like.dtype, device=like.device),
            self.classifier.bias: like.new_zeros(n_features),
        }

    def check_labels(self, labels: Tensor) -> None:
        """Raise unless every class occurs among the support labels [T, N] of every task."""
        if labels.is_floating_point() or labels.dim() != 2:
            got = f"{labels.dtype} {list(labels.shape)}"
            raise TypeError(f"head='proto' takes support labels [T, N], whole numbers, got {got}")
        _check_every_class(_members_of(labels, self.classifier.n_classes).sum(dim=-2))

    def rows(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return weight [..., n_classes, D] and bias [..., n_classes] for embeddings [..., N, D], labels [..., N].

        A class without an image gets zeros. Labels are not checked here, because that would synchronize with a GPU.
        """
        members = _members_of(labels, self.classifier.n_classes).to(embeddings.dtype)
        means = members.mT @ embeddings / members.sum(dim=-2)[..., None].clamp(min=1)
        assert self.classifier.bias is not None
        return {self.classifier.weight: 2 * means, self.classifier.bias: -means.square().sum(dim=-1)}

    def check(self, through: Tensor, logits: Tensor, parameters: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless ``logits`` are the classifier's output for the embeddings ``through``."""
        assert self.classifier.bias is not None
        weight, bias = parameters[self.classifier.weight], parameters[self.classifier.bias]
        wanted = through @ weight.mT + bias
        if not (wanted - logits).norm() <= IDENTITY_ERROR * (logits.norm() + wanted.norm()):
            raise ValueError(
                f"head='proto' needs a model whose output is that of its classifier, {self.classifier.weight}, but "
                "something comes after it; leave that to loss_fn"
            )


Start: TypeAlias = SharedRows | PrototypeRows


def start_of(head: Head, model: nn.Module, adapting: Collection[str]) -> Start | None:
    """Return how every task's classifier starts; ``None`` if it starts from the model's own rows.

    Raises:
        ValueError: the model does not end in a linear layer that suits ``head``, or that layer does not adapt.
    """
    if head == "learned":
        return None
    classifier = Classifier.of(model, f"head={head!r}")
    missing = [name for name in classifier.names if name not in adapting]
    if missing:
        raise ValueError(f"head={head!r} needs a classifier that adapts, but {missing[0]} does not; widen adapted")
    if head != "proto":
        return SharedRows(classifier, head)
    if classifier.bias is None:
        raise ValueError(f"head='proto' needs a classifier with a bias, and {classifier.weight} has none")
    return PrototypeRows(classifier)


def _members_of(labels: Tensor, n_classes: int) -> Tensor:
    """Return whether each image belongs to each class, bool [..., N, n_classes], for labels [..., N]."""
    return labels[..., None] == torch.arange(n_classes, device=labels.device)


def _check_every_class(counts: Tensor) -> None:
    """Raise ValueError unless all ``counts``, numbers of images [T, n_classes], are positive."""
    if not bool(counts.all()):
        task, label = (counts == 0).nonzero()[0].tolist()
        raise ValueError(f"class {label} of task {task} has no support image; number the classes from 0 without gaps")


def prototypes(embeddings: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Return the class means [T, n_classes, D] of embeddings [T, N, D] with labels [T, N].

    Images with labels outside 0..n_classes-1 are left out.

    Raises:
        ValueError: a class has no image.
    """
    members = _members_of(labels, n_classes).to(embeddings.dtype)
    counts = members.sum(dim=1)  # [T, n_classes]
    _check_every_class(counts)
    return members.mT @ embeddings / counts[..., None]


def _last_module(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the path of the last module that holds parameters, and that module."""
    holders = [
        (path, each) for path, each in model.named_modules() if any(True for _ in each.parameters(recurse=False))
    ]
    if not holders:
        raise ValueError("the model has no parameters")
    return holders[-1]
