from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast.models import MLP, Conv4, ResNet12, TutorialNet


def randomized(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1, 0.3)
    return model.double()


def normalized(x: Tensor, gamma: Tensor | None, beta: Tensor, eps: float) -> Tensor:
    gamma = torch.ones_like(beta) if gamma is None else gamma
    return F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)


def finn(p: dict[str, Tensor], x: Tensor, *, strided: bool, eps: float) -> Tensor:
    """Conv4 in both forms, after the description in its docstring."""
    for i in range(4):
        at = f"features.{i}."
        x = F.conv2d(x, p[at + "conv.weight"], p[at + "conv.bias"], stride=2 if strided else 1, padding=1)
        x = normalized(x, p.get(at + "norm.weight"), p[at + "norm.bias"], eps).relu()
        x = x if strided else F.max_pool2d(x, 2, 2)
    x = x.mean(dim=(-1, -2)) if strided else x.reshape(len(x), -1)
    return x @ p["classifier.weight"].T + p["classifier.bias"]


def tutorial(p: list[Tensor], x: Tensor) -> Tensor:
    """The tutorial's network on its 18 parameters in order."""
    for i in range(4):
        conv, bias, gamma, beta = p[4 * i : 4 * i + 4]
        x = F.conv2d(x, conv, bias, stride=2, padding=2)
        x = F.max_pool2d(normalized(x.relu() if i == 3 else x, gamma, beta, 1e-5), 2)
        x = x if i == 3 else x.relu()
    return x.flatten(1) @ p[16].T + p[17]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("options", "strided", "eps"),
    [
        ({}, False, 1e-5),
        ({"gamma": False, "eps": 0.1}, False, 0.1),
        ({"strided": True}, True, 1e-3),
        ({"strided": True, "gamma": True, "eps": 1e-5}, True, 1e-5),
        ({"image_size": 21, "in_channels": 3, "hidden": 5, "n_way": 7}, False, 1e-5),
        ({"image_size": 9, "strided": True}, True, 1e-3),
    ],
    ids=str,
)
def test_conv4_computes_what_it_says(options: dict[str, object], strided: bool, eps: float, training: bool) -> None:
    torch.manual_seed(0)
    model = randomized(Conv4(**options)).train(training)
    x = torch.randn(6, options.get("in_channels", 1), *[options.get("image_size", 28)] * 2, dtype=torch.float64)
    expected = finn(dict(model.named_parameters()), x, strided=strided, eps=eps)
    assert expected.shape == (6, options.get("n_way", 5))
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def test_conv4_has_ordinary_names_and_shapes() -> None:
    expected = {}
    for i in range(4):
        expected[f"features.{i}.conv.weight"] = (64, 1 if i == 0 else 64, 3, 3)
        expected |= {f"features.{i}.{name}": (64,) for name in ("conv.bias", "norm.weight", "norm.bias")}
    expected |= {"classifier.weight": (5, 64), "classifier.bias": (5,)}
    assert {name: tuple(v.shape) for name, v in Conv4().state_dict().items()} == expected
    assert tuple(Conv4(image_size=84, in_channels=3, hidden=32).classifier.weight.shape) == (5, 800)
    without = [name for name in expected if not name.endswith("norm.weight")]
    assert list(Conv4(strided=True).state_dict()) == without
    assert list(Conv4(gamma=False).state_dict()) == without


def test_conv4_strided_halves_as_finn_s() -> None:
    x, sizes = torch.randn(2, 1, 28, 28), []
    for block in Conv4(strided=True).features:
        x = block(x)
        sizes.append(x.shape[-1])
    assert sizes == [14, 7, 4, 2]


def test_conv4_initial_values() -> None:
    torch.manual_seed(0)
    for strided in (False, True):
        model = Conv4(n_way=20, strided=strided).requires_grad_(False)
        for i, block in enumerate(model.features):
            bound = math.sqrt(6 / (9 * (1 if i == 0 else 64) + 9 * 64))
            peak = float(block.conv.weight.abs().max())
            assert 0.95 * bound < peak <= bound
            assert not block.conv.bias.any()
            assert not block.norm.bias.any()
        assert not model.classifier.bias.any()
        if strided:
            assert abs(float(model.classifier.weight.std()) - 1) < 0.1
        else:
            assert float(model.classifier.weight.abs().max()) <= math.sqrt(6 / (64 + 20))
            assert torch.equal(model.features[0].norm.weight, torch.ones(64))


def lee(p: dict[str, Tensor], x: Tensor) -> Tensor:
    """ResNet-12, after the description in its docstring."""

    def norm(x: Tensor, at: str) -> Tensor:
        return normalized(x, p[at + ".weight"], p[at + ".bias"], 1e-5)

    for b in range(4):
        z, at = x, f"blocks.{b}."
        for i in range(3):
            z = norm(F.conv2d(z, p[f"{at}convs.{i}.weight"], padding=1), f"{at}norms.{i}")
            z = z if i == 2 else torch.where(z > 0, z, 0.1 * z)
        z = z + norm(F.conv2d(x, p[at + "shortcut.0.weight"]), at + "shortcut.1")
        x = F.max_pool2d(torch.where(z > 0, z, 0.1 * z), 2)
    return x.mean(dim=(-1, -2)) @ p["classifier.weight"].T + p["classifier.bias"]


def test_resnet12_computes_what_it_says() -> None:
    torch.manual_seed(0)
    model = randomized(ResNet12(3, in_channels=2, widths=(3, 4, 5, 6), image_size=19))
    x = torch.randn(4, 2, 19, 19, dtype=torch.float64)
    torch.testing.assert_close(model(x), lee(dict(model.named_parameters()), x), rtol=1e-10, atol=1e-10)


