"""Adapt a meta-learner to one support set and return the result as an ordinary module."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maml_fast._arguments import instance, optional, takes, tensor
from maml_fast.algorithms import ProtoNet
from maml_fast.deployment._plain import plain
from maml_fast.inner_loop._heads import Classifier, prototypes
from maml_fast.inner_loop._problem import step_of_queries
from maml_fast.maml import MAML, Learner
from maml_fast.maml._arguments import STEPS, check_support
from maml_fast.maml._evaluation import evaluation_mode

__all__ = ["count_classes", "deploy", "for_classes"]

CLOSE = 1e-3  # relative tolerance between the module's logits and the meta-learner's, in float32


@takes(
    maml=instance(Learner, "wrap the model: MAML(model, ...)"),
    x_spt=tensor,
    y_spt=tensor,
    inner_steps=optional(STEPS),
)
def deploy(maml: Learner, x_spt: Tensor, y_spt: Tensor, inner_steps: int | None = None) -> nn.Module:
    """Adapt to a support set and return the adapted model as an ordinary ``nn.Module`` in ``eval()`` mode.

    The module maps images [N, ...] to logits [N, n_classes]. It shares no tensors with ``maml`` and does not need
    maml_fast: maml_fast's layers are replaced by PyTorch's own, while your own classes stay as they are. Batch norm
    normalizes by the statistics of the support set, or by the learner's running statistics if it has them, so that an
    image's logits do not depend on the other images of its batch. For a :class:`maml_fast.algorithms.ProtoNet` with
    squared Euclidean distance, an image's logits differ from the learner's by a constant, the same for all classes.

    Adaptation is that of ``maml.adapt`` in ``eval()`` mode, for as many classes as ``y_spt`` has: see ``for_classes``.

    Args:
        maml: any trained meta-learner; it is not changed.
        x_spt: images of one task, [N, ...].
        y_spt: class numbers [N], from 0 without gaps; or other targets [N, ...] that the learner's loss takes.
        inner_steps: number of inner steps; by default the learner's own.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes disagree, a class has no image, the learner can't be used for that many classes, or the
            model can't be converted because it calls ``F.batch_norm`` itself or one batch norm layer twice.
    """
    check_support(x_spt[None], y_spt[None])
    n_classes = count_classes(y_spt)
    learner = maml if n_classes is None else for_classes(maml, n_classes)
    with evaluation_mode(learner), torch.no_grad():
        fast = learner.adapt(x_spt[None], y_spt[None], inner_steps=inner_steps)
        wanted = learner.predict_by_support(fast, x_spt[None], x_spt[None])[0]
        if n_classes is not None and wanted.shape[1] != n_classes:
            raise ValueError(f"y_spt has {n_classes} classes, but the model has {wanted.shape[1]} outputs")
        module = _module_of(learner, fast, x_spt)
        _check_same(module, x_spt, wanted, up_to_a_shift=isinstance(learner, ProtoNet))
    return module


def count_classes(y_spt: Tensor) -> int | None:
    """Return the number of classes of labels [N]; ``None`` for targets that are not labels.

    Raises:
        ValueError: if there are gaps, negative labels, or fewer than two classes.
    """
    if y_spt.is_floating_point() or y_spt.is_complex() or y_spt.dim() != 1 or y_spt.dtype == torch.bool:
        return None
    found = y_spt.unique().tolist()
    if found != list(range(len(found))):
        missing = next(label for label, each in enumerate([*found, None]) if label != each)
        raise ValueError(
            f"y_spt has labels {found[0]} to {found[-1]} without {missing}; number classes from 0 without gaps"
        )
    if len(found) < 2:
        raise ValueError("y_spt has only one class; at least two are needed")
    return len(found)


def for_classes(learner: Learner, n_classes: int) -> Learner:
    """Return the learner for ``n_classes`` classes; the same learner if its model has no linear layer to resize."""
    try:
        Classifier.of(learner.model, "")
    except ValueError:
        return learner
    return learner.for_classes(n_classes)


def _module_of(learner: Learner, fast: Mapping[str, Tensor], x_spt: Tensor) -> nn.Module:
    model = copy.deepcopy(learner.model)
    for name, parameter in model.named_parameters():
        parameter.grad = None
        if name in fast:
            parameter.copy_(fast[name][0])
    module = plain(model).eval()
    if learner.is_transductive:
        with _recording_statistics(module):
            module(x_spt)
    elif isinstance(learner, MAML) and learner.step_statistics is not None:
        row = learner.step_statistics.row(step_of_queries(learner.inner_steps))  # the step that predict() uses
        norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
        for block, norm in enumerate(norms):
            _set_running_statistics(norm, *(each[row] for each in learner.step_statistics.mean_and_variance(block)))
    if isinstance(learner, ProtoNet):
        return _prototype_classifier(module, module(x_spt).flatten(1), fast["y_spt"][0], learner.distance)
    return module


def _prototype_classifier(embedding: nn.Module, support: Tensor, labels: Tensor, distance: str) -> nn.Module:
    """Append the nearest-prototype classifier as a linear layer; for the cosine, embeddings are normalized first."""
    n_features = support.shape[1]
    layers: list[tuple[str, nn.Module]] = [("embedding", embedding), ("flatten", nn.Flatten())]
    means = prototypes(support[None], labels[None], int(labels.max()) + 1)[0]
    if distance == "cosine":
        # RMSNorm divides by the Euclidean norm over sqrt(D); the classifier's weight makes up for sqrt(D).
        unit = nn.RMSNorm(n_features, eps=1e-24 / n_features, elementwise_affine=False)
        layers.append(("unit", unit))
        weight, bias = F.normalize(means, dim=1) / n_features**0.5, means.new_full((len(means),), -1.0)
    else:
        weight, bias = 2 * means, -means.square().sum(dim=1)
    classifier = nn.utils.skip_init(nn.Linear, n_features, len(means), device=means.device, dtype=means.dtype)
    classifier.get_parameter("weight").copy_(weight)
    classifier.get_parameter("bias").copy_(bias)
    return nn.Sequential(OrderedDict([*layers, ("classifier", classifier)])).eval()


@contextmanager
def _recording_statistics(module: nn.Module) -> Iterator[None]:
    """Inside this context, every batch norm takes the statistics of its first batch as running statistics.

    Raises:
        ValueError: if a batch norm is called a second time.
    """
    names: dict[nn.Module, str] = {part: name for name, part in module.named_modules() if isinstance(part, _BatchNorm)}
    recorded: set[nn.Module] = set()

    def record(norm: nn.Module, args: tuple[Any, ...]) -> None:
        if norm in recorded:
            raise ValueError(f"{names[norm]} normalizes twice in one forward: give each place a batch norm of its own")
        recorded.add(norm)
        dims = [dim for dim in range(args[0].dim()) if dim != 1]
        variance, mean = torch.var_mean(args[0], dims, correction=0)
        _set_running_statistics(norm, mean, variance)

    hooks = [norm.register_forward_pre_hook(record) for norm in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _set_running_statistics(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Make a batch norm normalize by these statistics in ``eval()`` mode."""
    norm.track_running_stats = True
    norm.register_buffer("running_mean", mean.clone())
    norm.register_buffer("running_var", variance.clone())
    norm.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64, device=mean.device))


def _check_same(module: nn.Module, x_spt: Tensor, wanted: Tensor, *, up_to_a_shift: bool) -> None:
    """Raise ValueError unless module and learner agree on the support images, all together and one alone."""
    for images, logits in ((x_spt, wanted), (x_spt[:1], wanted[:1])):
        try:
            found = module(images)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"the deployed module can't take {len(images)} images: {error}") from error
        if up_to_a_shift:
            found, logits = found.log_softmax(1), logits.log_softmax(1)
        if not (found - logits).norm() <= CLOSE * logits.norm() + torch.finfo(logits.dtype).tiny:
            raise ValueError(
                "the deployed module gives other logits than the meta-learner: does the model's forward call "
                "F.batch_norm itself, or draw random numbers? Batch norm must be a layer, such as nn.BatchNorm2d"
            )
