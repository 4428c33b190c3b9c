"""What fuse() promises beside equal numbers: training modes, unlike calls, sharing, copies."""

from __future__ import annotations

import copy
import pickle
import random
import threading

import pytest
import torch
import torch.nn.functional as F
from fuse_nets import Conv4Plain, Functional, Residual, SharedTwice, layers
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from maml_fast.fusion import FusedModel, fuse


def images(*shape: int) -> Tensor:
    return torch.randn(shape or (4, 2, 9, 9), dtype=torch.float64)


def block(**options: object) -> nn.Sequential:
    return nn.Sequential(*layers("CBRP", **options)).double()


class Restless(nn.Module):
    """A forward that depends on the training mode in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.dropout = block(), nn.Dropout(0.5)

    def forward(self, x: Tensor, scale: float = 1.0, extra: Tensor | None = None) -> Tensor:
        x = F.dropout(self.block(x), 0.5, self.training)
        x = self.dropout(x) * scale
        if self.training:
            x = x + 1
        return x if extra is None else x + extra


class Random(nn.Module):
    def __init__(self, draw: object) -> None:
        super().__init__()
        self.block, self.draw = block(), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) * self.draw()


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.calls = block(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.block(x) * self.calls


# --- modes and calls


def test_forward_follows_the_training_mode() -> None:
    torch.manual_seed(0)
    model, x = Restless(), images()
    fused = fuse(model)
    assert len(fused.report.fused) == 1
    plain = fuse(model.block)(x)
    torch.testing.assert_close(fused.eval()(x), plain)
    torch.manual_seed(1)
    dropped = fused.train()(x)
    torch.manual_seed(1)
    expected = F.dropout(F.dropout(plain, 0.5), 0.5) + 1
    torch.testing.assert_close(dropped, expected)
    fused.block.eval()  # a mixture of modes that was not recorded changes nothing here
    torch.manual_seed(1)
    torch.testing.assert_close(fused(x), expected)


def test_calls_unlike_the_recorded_one_are_right() -> None:
    model, x = Restless().eval(), images()
    fused = fuse(model)
    plain = fused(x)
    torch.testing.assert_close(fused(x=x), plain)
    torch.testing.assert_close(fused(x, 1.0, extra=None), plain)
    torch.testing.assert_close(fused(x, 3.0), 3 * plain)
    torch.testing.assert_close(fused(x, extra=plain), 2 * plain)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        fused()
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        fused(x, y=1)


@pytest.mark.parametrize(
    "draw",
    [random.random, lambda: torch.rand(()).item(), lambda: float(__import__("numpy").random.rand())],
    ids=["random", "torch", "numpy"],
)
def test_random_numbers_of_forward_are_not_frozen(draw: object) -> None:
    model = Random(draw)
    before = torch.get_rng_state()
    fused = fuse(model)
    assert torch.equal(torch.get_rng_state(), before)
    x = images()
    assert len(fused.report.fused) == 1
    assert "forward: could not be recorded (forward draws random numbers of its own)" in fused.report.left
    assert not torch.equal(fused(x), fused(x))


def test_what_forward_keeps_is_not_frozen() -> None:
    model, x = Counting(), images()
    fused = fuse(model)
    assert fused.report.left == ("forward: could not be recorded (forward sets self.calls)",)
    first = fused(x)
    torch.testing.assert_close(fused(x), 2 * first)
    assert model.calls == 0


def test_inputs_that_are_no_tensors_run_the_forward_as_written() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block()

        def forward(self, xs: list[Tensor] | Tensor) -> Tensor:
            return self.block(xs if isinstance(xs, Tensor) else torch.cat(xs))

    x = images()
    fused = fuse(Listed())
    assert len(fused.report.fused) == 1
    torch.testing.assert_close(fused([x[:2], x[2:]]), fused(x))


def test_input_overwritten_within_a_run() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            x.zero_()
            return self.bn(y).relu()

    model, x = Overwriting().double(), images()
    fused = fuse(model)
    assert len(fused.report.fused) == 1
    with torch.no_grad():  # autograd itself forbids it
        torch.testing.assert_close(fused(x.clone()), model(x.clone()))


# --- sharing


def test_parameters_and_buffers_stay_shared() -> None:
    model = Conv4Plain()
    fused, x = fuse(model), images(4, 2, 17, 17)
    model.double()
    assert fused(x).dtype == torch.float64
    fused.float()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.encoder[0][1].running_mean.dtype == torch.float32
    model.double().head.weight = nn.Parameter(torch.zeros(5, 3, dtype=torch.float64))
    torch.testing.assert_close(fused(x), model.head.bias.expand(4, 5))
    torch.optim.SGD(fused.parameters(), lr=1.0).zero_grad()
    fused(x).sum().backward()
    assert model.head.bias.grad is not None


def test_original_goes_on_as_ever() -> None:
    model, x = Conv4Plain().double(), images(4, 2, 17, 17)
    twin = copy.deepcopy(model)
    fused = fuse(model)
    fused.eval()
    fused(x)
    assert model.training
    torch.testing.assert_close(model(x), twin(x))
    assert torch.equal(model.encoder[0][1].running_mean, twin.encoder[0][1].running_mean)
    assert model.encoder[0][1].num_batches_tracked == 1
    assert "forward" not in vars(model.encoder[0][1])


def test_functional_call_leaves_a_module_with_two_names_as_it_was() -> None:
    model = SharedTwice().double()
    fused, x = fuse(model), images()
    doubled = {name: 2 * p.detach() for name, p in fused.named_parameters()}
    before = fused(x)
    functional_call(fused, doubled, (x,))
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
    assert torch.equal(fused(x), before)


def test_a_parameter_of_two_modules_stays_tied() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3)).double()
    model[3].weight = model[0].weight
    fused, x = fuse(model), images()
    params = {name: torch.rand_like(p) for name, p in fused.named_parameters()}
    actual = functional_call(fused, params, (x,))
    model.load_state_dict(params | {"3.weight": params["0.weight"]}, strict=False)
    torch.testing.assert_close(actual, model(x))


@pytest.mark.parametrize("build", [Conv4Plain, Residual, Functional, SharedTwice])
def test_vmap_over_tasks_equals_the_loop(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    size = 17 if build is Conv4Plain else 9
    models = [build().double() for _ in range(3)]
    fused, x = fuse(models[0]), images(3, 4, 2, size, size)
    params = {
        n: torch.stack([dict(m.named_parameters())[n].detach() for m in models]) for n, _ in fused.named_parameters()
    }

    def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(fused, p, (x,)).sin().mean()

    def step(p: dict[str, Tensor], x: Tensor) -> Tensor:
        g = grad(loss)(p, x)
        return loss({n: p[n] - g[n] for n in p}, x)

    def through(p: dict[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return loss(p, x), grad(step)(p, x)

    losses, gradients = vmap(through)(params, x)
    for t in range(3):
        one_loss, one_gradient = through({n: p[t] for n, p in params.items()}, x[t])
        torch.testing.assert_close(losses[t], one_loss)
        for name, value in one_gradient.items():
            torch.testing.assert_close(gradients[name][t], value, rtol=1e-8, atol=1e-10)


def test_second_order_through_unfused_batch_norm_is_right_under_vmap_of_grad() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)).double()
    fused = fuse(model)
    params, _ = stack_module_state([fused, fused])
    x = images(2, 5, 4)

    def step(p: dict[str, Tensor], x: Tensor) -> Tensor:
        def loss(p: dict[str, Tensor]) -> Tensor:
            return functional_call(fused, p, (x,)).pow(2).mean()

        g = grad(loss)(p)
        return loss({n: p[n] - 0.5 * g[n] for n in p})

    gradients = vmap(grad(step))({n: p.detach() for n, p in params.items()}, x)
    start = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    loss = functional_call(model, start, (x[0],)).pow(2).mean()
    inner = torch.autograd.grad(loss, list(start.values()), create_graph=True)
    fast = {n: p - 0.5 * g for (n, p), g in zip(start.items(), inner, strict=True)}
    expected = torch.autograd.grad(functional_call(model, fast, (x[0],)).pow(2).mean(), list(start.values()))
    for (name, actual), wanted in zip(gradients.items(), expected, strict=True):
        torch.testing.assert_close(actual[0], wanted, rtol=1e-8, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


# --- copies


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_independent_and_fused(copied: object) -> None:
    model, x = Conv4Plain().double(), images(4, 2, 17, 17)
    fused = fuse(model).eval()
    fused.head.train()
    twin = copied(fused)
    assert isinstance(twin, FusedModel)
    assert [m.training for m in twin.modules()] == [m.training for m in fused.modules()]
    assert twin.report == fused.report
    before = fused(x)
    torch.testing.assert_close(twin(x), before)
    with torch.no_grad():
        twin.head.weight.zero_()
    assert torch.equal(fused(x), before)


def test_a_copy_of_both_keeps_them_together() -> None:
    model = Conv4Plain()
    both = nn.ModuleList([model, fuse(model)])
    model, fused = copy.deepcopy(both)
    assert fused.original is model
    assert fused.head.weight is model.head.weight


def test_extra_state_is_part_of_the_state_dict() -> None:
    class Extra(nn.Linear):
        note = "written"

        def get_extra_state(self) -> str:
            return self.note

        def set_extra_state(self, state: str) -> None:
            self.note = state

    model = Extra(2, 2)
    fused = fuse(model)
    assert fused.state_dict()["_extra_state"] == "written"
    fused.load_state_dict(model.state_dict() | {"_extra_state": "read"})
    assert fused.state_dict()["_extra_state"] == "read"


def test_fusing_again() -> None:
    model = Conv4Plain()
    fused = fuse(model)
    assert fuse(fused) is fused
    assert fuse(fused, batch_norm="running").original is model


def test_parameters_in_plain_attributes_are_shared() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.groups = {"all": [list(model.parameters())]}
    root = fuse(model).__dict__["_root"]
    assert root.groups["all"] is not model.groups["all"]
    assert root.groups["all"][0][1] is model[0].bias


def test_attributes_that_cannot_be_copied_are_shared() -> None:
    model = block()
    model.lock, model.hidden = threading.Lock(), [nn.Linear(2, 2)]
    root = fuse(model).__dict__["_root"]
    assert root.lock is model.lock
    assert root.hidden[0] is model.hidden[0]
