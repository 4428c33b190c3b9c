"""Networks as users write them: the material of fuse_zoo."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layers(order: str, *, cin: int = 2, inplace: bool = False, **conv: object) -> list[nn.Module]:
    """Return the layers named by single letters: Conv, Batch norm, Relu, Pool."""
    made = {
        "C": lambda: nn.Conv2d(cin, 3, **{"kernel_size": 3, "padding": 1, **conv}),
        "B": lambda: nn.BatchNorm2d(3),
        "R": lambda: nn.ReLU(inplace=inplace),
        "P": lambda: nn.MaxPool2d(2),
    }
    return [made[letter]() for letter in order]


class Net(nn.Module):
    """conv and bn as modules; what happens to them is said by a function."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.how = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


class Conv4Plain(nn.Module):
    """The few-shot literature's network as it is commonly written."""

    def __init__(self, hidden: int = 3, n_way: int = 5) -> None:
        super().__init__()

        def block(cin: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(cin, hidden, 3, padding=1), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True), nn.MaxPool2d(2)
            )

        self.encoder = nn.Sequential(block(2), block(hidden), nn.Sequential(block(hidden), block(hidden)))
        self.head = nn.Linear(hidden, n_way)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        x = x.view(x.size(0), -1)
        return self.head(x)


class Functional(nn.Module):
    """All parameters in a list, all layers as functions: the style of MAML repositories before torch.func."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [(3, 2, 3, 3), (3,), (3,), (3,), (3, 3, 3, 3), (3,), (3,), (3,), (5, 3), (5,)]
        self.vars = nn.ParameterList([nn.Parameter(torch.randn(shape) * 0.5) for shape in shapes])
        self.vars_bn = nn.ParameterList([nn.Parameter(torch.zeros(3), requires_grad=False) for _ in range(4)])

    def forward(self, x: Tensor, params: list[Tensor] | None = None, bn_training: bool = True) -> Tensor:
        if params is None:
            params = self.vars
        for i in (0, 1):
            weight, bias = params[4 * i], params[4 * i + 1]
            x = F.conv2d(x, weight, bias, stride=2, padding=2)
            weight, bias = params[4 * i + 2], params[4 * i + 3]
            mean, var = self.vars_bn[2 * i], self.vars_bn[2 * i + 1]
            x = F.batch_norm(x, mean, var, weight=weight, bias=bias, training=bn_training)
            x = F.max_pool2d(x, kernel_size=2)
            x = F.relu(x, inplace=[True])
        x = x.view(x.size(0), -1)
        return F.linear(x, params[8], params[9])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.shortcut = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return F.max_pool2d(torch.relu(y), 2)


class SharedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers("CBR", cin=3))
        self.alias = self.block

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, 0, 0, 1))
        return self.alias(self.block(x)) + self.block(x)


class ShapeDependent(nn.Module):
    """Control flow that the shape of the images decides."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers("CBRP"), *layers("CRBP", cin=3))
        self.extra = nn.ModuleList([nn.Sequential(*layers("CBR", cin=3))])
        self.last, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            x = x[None]
        x = self.features(x)
        if x.shape[-1] > 1:
            x = self.extra[0](x)
        return self.bn(self.last(x)).relu().mean(dim=(2, 3))


class DataDependent(ShapeDependent):
    """Control flow that no recording can hold."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.abs().max() > 0 else x + 1)


class Gated(nn.Module):
    """A part that may return its input itself."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return x if x.shape[0] > 100 else self.bn(self.conv(x))

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*layers("CBR"))
        self.gate = self.Gate()
        self.second = nn.Sequential(*layers("CBRP", cin=3))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.gate(self.first(x)))


class Pair(nn.Module):
    """Two inputs, one output."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Sequential(*layers("CBR")), nn.Sequential(*layers("CBR"))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left(a) - 2 * self.right(b)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Sequential(*layers("CBR")), nn.Sequential(*layers("CBR"))

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"sum": self.left(a) + self.right(b), "difference": self.left(b) - a.mean()}


class Subclasses(nn.Module):
    class PlainConv(nn.Conv2d):
        pass

    class StandardizedConv(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            w = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
            return F.conv2d(x, w, self.bias, self.stride, self.padding)

    class PlainNorm(nn.BatchNorm2d):
        pass

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Sequential(self.PlainConv(2, 3, 3, padding=1), self.PlainNorm(3), nn.ReLU())
        self.standardized = nn.Sequential(self.StandardizedConv(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.standardized(self.plain(x))


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([0.5, 2.0, 3.0]).view(3, 1, 1))
        self.block = nn.Sequential(*layers("CBR"))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) * (self.scale * 2)


class TensorOfItsOwn(Buffered):
    """A tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.tensor(0.25)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


