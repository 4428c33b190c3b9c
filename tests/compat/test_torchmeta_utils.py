"""The drop-in for torchmeta's prototypes and matching networks, against loops over tasks and classes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maml_fast.compat.torchmeta.utils import (
    get_num_samples,
    get_prototypes,
    matching_log_probas,
    matching_loss,
    matching_probas,
    pairwise_cosine_similarity,
    prototypical_loss,
)

pytestmark = pytest.mark.backendless

T, N, M, E, CLASSES = 2, 7, 5, 4, 3


@pytest.fixture
def support():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(T, N, E, generator=generator, dtype=torch.float64, requires_grad=True)
    return embeddings, torch.tensor([[0, 1, 2, 0, 1, 0, 2], [2, 2, 1, 0, 1, 0, 2]])


@pytest.fixture
def query():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(T, M, E, generator=generator, dtype=torch.float64), torch.randint(
        CLASSES, (T, M), generator=generator
    )


def test_prototypes_are_the_means_of_classes(support):
    embeddings, targets = support
    found = get_prototypes(embeddings, targets, CLASSES + 1)
    counts = get_num_samples(targets, CLASSES + 1)
    for t in range(T):
        for c in range(CLASSES):
            torch.testing.assert_close(found[t, c], embeddings[t][targets[t] == c].mean(0))
            assert counts[t, c] == (targets[t] == c).sum()
    assert (found[:, CLASSES] == 0).all()
    assert get_num_samples(targets, CLASSES, dtype=torch.float64).dtype == torch.float64


def test_prototypical_loss(support, query):
    prototypes = get_prototypes(*support, CLASSES)
    (embeddings, targets) = query
    distances = torch.cdist(embeddings, prototypes).square()  # [T, M, CLASSES]
    expected = F.cross_entropy(-distances.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(prototypical_loss(prototypes, embeddings, targets), expected)
    assert prototypical_loss(prototypes, embeddings, targets, reduction="none").shape == (T, M)


def test_matching_network(support, query):
    embeddings, targets = support
    cosines = F.cosine_similarity(embeddings[:, :, None], query[0][:, None], dim=-1)  # [T, N, M]
    torch.testing.assert_close(pairwise_cosine_similarity(embeddings, query[0]), cosines)
    attention = cosines.softmax(1)
    expected = torch.stack([(attention * (targets == c)[..., None]).sum(1) for c in range(CLASSES)], 1)
    probabilities = matching_probas(embeddings, targets, query[0], CLASSES)
    torch.testing.assert_close(probabilities, expected)
    torch.testing.assert_close(matching_log_probas(embeddings, targets, query[0], CLASSES).exp(), expected)
    loss, wanted = matching_loss(*support, *query, CLASSES), F.nll_loss(expected.log(), query[1])
    torch.testing.assert_close(loss, wanted)
    gradients = [torch.autograd.grad(each, embeddings, retain_graph=True)[0] for each in (loss, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: get_prototypes(x[0], y, 3), r"embeddings must be \[T, N, E\] and targets \[T, N\], got \[7, 4\]"),
        (lambda x, y: prototypical_loss(x, x[..., :2], y), r"must be \[T, ..., E\] of the same E, got \[2, 7, 4\]"),
        (lambda x, y: pairwise_cosine_similarity(x, x[..., :2]), r"embeddings2 must be .*, got \[2, 7, 2\]"),
    ],
)
def test_shapes_that_disagree_are_shown(support, call, message):
    with pytest.raises(ValueError, match=message):
        call(*support)
