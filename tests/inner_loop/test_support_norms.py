"""Queries normalized by the support set's statistics: each as if it were the only one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small import conv_net, make_episodes, two_blocks
from torch import Tensor, nn

import maml_fast as mf
from maml_fast import MAML
from maml_fast.algorithms import MAMLPlusPlus, ProtoNet, Reptile
from maml_fast.inner_loop._support_norms import SupportNorms
from maml_fast.nn import ConvBlock

EPISODES = make_episodes()


class Functional(nn.Module):
    """Normalizes by both of PyTorch's functions, without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1).double())
        self.classifier = nn.Linear(100, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, None, None, self.scale, None, training=True)
        x = torch.batch_norm(x.exp(), None, None, None, None, True, 0.1, 1e-5, False)
        return self.classifier(x.flatten(1))


def blocks() -> nn.Module:
    return nn.Sequential(ConvBlock(1, 4), ConvBlock(4, 4, relu_first=True), nn.Flatten(), nn.Linear(16, 5)).double()


NETS = {
    "layers": conv_net,
    "functions": Functional,
    "fused blocks": blocks,
    "fused model": lambda: mf.fuse(two_blocks()),
}


@pytest.mark.parametrize("net", NETS)
def test_a_query_is_judged_alone_as_among_others(net: str) -> None:
    torch.manual_seed(0)
    maml = MAML(NETS[net](), inner_lr=0.1, inner_steps=2)
    x_spt, y_spt, x_qry, _ = EPISODES
    fast = maml.adapt(x_spt, y_spt)
    together = maml.predict_by_support(fast, x_spt, x_qry)
    alone = torch.cat([maml.predict_by_support(fast, x_spt, x_qry[:, i : i + 1]) for i in range(10)], dim=1)
    torch.testing.assert_close(alone, together)
    assert (maml.predict(fast, x_qry) - together).abs().max() > 1e-3
    # The support images themselves are normalized by the same statistics in both ways.
    torch.testing.assert_close(maml.predict_by_support(fast, x_spt, x_spt), maml.predict(fast, x_spt))


def test_equals_what_a_layer_with_these_running_statistics_gives() -> None:
    maml = MAML(conv_net(), inner_lr=0.1, inner_steps=1)
    x_spt, y_spt, x_qry, _ = EPISODES
    fast = maml.adapt(x_spt, y_spt)
    for task in range(3):
        model = conv_net().eval()
        model.load_state_dict({name: each[task] for name, each in fast.items()}, strict=False)
        model.requires_grad_(False)
        variance, mean = torch.var_mean(model[0](x_spt[task]), (0, 2, 3), correction=0)
        model[1].running_mean, model[1].running_var = mean, variance
        torch.testing.assert_close(maml.predict_by_support(fast, x_spt, x_qry)[task], model(x_qry[task]))


@pytest.mark.parametrize(
    "learner",
    [
        MAML(two_blocks(), inner_lr=0.1, inner_steps=2, head="proto"),
        MAMLPlusPlus(two_blocks(), inner_lr=0.1, inner_steps=2),
        Reptile(two_blocks(), inner_lr=0.01, inner_steps=2),
        ProtoNet(two_blocks(outputs=None)),
    ],
    ids=lambda each: type(each).__name__,
)
def test_evaluation_by_support_is_that_of_each_query_alone(learner) -> None:
    result = mf.evaluate(learner, [EPISODES], 3, batch_norm="support")
    x_spt, y_spt, x_qry, y_qry = EPISODES
    learner.eval()
    fast = learner.adapt(x_spt, y_spt)
    logits = [learner.predict_by_support(fast, x_spt, x_qry[:, i : i + 1]) for i in range(10)]
    right = torch.cat(logits, dim=1).argmax(2) == y_qry
    assert result.accuracy == pytest.approx(right.double().mean().item())
    assert result.batch_norm == "the support set's statistics (not transductive)"
    assert len(result.accuracies) == 1
    assert result.inner_steps == getattr(learner, "inner_steps", 0)
    assert mf.evaluate(learner, [EPISODES], 3).batch_norm != result.batch_norm


def test_running_statistics_are_nothing_to_replace() -> None:
    learner = MAMLPlusPlus(two_blocks(), inner_lr=0.1, inner_steps=2, batch_norm="per_step_running").eval()
    with pytest.raises(ValueError, match=r"batch_norm='support' is for a learner .* running statistics"):
        mf.evaluate(learner, [EPISODES], 3, batch_norm="support")
    x_spt, y_spt, x_qry, _ = EPISODES
    fast = learner.adapt(x_spt, y_spt)
    assert torch.equal(learner.predict_by_support(fast, x_spt, x_qry), learner.predict(fast, x_qry))


def test_a_model_that_normalizes_some_images_otherwise_is_refused() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.net = nn.BatchNorm2d(1).double(), two_blocks()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.norm(x) if len(x) > 5 else x)

    maml = MAML(Fickle(), inner_lr=0.1, inner_steps=1)
    fast = maml.adapt(*EPISODES[:2])
    with pytest.raises(RuntimeError, match="calls other batch norms for the queries than for the support images"):
        maml.predict_by_support(fast, EPISODES.x_spt, EPISODES.x_qry)


def test_fewer_batch_norms_are_noticed_too() -> None:
    norms, norm = SupportNorms(), nn.BatchNorm2d(1)
    with norms:
        norm(torch.rand(3, 1, 2, 2))
    with pytest.raises(RuntimeError, match="calls other batch norms"), norms.for_queries():
        pass
