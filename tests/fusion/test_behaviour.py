"""What fuse() promises beside equal numbers: training modes, unlike calls, sharing, copies."""

from __future__ import annotations

import copy
import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from fuse_nets import Conv4Plain, Functional, Pair, Residual, SharedTwice, layers
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from maml_fast.fusion import FusedModel, fuse
from maml_fast.program import BatchNormMode
from maml_fast.program import _programs as programs


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
    plain = fuse(model.block)(x)
    torch.testing.assert_close(fused.eval()(x), plain)
    torch.manual_seed(1)
    dropped = fused.train()(x)
    torch.manual_seed(1)
    expected = F.dropout(F.dropout(plain, 0.5), 0.5) + 1
    torch.testing.assert_close(dropped, expected)
    fused.block.eval()  # any mixture of modes
    torch.manual_seed(1)
    torch.testing.assert_close(fused(x), expected)
    assert len(fused.report.fused) == 1


def test_training_modes_are_the_models() -> None:
    model = Restless()
    fused = fuse(model)
    assert fused.training
    assert not fused.eval().training
    assert not any(part.training for part in model.modules())
    model.train()
    assert fused.training
    fused.training = False
    assert not model.training
    assert model.block.training


def test_calls_with_other_arguments_run_as_written() -> None:
    model, x = Restless().eval(), images()
    fused = fuse(model)
    plain = fused(x)
    torch.testing.assert_close(fused(x=x), plain)
    torch.testing.assert_close(fused(x, 1.0, extra=None), plain)
    torch.testing.assert_close(fused(x, 3.0), 3 * plain)
    torch.testing.assert_close(fused(x, extra=plain), 2 * plain)
    torch.testing.assert_close(fused(x, torch.tensor(3.0)), 3 * plain)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        fused()
    assert fused.report.left == ("forward: called with arguments other than ordinary positional tensors",)
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        fused(x, y=1)


@pytest.mark.parametrize(
    "draw",
    [random.random, lambda: torch.rand(()).item(), lambda: float(__import__("numpy").random.rand())],
    ids=["random", "torch", "numpy"],
)
def test_random_numbers_of_forward_are_not_frozen(draw: object) -> None:
    fused, x = fuse(Random(draw)), images()
    assert not torch.equal(fused(x), fused(x))
    assert fused.report.fused == ()
    assert fused.report.left[0].startswith("forward: forward ")


def test_dropout_draws_what_it_draws_as_written() -> None:
    model, x = nn.Sequential(block(), nn.Dropout(0.5)), images()
    fused, outputs = fuse(model, batch_norm="as_written"), []
    for each in (fused, model, fused):
        torch.manual_seed(3)
        outputs.append(each(x))
    assert len(fused.report.fused) == 1
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[2], outputs[1])


def test_what_forward_keeps_is_not_frozen() -> None:
    model, x = Counting(), images()
    fused = fuse(model)
    first = fused(x)
    assert fused.report.left == ("forward: forward changes Python state",)
    torch.testing.assert_close(fused(x), 2 * first)
    assert model.calls == 2


def test_inputs_that_are_no_tensors_run_the_forward_as_written() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block()

        def forward(self, xs: list[Tensor] | Tensor) -> Tensor:
            return self.block(xs if isinstance(xs, Tensor) else torch.cat(xs))

    x = images()
    fused = fuse(Listed())
    torch.testing.assert_close(fused([x[:2], x[2:]]), fused(x))
    assert len(fused.report.fused) == 1


def test_one_tensor_given_twice() -> None:
    fused, a, b = fuse(Pair().double()), images(), images()
    same = fused(a, a)
    assert len(fused.report.fused) == 2
    torch.testing.assert_close(same, fuse(fused.original.left)(a) - 2 * fuse(fused.original.right)(a))
    torch.testing.assert_close(fused(a, b), fuse(fused.original.left)(a) - 2 * fuse(fused.original.right)(b))


def test_changes_of_the_model_are_followed() -> None:
    model, x = Restless().eval(), images()
    fused = fuse(model)
    before = fused(x)
    model.block[3] = nn.Identity()
    assert fused(x).shape[-1] == 9
    model.block[3] = nn.MaxPool2d(2)
    hook = model.register_forward_hook(lambda module, args, output: output * 2)
    torch.testing.assert_close(fused(x), 2 * before)
    hook.remove()
    model.block[1].eps = 3.0
    assert not torch.allclose(fused(x), before)
    assert len(fused.report.fused) == 1


