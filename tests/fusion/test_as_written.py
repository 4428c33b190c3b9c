"""fuse(batch_norm="as_written"): train() and eval() decide, and running statistics are PyTorch's, fused or not."""

from __future__ import annotations

import copy

import pytest
import torch
from fuse_nets import Conv4Plain, layers
from torch import Tensor, nn

from maml_fast.fusion import FusedModel, Runner, fuse


def images(*shape: int) -> Tensor:
    return torch.randn(shape or (4, 2, 17, 17), generator=torch.Generator().manual_seed(0)).double()


def conv4() -> Conv4Plain:
    torch.manual_seed(0)
    return Conv4Plain().double()


def with_twin(model: nn.Module) -> tuple[nn.Module, FusedModel]:
    """A copy to compare with, and the model's fused form."""
    return copy.deepcopy(model), fuse(model, batch_norm="as_written")


def assert_same_run(fused: FusedModel, plain: nn.Module, x: Tensor, n_fused: int) -> None:
    """Hold a fused model against another like its original: outputs, gradients and the buffers that are left."""
    actual, wanted = fused(x), plain(x)
    assert len(fused.report.fused) == n_fused, str(fused.report)
    torch.testing.assert_close(actual, wanted, rtol=1e-11, atol=1e-11)
    for (name, buffer), other in zip(fused.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    for each in (actual, wanted):
        each.sin().sum().backward()
    for parameter, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-9, atol=1e-9)


def test_training_is_fused_and_evaluation_is_not() -> None:
    model = conv4()
    plain, fused = with_twin(model)
    for _ in range(3):
        assert_same_run(fused, plain, images(), 4)
    assert model.encoder[0][1].num_batches_tracked == 3
    assert_same_run(fused.eval(), plain.eval(), images(), 0)
    assert_same_run(fused.train(), plain.train(), images(), 4)


def test_batch_norms_in_different_modes_are_fused_one_by_one() -> None:
    plain, fused = with_twin(conv4())
    for model in (fused, plain):
        model.encoder[1][1].eval()
    assert_same_run(fused, plain, images(), 3)


@pytest.mark.parametrize("relu_first", [False, True])
@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"momentum": 0.3}, {"affine": False}, {"eps": 0.1}], ids=str)
def test_running_statistics_of_any_momentum(options, relu_first: bool) -> None:
    model = nn.Sequential(*layers("CRB" if relu_first else "CBRP")).double()
    model[2 if relu_first else 1] = nn.BatchNorm2d(3, **options).double()
    plain, fused = with_twin(model)
    for seed in range(3):
        assert_same_run(fused, plain, images() + seed, 1)


def test_means_over_all_batches_run_as_written() -> None:
    model = nn.Sequential(*layers("CBR")).double()
    model[1].momentum = None
    plain, fused = with_twin(model)
    for seed in range(3):
        assert_same_run(fused, plain, images() + seed, 0)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_batch_norms_outside_of_blocks_keep_their_statistics_too(norm: type[nn.Module]) -> None:
    after = [nn.Flatten(), nn.Linear(192, 3), norm(3)] if norm is nn.BatchNorm1d else [norm(3), nn.Tanh()]
    plain, fused = with_twin(nn.Sequential(*layers("CBRP"), *after).double())
    for seed in range(3):
        assert_same_run(fused, plain, images() + seed, 1)


def test_a_layer_that_is_called_twice_moves_its_statistics_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.norm = nn.Sequential(*layers("CBR", cin=3)), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.block(self.norm(self.block(x)) + 1))

    plain, fused = with_twin(Twice().double())
    for seed in range(2):
        assert_same_run(fused, plain, images(4, 3, 9, 9) + seed, 2)


def test_a_count_that_was_taken_away() -> None:
    model = nn.Sequential(*layers("CBR")).double()
    model[1].num_batches_tracked = None
    plain, fused = with_twin(model)
    assert_same_run(fused, plain, images(), 1)


def test_layers_without_running_statistics_are_fused_in_both_modes() -> None:
    model = nn.Sequential(*layers("CBRP")).double()
    model[1] = nn.BatchNorm2d(3, track_running_stats=False).double()
    plain, fused = with_twin(model)
    for mode in (True, False):
        assert_same_run(fused.train(mode), plain.train(mode), images(), 1)


def test_statistics_kept_but_no_longer_tracked() -> None:
    model = nn.Sequential(*layers("CBRP")).double()
    model[1].running_mean.add_(3)
    model[1].track_running_stats = False
    plain, fused = with_twin(model)
    for mode in (True, False):
        assert_same_run(fused.train(mode), plain.train(mode), images(), int(mode))


class Averaging(nn.Module):
    """Buffers of its own: one that it reads after writing to it, one that it puts another in the place of."""

    def __init__(self, replaces: bool) -> None:
        super().__init__()
        self.block, self.replaces = nn.Sequential(*layers("CBR")), replaces
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        if self.replaces:
            self.calls = self.calls + 1
        else:
            self.calls += 1
        self.mean.mul_(0.5).add_(x.mean(dim=(0, 2, 3))[:1])
        return self.block(x) * self.calls + self.mean.view(3, 1, 1)


@pytest.mark.parametrize("replaces", [False, True])
def test_buffers_of_ones_own_are_written_to(replaces: bool) -> None:
    plain, fused = with_twin(Averaging(replaces).double())
    for seed in range(3):
        assert_same_run(fused, plain, images() + seed, int(not replaces))
    assert fused.calls == 3


def test_graphs_of_several_calls_go_back_later() -> None:
    """Whatever writes to running statistics meanwhile."""
    plain, fused = with_twin(conv4())
    for model in (plain, fused):
        evaluated = model.eval()(images())
        trained = model.train()(images())
        model(images() + 1)
        (evaluated + trained).sum().backward()
    for parameter, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-9, atol=1e-9)


def test_one_value_a_channel_is_refused_as_torch_does() -> None:
    model = nn.Sequential(*layers("CBR")).double()
    for module in (model, fuse(model, batch_norm="as_written")):
        with pytest.raises(ValueError, match=r"more than 1 value per channel"):
            module(images(1, 2, 1, 1))


def test_a_twin_runs_by_its_own_tensors_and_modes() -> None:
    model = conv4()
    runner, twin = Runner(model, "as_written"), copy.deepcopy(model)
    with torch.no_grad():
        twin.head.weight.mul_(2)
    before, plain = copy.deepcopy(model.state_dict()), copy.deepcopy(twin)
    for mode in (True, False, True):
        actual, wanted = runner(twin.train(mode), (images(),), {}), plain.train(mode)(images())
        torch.testing.assert_close(actual, wanted, rtol=1e-11, atol=1e-11)
        assert len(runner.report.fused) == (4 if mode else 0)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value)
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)


def test_a_twin_with_other_tied_parameters_runs_as_written() -> None:
    model = nn.Sequential(*layers("CBR", cin=3), *layers("CBR", cin=3)).double()
    twin, x = copy.deepcopy(model), images(4, 3, 9, 9)
    twin[3].weight = twin[0].weight
    runner = Runner(model, "batch")
    torch.testing.assert_close(runner(twin, (x,), {}), twin(x))
    assert runner.report.left == ("forward: its parameters are tied differently than in the model",)


def test_copies_keep_the_policy() -> None:
    fused = fuse(conv4(), batch_norm="as_written")
    assert copy.deepcopy(fused).report == fused.report
    assert fuse(fused, batch_norm="batch").report.batch_norm == "batch"
