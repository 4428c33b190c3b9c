"""Evaluation: exactly the episodes asked for, means and intervals by the formula, nothing touched."""

from __future__ import annotations

import copy
import math
from itertools import count, islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import conv_net, make_episodes
from torch import nn

from maml_fast import MAML, EpisodeSampler, ImageBank, evaluate


def batches(n_tasks=4, **options):
    return (make_episodes(n_tasks, seed=seed, **options) for seed in count())


@pytest.fixture
def maml():
    return MAML(conv_net(), inner_lr=0.3, inner_steps=1)


@pytest.mark.parametrize("episodes", [2, 4, 8, 10])
def test_means_and_intervals_over_exactly_the_episodes(maml, episodes):
    result = evaluate(maml, batches(), episodes, inner_steps=3)
    accuracies, losses = [], []
    for batch in islice(batches(), 3):
        for task in zip(*batch, strict=True):
            single = maml(tuple(part[None] for part in task), per_step=True, inner_steps=3)
            accuracies.append(np.round(single.query_accuracies.double().numpy() * 10) / 10)
            losses.append(single.query_losses.numpy())
    accuracies, losses = np.array(accuracies[:episodes]), np.array(losses[:episodes])
    np.testing.assert_allclose(result.accuracies, accuracies.mean(axis=0), rtol=1e-12)
    half_widths = 1.96 * accuracies.std(axis=0, ddof=1) / math.sqrt(episodes)
    np.testing.assert_allclose(result.intervals, half_widths, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(result.losses, losses.mean(axis=0), rtol=1e-10)
    half_widths = 1.96 * losses.std(axis=0, ddof=1) / math.sqrt(episodes)
    np.testing.assert_allclose(result.loss_intervals, half_widths, rtol=1e-9, atol=1e-15)
    assert (result.accuracy, result.interval) == (result.accuracies[-1], result.intervals[-1])
    assert (result.n_episodes, result.inner_steps) == (episodes, 3)
    assert result.batch_norm == maml.batch_norm


def test_steps_of_training_unless_told_otherwise(maml):
    assert evaluate(maml, batches(), 4).inner_steps == 1
    assert len(evaluate(maml, batches(), 4, inner_steps=0).accuracies) == 1


def test_takes_no_more_batches_than_it_needs(maml):
    taken = []

    def sampler():
        for batch in batches():
            taken.append(batch)
            yield batch

    evaluate(maml, sampler(), 8)
    assert len(taken) == 2


def test_touches_neither_state_nor_gradients_nor_modes(maml):
    model = maml.model
    maml(make_episodes()).loss.backward()
    model.train()
    model[1].eval()
    before = copy.deepcopy(maml.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    modes = [module.training for module in maml.modules()]
    random_state = torch.get_rng_state()
    evaluate(maml, batches(), 6)
    assert all(torch.equal(value, before[name]) for name, value in maml.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [module.training for module in maml.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled()


def test_modes_are_restored_when_evaluation_fails(maml):
    with pytest.raises(ValueError, match="ended"):
        evaluate(maml, [make_episodes()], 600)
    assert maml.training


def test_dropout_is_off():
    maml = MAML(conv_net(dropout=0.5), inner_lr=0.3)
    assert evaluate(maml, batches(), 6) == evaluate(maml, batches(), 6)
    assert maml.model[4].training


def test_batches_follow_the_models_precision(maml):
    result = evaluate(maml, batches(dtype=torch.float32), 4)
    assert 0 <= result.accuracy <= 1


def test_with_the_sampler():
    images = np.random.default_rng(0).integers(0, 256, (12, 6, 1, 10, 10), dtype=np.uint8)
    sampler = EpisodeSampler(ImageBank.from_array(images), n_way=5, k_shot=1, k_query=2, meta_batch_size=4)
    maml = MAML(conv_net(), inner_lr=0.3)
    assert evaluate(maml, sampler, 10) == evaluate(maml, sampler, 10)
    assert evaluate(maml, sampler, 10).n_episodes == 10


def test_one_episode_has_no_interval(maml):
    result = evaluate(maml, batches(), 1)
    assert math.isnan(result.interval)
    assert "no interval from 1 episode" in str(result)


def test_regression_has_losses_alone():
    x = torch.rand(4, 6, 1)
    maml = MAML(nn.Linear(1, 1), inner_lr=0.1, inner_steps=2, loss_fn=F.mse_loss)
    result = evaluate(maml, [(x, 3 * x, x, 3 * x)], 4)
    assert result.accuracy is result.interval is result.accuracies is result.intervals is None
    assert len(result.losses) == 3
    assert result.losses[2] < result.losses[0]
    assert len(result.loss_intervals) == 3
    assert f"loss {result.losses[2]:.4f} ± {result.loss_intervals[2]:.4f}" in str(result)


def test_says_policy_steps_and_interval(maml):
    result = evaluate(maml, batches(), 6, inner_steps=2)
    text = str(result)
    assert f"{100 * result.accuracy:.2f} ± {100 * result.interval:.2f} %" in text
    assert "95 % interval" in text
    assert "6 episodes, 2 inner steps" in text
    assert "transductive" in text
