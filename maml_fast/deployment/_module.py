"""A meta-learner, adapted to one support set, as an ordinary module that takes one image or many."""

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
from maml_fast.maml import MAML, Learner
from maml_fast.maml._arguments import STEPS, check_support
from maml_fast.maml._evaluation import evaluation_mode
from maml_fast.maml._heads import Classifier, prototypes
from maml_fast.maml._problem import step_of_queries

__all__ = ["count_classes", "deploy", "for_classes"]

CLOSE = 1e-3  # relative: how far a module's logits may be from the meta-learner's, in float32


@takes(
    maml=instance(Learner, "wrap the model: MAML(model, ...)"),
    x_spt=tensor,
    y_spt=tensor,
    inner_steps=optional(STEPS),
)
def deploy(maml: Learner, x_spt: Tensor, y_spt: Tensor, inner_steps: int | None = None) -> nn.Module:
    """Adapt to a support set; return what was learned of it as an ordinary ``nn.Module``, in ``eval()`` mode.

    The module maps images [N, ...] to logits [N, n_classes]. It shares nothing with ``maml`` and needs no maml_fast:
    PyTorch's own layers stand in the place of maml_fast's, and a class of your own stays what it is. Batch norm
    normalizes by the statistics of the support set, unless the learner has running statistics, so that an image's
    logits do not depend on the others of its batch. Those of a :class:`maml_fast.algorithms.ProtoNet` by squared
    Euclidean distance differ from its own by a number that all classes of an image share.

    Adaptation is ``maml.adapt``'s, in ``eval()`` mode, for as many classes as ``y_spt`` has: see ``for_classes``.

    Args:
        maml: any meta-learner, trained; it is left as it is.
        x_spt: images of one task, [N, ...].
        y_spt: class numbers [N], from 0 without gaps; or other targets [N, ...], as the learner's loss takes them.
        inner_steps: in place of the learner's own.

    Raises:
        TypeError: an argument is of another type.
        ValueError: shapes disagree, a class has no image, the learner can't serve so many classes, or the model can't
            be written so: it calls ``F.batch_norm`` itself, or one layer of batch norm twice.
    """
    check_support(x_spt[None], y_spt[None])
    n_classes = count_classes(y_spt)
    learner = maml if n_classes is None else for_classes(maml, n_classes)
    with evaluation_mode(learner), torch.no_grad():
        fast = learner.adapt(x_spt[None], y_spt[None], inner_steps=inner_steps)
        wanted = learner.predict_by_support(fast, x_spt[None], x_spt[None])[0]
        if n_classes is not None and wanted.shape[1] != n_classes:
            raise ValueError(f"y_spt has {n_classes} classes, but the model {wanted.shape[1]} outputs")
        module = _module_of(learner, fast, x_spt)
        _check_same(module, x_spt, wanted, up_to_a_shift=isinstance(learner, ProtoNet))
    return module


def count_classes(y_spt: Tensor) -> int | None:
    """How many classes labels [N] are of; ``None`` of other targets.

    Raises:
        ValueError: there are gaps, negative labels, or fewer than two classes.
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
        raise ValueError("y_spt has one class alone; there is nothing to tell apart")
    return len(found)


def for_classes(learner: Learner, n_classes: int) -> Learner:
    """The learner for so many classes, or as it is where its model has no linear layer to resize."""
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
        with _taking_statistics(module):
            module(x_spt)
    elif isinstance(learner, MAML) and learner.step_statistics is not None:
        row = learner.step_statistics.row(step_of_queries(learner.inner_steps))  # as predict() takes them
        norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
        for block, norm in enumerate(norms):
            _keep(norm, *(each[row] for each in learner.step_statistics.of(block)))
    if isinstance(learner, ProtoNet):
        return _compared(module, module(x_spt).flatten(1), fast["y_spt"][0], learner.distance)
    return module


def _compared(embedding: nn.Module, support: Tensor, labels: Tensor, distance: str) -> nn.Module:
    """The nearest-prototype classifier of embeddings [N, D] as linear layer, of their unit vectors for the cosine."""
    n_features = support.shape[1]
    layers: list[tuple[str, nn.Module]] = [("embedding", embedding), ("flatten", nn.Flatten())]
    means = prototypes(support[None], labels[None], int(labels.max()) + 1)[0]
    if distance == "cosine":
        # The root of the mean square, sqrt(D) times as small as the length.
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
def _taking_statistics(module: nn.Module) -> Iterator[None]:
    """Inside this context every batch norm keeps the statistics of the first batch that it is given.

    Raises:
        ValueError: one is called again.
    """
    names: dict[nn.Module, str] = {part: name for name, part in module.named_modules() if isinstance(part, _BatchNorm)}
    done: set[nn.Module] = set()

    def take(norm: nn.Module, given: tuple[Any, ...]) -> None:
        if norm in done:
            raise ValueError(f"{names[norm]} normalizes twice in one forward: give each place a batch norm of its own")
        done.add(norm)
        dims = [dim for dim in range(given[0].dim()) if dim != 1]
        variance, mean = torch.var_mean(given[0], dims, correction=0)
        _keep(norm, mean, variance)

    hooks = [norm.register_forward_pre_hook(take) for norm in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _keep(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Let a batch norm normalize by these from now on, in ``eval()`` mode."""
    norm.track_running_stats = True
    norm.register_buffer("running_mean", mean.clone())
    norm.register_buffer("running_var", variance.clone())
    norm.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64, device=mean.device))


def _check_same(module: nn.Module, x_spt: Tensor, wanted: Tensor, *, up_to_a_shift: bool) -> None:
    """Raise ValueError unless the module says of each support image, with others and alone, what the learner does."""
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
                "F.batch_norm itself, or draw random numbers? Batch norm must be a layer, nn.BatchNorm2d or such"
            )
