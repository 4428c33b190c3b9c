"""Every operation that has a native form, in a net around it, against the plain loop; and what has none says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from native_against_loop import CLASSES, assert_native_is_right, episodes_of, outcome
from torch import Tensor, nn

from maml_fast import MAML, Episodes, use_engine

pytestmark = pytest.mark.native

Function = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A layer of vectors or images, something after it, and a linear head."""

    def __init__(self, first: nn.Module, between: nn.Module | Function, *shape: int) -> None:
        super().__init__()
        self.first, self.between = first, between
        with torch.no_grad():
            features = self.features(torch.randn(2, *shape)).shape[1]
        self.head = nn.Linear(features, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return self.between(self.first(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def around(between: nn.Module | Function, *shape: int) -> tuple[nn.Module, Episodes]:
    """A net around a function of vectors [N, 12], of series [N, 4, 9] or of images [N, 4, 6, 7]."""
    torch.manual_seed(0)
    first = {1: nn.Linear, 2: nn.Conv1d, 3: nn.Conv2d}[len(shape)]
    options = {} if len(shape) == 1 else {"kernel_size": 3, "padding": 1}
    net = Between(first(shape[0], 12 if len(shape) == 1 else 4, **options), between, *shape)
    return net.double(), episodes_of(*shape)


FUNCTIONS: dict[str, Function] = {
    "relu": torch.relu,
    "relu in place": nn.ReLU(inplace=True),
    "leaky_relu": nn.LeakyReLU(0.2),
    "elu": nn.ELU(0.7),
    "celu": nn.CELU(0.5),
    "selu": F.selu,
    "gelu": F.gelu,
    "tanh gelu": nn.GELU("tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": nn.Softplus(beta=2.0, threshold=1.0),
    "logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "sin": lambda x: torch.sin(3 * x + 1),
    "cos": torch.cos,
    "exp": lambda x: torch.exp(-x),
    "log": lambda x: torch.log(x * x + 1),
    "sqrt": lambda x: (x**2 + 0.1).sqrt(),
    "rsqrt": lambda x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5),
    "reciprocal": lambda x: 1 / (1 + x.square()),
    "division": lambda x: x / (1 + x.square().sum(1, keepdim=True)),
    "differences": lambda x: (2 - x) - x.mean(1, keepdim=True) + 0.5 * x,
    "product with itself": lambda x: x * x,
    "product of broadcasts": lambda x: x[:, :, None] * x[:, None, :],
    "gate": lambda x: x[:, :6] * torch.sigmoid(x[:, 6:]),
    "softmax": lambda x: F.softmax(x, dim=1),
    "log_softmax": lambda x: F.log_softmax(x, dim=0),
    "layer norm": lambda x: F.layer_norm(x, (12,)),
    "sum": lambda x: torch.cat([x, x.sum(1, keepdim=True)], 1),
    "views": lambda x: x.view(-1, 3, 4).transpose(1, 2).reshape(-1, 12)[:, ::2],
    "chunks": lambda x: torch.stack(x.chunk(3, dim=1)[::-1], dim=1).flatten(1),
    "repeat": lambda x: x.repeat(1, 2),
    "pad": lambda x: F.pad(x, (1, 2)),
    "diagonal": lambda x: (x[:, :, None] * x[:, None, :]).diagonal(dim1=1, dim2=2),
    "bmm": lambda x: torch.bmm(x.view(-1, 3, 4), x.view(-1, 4, 3)),
    "gram matrix": lambda x: x @ x.T @ x,
    "einsum": lambda x: torch.einsum("nij,nkj->nik", x.view(-1, 3, 4), x.view(-1, 3, 4)),
    "zeros": lambda x: torch.cat([x, torch.zeros(len(x), 2, dtype=x.dtype), torch.full_like(x[:, :1], 2.0)], 1),
    "squeeze": lambda x: x[:, None].squeeze(1) + x.unsqueeze(2).squeeze(),
}

IMAGES: dict[str, nn.Module | Function] = {
    "batch norm": nn.BatchNorm2d(4),
    "group norm": nn.GroupNorm(2, 4),
    "instance norm": nn.InstanceNorm2d(4, affine=True),
    "layer norm of images": nn.LayerNorm((4, 6, 7)),
    "max_pool2d": nn.MaxPool2d(2),
    "overlapping max_pool2d": nn.MaxPool2d(3, 2, 1),
    "ceil_mode": nn.MaxPool2d(2, ceil_mode=True),
    "dilated max_pool2d": nn.MaxPool2d(2, 1, dilation=2),
    "avg_pool2d": nn.AvgPool2d(2),
    "padded avg_pool2d": nn.AvgPool2d(3, 2, 1),
    "avg_pool2d of counts": nn.AvgPool2d(3, 2, 1, count_include_pad=False, ceil_mode=True),
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d((2, 3)),
    "mean": lambda x: x.mean((2, 3)),
    "mean of rows": lambda x: x.mean(2),
    "mean of channels": lambda x: x.mean(1),
    "strided conv": nn.Conv2d(4, 5, 3, stride=2),
    "rectangular conv": nn.Conv2d(4, 5, (1, 3), padding=(0, 1)),
    "dilated conv": nn.Conv2d(4, 5, 3, padding=2, dilation=2),
    "conv without bias": nn.Conv2d(4, 5, 2, bias=False),
    "1x1 conv": nn.Conv2d(4, 9, 1),
    "depthwise conv": nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "conv with the padding same": nn.Conv2d(4, 5, 3, padding="same"),
    "transposed conv": nn.ConvTranspose2d(4, 5, 2, stride=2),
    "conv block": nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
    "unfold": lambda x: F.unfold(x, (3, 2), dilation=(1, 2), padding=1, stride=2).transpose(1, 2),
    "patches of a vision transformer": nn.Unfold(2, stride=2),
    "residual": lambda x: torch.relu(x + 0.5 * torch.tanh(x)),
    "squeeze and excitation": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "channels in two halves": lambda x: torch.cat([x[:, 2:], x[:, :2].tanh()], 1),
    "pixels as a sequence": lambda x: F.softmax(x.flatten(2).transpose(1, 2) @ x.flatten(2), -1).mean(1),
}

SERIES: dict[str, nn.Module | Function] = {
    "conv1d": nn.Conv1d(4, 5, 5, stride=2, padding=2),
    "depthwise conv1d": nn.Conv1d(4, 4, 3, groups=4),
    "batch norm of series": nn.BatchNorm1d(4),
    "max_pool1d": nn.MaxPool1d(2),
    "avg over time": lambda x: x.mean(-1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_vectors(name: str) -> None:
    assert_native_is_right(*around(FUNCTIONS[name], 7))


@pytest.mark.parametrize("name", IMAGES)
def test_functions_of_images(name: str) -> None:
    assert_native_is_right(*around(IMAGES[name], 3, 6, 7))


@pytest.mark.parametrize("name", SERIES)
def test_functions_of_series(name: str) -> None:
    assert_native_is_right(*around(SERIES[name], 3, 9))


@pytest.mark.parametrize("vectors", [nn.BatchNorm1d(12), nn.LayerNorm(12), nn.GroupNorm(3, 12)], ids=str)
def test_norms_of_vectors(vectors: nn.Module) -> None:
    assert_native_is_right(*around(vectors, 7))


class Tied(nn.Module):
    """One weight as filters of a linear layer and, transposed, of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 7) / 3)
        self.scale = nn.Parameter(torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        return (F.linear(torch.tanh(F.linear(x, self.weight)), self.weight.T) * self.scale)[:, :CLASSES]


class Normalized(nn.Module):
    """A weight of length 1, computed in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.randn(CLASSES, 7)), nn.Parameter(torch.rand(CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.gain * self.weight / self.weight.square().sum(1, keepdim=True).sqrt())


class Words(nn.Module):
    """An embedding, whose padding has no gradient, and the mean over words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(11, 6, padding_idx=2), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).mean(1))


@pytest.mark.parametrize("build", [Tied, Normalized])
def test_weights_that_are_used_twice_or_computed(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    assert_native_is_right(build().double(), episodes_of(7))


def words() -> Episodes:
    labels = episodes_of(5)
    draw = torch.Generator().manual_seed(1)
    x_spt, x_qry = (torch.randint(11, x.shape, generator=draw) for x in (labels.x_spt, labels.x_qry))
    return Episodes(x_spt, labels.y_spt, x_qry, labels.y_qry)


def test_an_embedding_takes_indices_in_its_range_alone() -> None:
    torch.manual_seed(0)
    model, episodes = Words().double(), words()
    assert_native_is_right(model, episodes)
    episodes.x_qry[1, 0, 0] = 11
    with pytest.raises(IndexError, match="x_qry holds the index 11, but the model's table has 11 rows"):
        MAML(model, inner_lr=0.1, inner_steps=1)(episodes)


@pytest.mark.parametrize("adapted", ["first", "head", "between"])
def test_some_parameters_adapt(adapted: str) -> None:
    model, episodes = around(nn.BatchNorm2d(4), 3, 6, 7)
    names = [name for name, _ in model.named_parameters() if name.startswith(adapted)]
    assert_native_is_right(model, episodes, adapted=names)


def test_regression_on_values() -> None:
    model, episodes = nn.Sequential(nn.Linear(2, 9), nn.Tanh(), nn.Linear(9, 2)).double(), episodes_of(2, targets=(2,))
    assert_native_is_right(model, episodes, loss_fn=F.mse_loss)


def test_labels_of_pixels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ELU(), nn.Conv2d(8, CLASSES, 1)).double()
    images = episodes_of(3, 6, 7)
    labels = [torch.randint(CLASSES, (*x.shape[:2], 6, 7)) for x in (images.x_spt, images.x_qry)]
    labels[0][0, 0] = -100  # these don't count
    assert_native_is_right(model, Episodes(images.x_spt, labels[0], images.x_qry, labels[1]))


def test_all_options_of_the_loop() -> None:
    model, episodes = around(nn.BatchNorm2d(4), 3, 6, 7)
    assert_native_is_right(model, episodes, inner_steps=4, inner_memory=1)
    assert_native_is_right(model, episodes, inner_steps=3, learn_inner_lr="per_step")
    assert_native_is_right(model, episodes, task_chunk=1)
    assert_native_is_right(model, episodes, inner_steps=0)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    model, episodes = around(nn.GroupNorm(2, 4), 3, 6, 7)
    threads, bits = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            maml = MAML(model, inner_lr=0.1, inner_steps=2)
            with use_engine("native"):
                loss = maml(episodes).loss
            bits.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, bits[0]) for each in bits)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: torch.cumsum(x, 1), "cumsum"),
        (lambda x: x + x.detach(), "detach"),
        (lambda x: F.leaky_relu(x, -0.1), "negative slope"),
        (lambda x: x**3, "pow"),
    ],
)
def test_what_has_no_native_form_runs_as_before(function: Function, why: str) -> None:
    model, episodes = around(function, 7)
    with use_engine("native"), pytest.raises(RuntimeError, match=why):
        MAML(model, inner_lr=0.1, inner_steps=1)(episodes)
    assert MAML(model, inner_lr=0.1, inner_steps=1)(episodes).loss.isfinite()


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}, {"bias": False}], ids=str)
def test_onednns_lstm(options: dict[str, object]) -> None:
    """Which there is in float32 alone."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 5, batch_first=True, **options)
            self.head = nn.Linear(10 if "bidirectional" in options else 5, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    model, episodes = Last(), episodes_of(3, 4).to(torch.float32)
    ours, loops = (outcome(model, episodes, engine) for engine in ("native", "loop"))
    torch.testing.assert_close(ours, loops, rtol=1e-4, atol=1e-6)


def test_buffers() -> None:
    """Numbers of their own are read; whole ones have no native form, and the model runs as before."""

    class Shifted(nn.Module):
        def __init__(self, shift: Tensor) -> None:
            super().__init__()
            self.linear = nn.Linear(7, CLASSES)
            self.register_buffer("shift", shift)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x + self.shift)

    assert_native_is_right(Shifted(torch.randn(7)).double(), episodes_of(7))
    model = Shifted(torch.arange(7)).double()
    with use_engine("native"), pytest.raises(RuntimeError, match="shift holds integers"):
        MAML(model, inner_lr=0.1, inner_steps=1)(episodes_of(7))
    assert MAML(model, inner_lr=0.1, inner_steps=1)(episodes_of(7)).loss.isfinite()