def test_resnet12_has_the_widths_of_the_papers() -> None:
    model = ResNet12()
    assert [block.convs[2].weight.shape[0] for block in model.blocks] == [64, 160, 320, 640]
    assert model.classifier.weight.shape == (5, 640)
    assert ResNet12(None, widths=(2, 2, 2, 7), image_size=16)(torch.randn(3, 3, 16, 16)).shape == (3, 7)
    for conv in (model.blocks[3].convs[1], model.blocks[3].shortcut[0]):
        gain, fan_out = 2 / (1 + 0.1**2), conv.weight[:, 0].numel()
        assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(gain / fan_out), rel=0.02)


def test_resnet12_needs_images_that_can_be_halved_four_times() -> None:
    with pytest.raises(ValueError, match="image_size of at least 16, got 15"):
        ResNet12(image_size=15)


def test_tutorial_net_computes_what_it_says() -> None:
    torch.manual_seed(0)
    model = randomized(TutorialNet(n_way=3, in_channels=2))
    x = torch.randn(6, 2, 28, 28, dtype=torch.float64)
    expected = tutorial(list(model.parameters()), x)
    for training in (True, False):
        torch.testing.assert_close(model.train(training)(x), expected, rtol=1e-10, atol=1e-10)


def test_tutorial_net_has_its_parameters_in_its_order_drawn_as_there() -> None:
    torch.manual_seed(3)
    model = TutorialNet()
    torch.manual_seed(3)
    expected = []
    for cin in (1, 64, 64, 64):
        weight = torch.ones(64, cin, 3, 3)
        expected += [nn.init.kaiming_normal_(weight), torch.zeros(64), torch.ones(64), torch.zeros(64)]
    expected += [torch.ones(5, 64), torch.zeros(5)]
    for actual, wanted in zip(model.parameters(), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_mlp_computes_what_it_says() -> None:
    torch.manual_seed(0)
    for relu_output in (False, True):
        model = randomized(MLP((12, 7, 6, 5), relu_output=relu_output))
        p, x = list(model.parameters()), torch.randn(4, 3, 2, 2, dtype=torch.float64)
        y = x.flatten(1)
        for i in range(3):
            y = y @ p[2 * i].T + p[2 * i + 1]
            y = y.relu() if i < 2 or relu_output else y
        torch.testing.assert_close(model(x), y)
        assert bool((model(x) >= 0).all()) == relu_output


def test_mlp_is_drawn_as_in_the_tutorial() -> None:
    torch.manual_seed(3)
    model = MLP((10, 16, 2))
    torch.manual_seed(3)
    expected = [torch.randn(16, 10) * 0.01, torch.zeros(16), torch.randn(2, 16) * 0.01, torch.zeros(2)]
    for actual, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=0)
    assert list(model.state_dict()) == ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    assert not MLP((10, 2), init_std=0.0).layers[0].weight.any()


@pytest.mark.parametrize("build", [Conv4, TutorialNet, lambda: Conv4(strided=True), lambda: MLP((784, 8, 5))])
def test_reset_draws_the_initial_values_again(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(5)
    model = build()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(value.dtype == torch.float32 for value in state.values())
    randomized(model).float()
    torch.manual_seed(5)
    model.reset_parameters()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Conv4(0), ValueError, "n_way must be at least 1, got 0"),
        (lambda: Conv4(2.0), TypeError, "n_way must be an integer, got 2.0"),
        (lambda: Conv4(True), TypeError, "n_way must be an integer, got True"),
        (lambda: Conv4(in_channels=0), ValueError, "in_channels must be"),
        (lambda: Conv4(hidden=-3), ValueError, "hidden must be at least 1, got -3"),
        (lambda: Conv4(image_size="28"), TypeError, "image_size must be an integer, got '28'"),
        (lambda: Conv4(image_size=15), ValueError, "four 2x2 max-pools need an image_size of at least 16, got 15"),
        (lambda: Conv4(eps=0), ValueError, "eps must be finite and above 0, got 0"),
        (lambda: TutorialNet(-1), ValueError, "n_way must be"),
        (lambda: TutorialNet(5, None), TypeError, "in_channels must be an integer, got None"),
        (lambda: MLP((3,)), ValueError, r"sizes must name at least the input's and the output's features, got \(3,\)"),
        (lambda: MLP((3, 0, 2)), ValueError, r"sizes\[1\] must be at least 1, got 0"),
        (lambda: MLP((3, 2), init_std=-1), ValueError, "init_std must be finite and at least 0, got -1"),
        (lambda: MLP((3, 2), init_std=math.nan), ValueError, "init_std must be finite and at least 0, got nan"),
    ],
)
def test_bad_arguments(build: Callable[[], nn.Module], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize("shape", [(2, 1, 27, 28), (2, 3, 28, 28), (1, 28, 28), (4, 2, 1, 28, 28), (28,)])
@pytest.mark.parametrize("build", [Conv4, TutorialNet, lambda: Conv4(strided=True)])
def test_images_of_another_shape_are_refused(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"made for images \[B, 1, 28, 28\], got \[") as error:
        build()(torch.zeros(shape))
    assert str(list(shape)) in str(error.value)


def test_vectors_of_another_length_are_refused() -> None:
    for shape in [(2, 1, 2, 2), (784,), (2, 785), (0, 3)]:
        with pytest.raises(ValueError, match=r"made for inputs \[B, \.\.\.\] of 784 features each, got \["):
            MLP((784, 5))(torch.zeros(shape))
