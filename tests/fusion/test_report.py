"""What fuse() says and refuses: batch norm policies, the report, bad input."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from fuse_nets import Conv4Plain, Residual, layers
from torch import Tensor, nn

from maml_fast.fusion import fuse
from maml_fast.models import Conv4, TutorialNet
from maml_fast.nn import BatchStatNorm2d

pytestmark = pytest.mark.backendless


def images(*shape: int) -> Tensor:
    return torch.randn(shape or (4, 2, 9, 9), dtype=torch.float64)


def block(**options: object) -> nn.Sequential:
    return nn.Sequential(*layers("CBRP", **options)).double()


# --- policy


@pytest.mark.parametrize("build", [Conv4Plain, Residual])
def test_running_statistics_if_asked_for(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = build().double(), images(4, 2, 17, 17)
    for _ in range(3):
        model(2 * images(4, 2, 17, 17) + 1)
    before = copy.deepcopy(model.state_dict())
    fused = fuse(model, batch_norm="running")
    assert "the running statistics" in str(fused.report)
    expected = copy.deepcopy(model).eval()(x)
    for mode in (True, False):
        torch.testing.assert_close(fused.train(mode)(x), expected)
        assert fused.report.fused == ()
    for name, value in fused.state_dict().items():
        assert torch.equal(value, before[name])


def test_running_statistics_of_functional_batch_norm() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(self.conv(x), self.bn.running_mean, self.bn.running_var, training=True)

    model, x = Net().double(), images()
    fused = fuse(model, batch_norm="running")
    torch.testing.assert_close(fused(x), model.conv(x) / (1 + 1e-5) ** 0.5)
    assert torch.equal(model.bn.running_mean, torch.zeros(3, dtype=torch.float64))


# --- what is left, and why


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def hooked(model: nn.Sequential, where: int) -> nn.Sequential:
    model[where].register_forward_hook(lambda module, args, output: output + 1)
    return model


class SeenBetween(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y).relu() + y


class TwoOutputs(SeenBetween):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return y, self.bn(y).relu()


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (block(groups=1, dilation=2), "0.weight: dilated convolution (dilation [2, 2])"),
        (block(kernel_size=7), "0.weight: convolution with kernel 7x7; 1x1, 3x3 and 5x5 can be fused"),
        (block(kernel_size=(3, 1)), "0.weight: convolution with kernel 3x1; 1x1, 3x3 and 5x5 can be fused"),
        (block(stride=4), "0.weight: convolution with stride [4, 4]; 1, 2 and 3 can be fused"),
        (block(padding=(1, 0)), "0.weight: convolution with padding [1, 0]; only equal paddings can be fused"),
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2)).double(), "0.weight: convolution in 2 groups"),
        (nn.Sequential(*layers("CPBR")).double(), "0.weight: max-pool comes before batch norm"),
        (nn.Sequential(*layers("CB")).double(), "0.weight: no ReLU follows its batch norm"),
        (nn.Sequential(*layers("CR")).double(), "0.weight: no batch norm on the batch's statistics follows"),
        (hooked(block(), 0), "0.weight: no batch norm on the batch's statistics follows"),
        (Residual().double(), "conv2.weight: no ReLU follows its batch norm"),
        (SeenBetween().double(), "conv.weight: its output is used more than once"),
        (TwoOutputs().double(), "forward: forward returns a tuple"),
    ],
)  # fmt: skip
def test_report_says_why(model: nn.Module, line: str) -> None:
    fused, x = fuse(model), images()
    assert (fused.report.fused, fused.report.left) == ((), ())
    torch.testing.assert_close(fused(x), model(x))
    assert line in fused.report.left
    assert f"\n  {line}" in str(fused.report)


def test_batch_norm_of_the_users_own_decides_for_itself() -> None:
    model, x = nn.Sequential(OwnNorm(2)).double(), images()
    fused = fuse(model)
    torch.testing.assert_close(fused(x), 2 * x)


@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_hooks_of_layers_run(where: int) -> None:
    model, x = hooked(block(), where), images()
    fused = fuse(model)
    torch.testing.assert_close(fused(x), model(x))
    assert len(fused.report.fused) == (where >= 2)  # after ReLU the block goes on without its pool


def test_hooks_of_blocks_run_around_fused_blocks() -> None:
    model, x = nn.Sequential(block(), block(cin=3)), images(4, 2, 17, 17)
    hooked(model, 0).register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    fused = fuse(model)
    torch.testing.assert_close(fused(x), model(x))
    assert len(fused.report.fused) == 2


def test_report_of_the_library_models() -> None:
    def lines(model: nn.Module) -> tuple[str, ...]:
        fused = fuse(model)
        fused(torch.rand(2, 1, 28, 28))
        return fused.report.fused

    assert lines(Conv4(hidden=8))[:2] == (
        "features.0.conv.weight: conv 1->8 k3 s1 p1 + BN + ReLU + pool2",
        "features.1.conv.weight: conv 8->8 k3 s1 p1 + BN + ReLU + pool2",
    )
    assert lines(Conv4(strided=True))[3] == "features.3.conv.weight: conv 64->64 k3 s2 p1 + BN + ReLU"
    assert lines(TutorialNet())[2:] == (
        "features.2.conv.weight: conv 64->64 k3 s2 p2 + BN + ReLU + pool2",
        "features.3.conv.weight: conv 64->64 k3 s2 p2 + ReLU + BN + pool2",
    )


def test_report_is_of_the_last_call() -> None:
    fused = fuse(block(), batch_norm="as_written")
    assert "fused: nothing" in str(fused.report)
    for mode in (True, False, True):
        fused.train(mode)(images())
        assert len(fused.report.fused) == mode
    fused(input=images())
    assert fused.report.fused == ()
    assert "batch_norm='as_written'" in repr(fused)


def test_fx_graph_module_is_fused() -> None:
    model, x = block(), images()
    fused = fuse(torch.fx.symbolic_trace(model))
    torch.testing.assert_close(fused(x), model(x))
    assert len(fused.report.fused) == 1


# --- bad input


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (Conv4, {}, TypeError, r"model must be an nn.Module, got the class Conv4; pass an instance, Conv4\(\.\.\.\)"),
        (torch.relu, {}, TypeError, "model must be an nn.Module, got <built-in method relu"),
        (None, {}, TypeError, "model must be an nn.Module, got None"),
        (
            nn.ReLU(),
            {"batch_norm": "eval"},
            ValueError,
            "must be 'batch', 'running' or 'as_written', got 'eval'",
        ),
        (
            nn.ReLU(),
            {"batch_norm": None},
            ValueError,
            "must be 'batch', 'running' or 'as_written', got None",
        ),
        (Conv4(), {"batch_norm": "running"}, ValueError, r"features.0.norm keeps none .*use batch_norm='batch'"),
        (nn.Sequential(nn.LazyConv2d(3, 3)), {}, ValueError, "0.weight has no shape yet; run the model once"),
        (
            nn.Sequential(fuse(nn.ReLU())),
            {"batch_norm": "running"},
            ValueError,
            "0 is a FusedModel with .*'batch'; put",
        ),
        (torch.compile(nn.ReLU(), backend="eager"), {}, TypeError, "OptimizedModule.*before torch.compile"),
    ],
)
def test_bad_input(model: object, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fuse(model, **options)


def test_scripted_module_is_refused() -> None:
    with pytest.deprecated_call():
        scripted = torch.jit.script(nn.ReLU())
    with pytest.raises(TypeError, match=r"1 is a RecursiveScriptModule.*before torch.jit"):
        fuse(nn.Sequential(nn.ReLU(), scripted))


@pytest.mark.parametrize("shape", [(2, 9, 9), (2, 4, 2, 9, 9)])
def test_images_of_another_rank_are_refused_as_torch_does(shape: tuple[int, ...]) -> None:
    model = block()
    for each in (model, fuse(model)):
        with pytest.raises((ValueError, RuntimeError), match=r"xpected (3D .* or )?4D .*input"):
            each(images(*shape))


def test_batch_norm_of_another_rank_is_refused() -> None:
    for policy in ("batch", "running"):
        with pytest.raises(ValueError, match=r"expected 2D or 3D input \(got 4D input\)"):
            fuse(nn.Sequential(nn.BatchNorm1d(2)), batch_norm=policy)(images())
    with pytest.raises(ValueError, match=r"batch norm expected 4-D input, got .*\[4, 2, 9\]"):
        BatchStatNorm2d(2)(images(4, 2, 9))
