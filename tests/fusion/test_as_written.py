"""fuse(batch_norm="as_written"): train() and eval() decide, and running statistics are PyTorch's, fused or not."""

from __future__ import annotations

import copy

import pytest
import torch
from fuse_nets import Conv4Plain, layers
from torch import Tensor, nn

from maml_fast import ops
from maml_fast.fusion import FusedModel, fuse


def images(*shape: int) -> Tensor:
    return torch.randn(shape or (4, 2, 17, 17), generator=torch.Generator().manual_seed(0)).double()


def conv4() -> Conv4Plain:
    torch.manual_seed(0)
    return Conv4Plain().double()


@pytest.fixture
def fused_calls(monkeypatch) -> list[None]:
    """One entry for every fused operation that ran."""
    calls: list[None] = []

    def counting(*args, run=ops.conv_block_with_statistics, **kwargs):
        calls.append(None)
        return run(*args, **kwargs)

    monkeypatch.setattr(ops, "conv_block_with_statistics", counting)
    return calls


def assert_same_run(fused: FusedModel, model: nn.Module, plain: nn.Module, x: Tensor) -> None:
    """Hold a fused model, made of ``model``, against ``plain``: outputs and the buffers that are left."""
    torch.testing.assert_close(fused(x), plain(x), rtol=1e-11, atol=1e-11)
    for (name, actual), wanted in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_training_is_fused_and_evaluation_is_not(fused_calls) -> None:
    model = conv4()
    plain, fused = copy.deepcopy(model), fuse(model, batch_norm="as_written")
    assert len(fused.report.fused) == 4
    for expected in (4, 8):
        assert_same_run(fused, model, plain, images())
        assert len(fused_calls) == expected
    assert model.encoder[0][1].num_batches_tracked == 2
    assert_same_run(fused.eval(), model, plain.eval(), images())
    assert len(fused_calls) == 8


def test_batch_norms_in_different_modes_run_as_written(fused_calls) -> None:
    model = conv4()
    plain, fused = copy.deepcopy(model), fuse(model, batch_norm="as_written")
    fused.encoder[1][1].eval()
    plain.encoder[1][1].eval()
    assert_same_run(fused, model, plain, images())
    assert not fused_calls


@pytest.mark.parametrize("relu_first", [False, True])
@pytest.mark.parametrize(
    "options", [{"momentum": None}, {"momentum": 1.0}, {"momentum": 0.3}, {"affine": False}], ids=str
)
def test_running_statistics_of_any_momentum(options, relu_first: bool, fused_calls) -> None:
    model = nn.Sequential(*layers("CRB" if relu_first else "CBRP")).double()
    model[2 if relu_first else 1] = nn.BatchNorm2d(3, **options).double()
    plain, fused = copy.deepcopy(model), fuse(model, batch_norm="as_written")
    for seed in range(3):
        assert_same_run(fused, model, plain, images() + seed)
    assert len(fused_calls) == 3


def test_a_count_that_was_taken_away(fused_calls) -> None:
    for momentum in (None, 0.1):
        model = nn.Sequential(*layers("CBR")).double()
        model[1].num_batches_tracked, model[1].momentum = None, momentum
        plain, fused = copy.deepcopy(model), fuse(model, batch_norm="as_written")
        assert_same_run(fused, model, plain, images())
    assert len(fused_calls) == 2


def test_layers_without_running_statistics_are_fused_in_both_modes() -> None:
    model = nn.Sequential(*layers("CBRP")).double()
    model[1] = nn.BatchNorm2d(3, track_running_stats=False).double()
    plain, fused = copy.deepcopy(model), fuse(model, batch_norm="as_written")
    assert len(fused.report.fused) == len(fuse(model.eval(), batch_norm="as_written").report.fused) == 1
    for mode in (True, False):
        assert_same_run(fused.train(mode), model, plain.train(mode), images())


def test_statistics_kept_but_no_longer_tracked() -> None:
    model = nn.Sequential(*layers("CBRP")).double()
    model[1].running_mean.add_(3)
    model[1].track_running_stats = False
    plain, fused = copy.deepcopy(model), fuse(model, batch_norm="as_written")
    for mode in (True, False):
        assert_same_run(fused.train(mode), model, plain.train(mode), images())


def test_one_value_a_channel_is_refused_as_torch_does() -> None:
    model = nn.Sequential(*layers("CBR")).double()
    for module in (model, fuse(model, batch_norm="as_written")):
        with pytest.raises(ValueError, match=r"more than (1|one) value per channel"):
            module(images(1, 2, 1, 1))


def test_run_on_a_copy_uses_the_copys_own(fused_calls) -> None:
    model = conv4()
    fused, twin = fuse(model, batch_norm="as_written"), copy.deepcopy(model)
    with torch.no_grad():
        twin.head.weight.mul_(2)
    before = copy.deepcopy(model.state_dict())
    plain = copy.deepcopy(twin)
    torch.testing.assert_close(fused.run_on(twin, images()), plain(images()), rtol=1e-11, atol=1e-11)
    assert len(fused_calls) == 4
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value)
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)
    assert not any("forward" in vars(module) for module in twin.modules())
    torch.testing.assert_close(fused.run_on(twin.eval(), images()), plain.eval()(images()), rtol=1e-11, atol=1e-11)
    assert len(fused_calls) == 4


def test_run_on_a_copy_leaves_it_as_it_was_after_an_error() -> None:
    model = conv4()
    fused, twin = fuse(model, batch_norm="as_written"), copy.deepcopy(model)
    with pytest.raises(RuntimeError):
        fused.run_on(twin, images(4, 2, 40, 40))
    assert not any("forward" in vars(module) for module in twin.modules())


def test_copies_keep_the_policy() -> None:
    fused = fuse(conv4(), batch_norm="as_written")
    assert copy.deepcopy(fused).report == fused.report
    assert fuse(fused, batch_norm="batch").report.batch_norm == "batch"