def test_output_can_be_viewed_and_written_to() -> None:
    model, x = block(), images()
    y = fuse(model)(x)
    y.view(4, -1).mul_(2).sum().backward()
    torch.testing.assert_close(y, 2 * model(x))


def test_inputs_of_inference_mode_and_calls_without_gradients() -> None:
    model, x = block(), images()
    fused = fuse(model)
    with torch.inference_mode():
        given = x.clone()
        torch.testing.assert_close(fused(given), model(given))
    assert len(fused.report.fused) == 1
    with torch.no_grad():
        assert not fused(x).requires_grad
    assert fused(x).requires_grad
    with torch.inference_mode():
        made_there = fuse(block())
        made_there(x)
        assert len(made_there.report.fused) == 1


def test_inputs_get_their_gradient() -> None:
    model = block()
    gradients = []
    for each in (model, fuse(model)):
        x = torch.linspace(-1, 1, 648, dtype=torch.float64).view(4, 2, 9, 9).requires_grad_()
        gradients.append(torch.autograd.grad(each(x).sin().sum(), x)[0])
    torch.testing.assert_close(*gradients)


def test_many_kinds_of_inputs_run_as_written_in_the_end() -> None:
    fused = fuse(nn.Sequential(*layers("CBR", kernel_size=1, padding=0)).double())
    for side in range(2, 68):
        fused(images(1, 2, 1, side))
    assert fused.report.left == ("forward: it has been called with 64 kinds of inputs",)


@pytest.mark.parametrize("policy", ["batch", "as_written"])
def test_checkpoints_do_not_see_the_recording(policy: str) -> None:
    model, x = Conv4Plain().double(), images(4, 2, 17, 17)
    gradients = []
    for run in (lambda f: f(x), lambda f: checkpoint(f, x, use_reentrant=False)):
        fused = fuse(copy.deepcopy(model), batch_norm=policy)
        run(fused).sin().sum().backward()
        assert len(fused.report.fused) == 4
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in fused.parameters()]))
    torch.testing.assert_close(*gradients)


def test_other_modes_run_as_written() -> None:
    model, x = block(), images()
    fused = fuse(model)
    wanted = fused(x)
    with FlopCounterMode(display=False) as counter:
        torch.testing.assert_close(fused(x), wanted)
    assert counter.get_total_flops() == 2 * 4 * 3 * 81 * 18
    with BatchNormMode("running"):  # of somebody further out
        torch.testing.assert_close(fused(x), model.eval()(x))


def test_what_rounding_may_decide_is_compared_again(monkeypatch) -> None:
    answers = iter(["gradient", None, "gradient"])
    compare = programs.difference
    monkeypatch.setattr(programs, "difference", lambda *outcomes: next(answers, None) or compare(*outcomes))
    fused = fuse(block())
    fused(images())
    assert len(fused.report.fused) == 1
    monkeypatch.setattr(programs, "difference", lambda *outcomes: "logits")
    fused(images(4, 2, 7, 7))
    assert fused.report.left == ("forward: its recording gives different logits than the model itself",)


def test_threads_share_a_model() -> None:
    model, x = Conv4Plain().double(), images(4, 2, 17, 17)
    fused = fuse(model)
    wanted = fuse(copy.deepcopy(model))(x)
    with ThreadPoolExecutor(4) as threads:
        for output in threads.map(lambda _: fused(x), range(8)):
            torch.testing.assert_close(output, wanted)


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
    with torch.no_grad():  # autograd itself forbids it
        given = x.clone()
        torch.testing.assert_close(fuse(model)(given), model(x.clone()))
    assert not given.any()


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
    fused(x)
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


def test_attributes_that_cannot_be_copied_are_no_obstacle() -> None:
    model = block()
    model.lock, model.hidden = threading.Lock(), [nn.Linear(2, 2)]
    fused = fuse(model)
    fused(images())
    assert len(fused.report.fused) == 1


def test_a_fused_part_of_a_fused_model() -> None:
    inner = fuse(block())
    outer, x = fuse(nn.Sequential(inner, *layers("CBR", cin=3)).double()), images()
    for _ in range(2):
        inner(x)
        y = outer(x)
        assert len(inner.report.fused) == 1
        assert len(outer.report.fused) == 2
    torch.testing.assert_close(y, outer.original[1:](inner.original(x)))