class ListOfLayers(nn.Module):
    """Layers held a second time in a plain list, and a bound method kept as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        self.steps = [self.conv, self.bn, F.relu]
        self.finish = self._finish

    def _finish(self, x: Tensor) -> Tensor:
        return self.bn(x)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return self.finish(x)


class Sliced(nn.Module):
    """Parts of a Sequential, made anew at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers("CBRP"), *layers("CBR", cin=3))

    def forward(self, x: Tensor) -> Tensor:
        early = self.features[:4](x)
        for layer in self.features[4:]:
            x = layer(early if layer is self.features[4] else x)
        return torch.cat([early, x], dim=1)


class Meddler(nn.Module):
    """A forward that sets an attribute of one of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = nn.Sequential(*layers("CBRP")), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.last.seen = x
        return self.last(self.block(x))


def relu_in_place_discarded(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.relu_()
    return F.max_pool2d(m.bn(y), 2)


def training_read(m: Net, x: Tensor) -> Tensor:
    y = F.batch_norm(m.conv(x), m.bn.running_mean, m.bn.running_var, m.bn.weight, m.bn.bias, training=m.training)
    return F.relu(y) if m.training else F.relu(y, inplace=True)


def augmented_alias(m: Net, x: Tensor) -> Tensor:
    x = x * 1
    same = x
    x += 1
    return F.relu(m.bn(m.conv(same))) * x[:, :1]


def output_overwritten(m: Net, x: Tensor) -> Tensor:
    y = F.max_pool2d(F.relu(m.bn(m.conv(x))), 2)
    y.mul_(2)
    return y


def seen_between(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.bn(y).relu() + y


def view_between(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x)
    flat = y.flatten(1)
    y = F.relu(m.bn(F.relu_(y)))
    return y.flatten(1) + flat


def norm_as_its_own_scale(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x)
    return F.relu(F.batch_norm(y, None, None, y.mean(dim=(0, 2, 3)), m.bn.bias, training=True))


def computed_weight(m: Net, x: Tensor) -> Tensor:
    return F.relu(m.bn(F.conv2d(x, m.conv.weight * 2, m.conv.bias)))


def tensor_made(m: Net, x: Tensor) -> Tensor:
    return m.block(x) * torch.full((3, 1, 1), 2.0, dtype=x.dtype)


def tensor_frozen(m: Net, x: Tensor) -> Tensor:
    return m.block(x) * torch.ones(3, 1, 1)


def no_gradient(m: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = m.block(x)
    return m.other(x)


def attribute_set(m: Net, x: Tensor) -> Tensor:
    m.last = m.block(x)
    return m.last * 2


def tensor_checked(m: Net, x: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError("x must be a tensor")
    return F.relu(m.bn(m.conv(x)))


def computed_checked(m: Net, x: Tensor) -> Tensor:
    y = m.block(x)
    return y[0] if isinstance(y, tuple) else y


def attributes_first(m: Net, x: Tensor) -> Tensor:
    y = F.relu(m.bn(m.conv(x)))
    return torch.matmul(y.mT, y).add_(x.shape[1])


def torch_batch_norm(m: Net, x: Tensor) -> Tensor:
    y = torch.conv2d(x, m.conv.weight, None, padding=(1, 1))
    y = torch.batch_norm(y, m.bn.weight, m.bn.bias, m.bn.running_mean, m.bn.running_var, m.training, 0.1, 1e-5, False)
    return torch.max_pool2d(torch.relu_(y), 2)


def block() -> nn.Module:
    return nn.Sequential(*layers("CBR"))


def block3() -> nn.Module:
    return nn.Sequential(*layers("CBR", cin=3))


def standardized(conv: nn.Conv2d) -> nn.Module:
    class Centered(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight - weight.mean(dim=(1, 2, 3), keepdim=True)

    return nn.utils.parametrize.register_parametrization(conv, "weight", Centered())
