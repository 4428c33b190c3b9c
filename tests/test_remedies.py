"""A remedy that is code runs as it is printed, and what it gives is right: nothing is wrapped, cut or blackened."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import make_episodes
from torch import Tensor, nn

from maml_fast import MAML, Episodes, ImageBank, data

pytestmark = pytest.mark.backendless

EPISODES = make_episodes(shape=(4,), dtype=torch.float32)
X_SPT, Y_SPT, X_QRY, Y_QRY = EPISODES


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        call()
    return str(caught.value)


def codes(message: str, pattern: str) -> list[str]:
    found = re.findall(pattern, message)
    assert found, message
    return found


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5))


INPUTS = {  # given, and what its remedies may give
    "bytes": ((X_SPT * 255).byte(), [(X_SPT * 255).byte() / 255.0, (X_SPT * 255).byte().long()]),
    "masks": (X_SPT > 0.5, [(X_SPT > 0.5).float()]),
    "short integers": ((X_SPT * 1000).short(), [(X_SPT * 1000).short().float(), (X_SPT * 1000).short().long()]),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_are_no_floats(name: str) -> None:
    x_spt, wanted = INPUTS[name]
    message = complaint(lambda: MAML(mlp())(EPISODES._replace(x_spt=x_spt)))
    found = [eval(code, {"x_spt": x_spt}) for code in codes(message, r"x_spt\.\w+\(\)(?: / 255)?")]
    assert len(found) == len(wanted)
    for actual, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(actual, expected)
        assert len(actual.unique()) == len(x_spt.unique())
        assert actual.dtype == torch.int64 or MAML(mlp())(EPISODES._replace(x_spt=actual)).loss.isfinite()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float64])
def test_labels_of_another_type(dtype: torch.dtype) -> None:
    y_spt = Y_SPT.to(dtype)
    message = complaint(lambda: MAML(mlp())(EPISODES._replace(y_spt=y_spt)))
    (code,) = codes(message, r"use (.*)$")
    assert torch.equal(eval(code, {"y_spt": y_spt}), Y_SPT)


def test_targets_that_are_no_classes_are_not_cut() -> None:
    targets = Episodes(X_SPT, X_SPT[..., 0] - 0.5, X_QRY, X_QRY[..., 0] - 0.5)
    message = complaint(lambda: MAML(mlp())(targets))
    assert "long" not in message
    (code,) = codes(message, r"as in (.*)$")

    def one_output(x: Tensor) -> Tensor:
        return x.mean(-1)

    model = nn.Linear(4, 4)
    model.register_forward_hook(lambda _, __, out: one_output(out))
    mended = eval(code, {"MAML": MAML, "model": model, "F": F})
    assert mended(targets).loss.isfinite()


def test_arrays() -> None:
    x_spt = X_SPT.numpy()
    message = complaint(lambda: MAML(mlp())(EPISODES._replace(x_spt=x_spt)))
    (code,) = codes(message, r"use (torch\.\w+)$")
    torch.testing.assert_close(eval(code)(x_spt), X_SPT)


@pytest.mark.parametrize(
    ("name", "give"),
    [("images", lambda images: ImageBank(images, np.array([0]), np.array([6]), ("a",)))],
)
def test_pixels_in_another_order(name: str, give: Callable[[np.ndarray], ImageBank]) -> None:
    pixels = np.arange(6 * 2 * 3 * 4, dtype=np.uint8).reshape(6, 2, 3, 4)
    turned = np.asfortranarray(pixels)
    (code,) = codes(complaint(lambda: give(turned)), r"pass (.*)$")
    np.testing.assert_array_equal(give(eval(code, {name: turned, "np": np})).images, pixels)


def test_a_file_in_fortran_order(tmp_path) -> None:
    pixels = np.arange(2 * 3 * 1 * 4 * 5, dtype=np.uint8).reshape(2, 3, 1, 4, 5)
    array = np.asfortranarray(pixels)
    np.save(tmp_path / "x.npy", array)
    (code,) = codes(complaint(lambda: ImageBank.from_npy(tmp_path / "x.npy")), r"save (np\..*) instead")
    np.save(tmp_path / "x.npy", eval(code, {"np": np, "array": array}))
    np.testing.assert_array_equal(ImageBank.from_npy(tmp_path / "x.npy")[1], pixels[1])


def test_students_with_too_few_answers() -> None:
    whole = data.simulate_students(6, 8, 2)
    few = data.AnswerLog(
        whole.student_names, whole.skill_names, whole.skills[:-6], whole.correct[:-6], np.minimum(whole.starts, 42)
    )
    message = complaint(lambda: data.StudentSampler(few, 4, 6, 2))
    (code,) = codes(message, r"use (log\..*)$")
    mended = eval(code, {"log": few})
    assert mended.n_students == 5
    assert data.StudentSampler(mended, 4, 6, 2).batch(0).x_spt.shape[0] == 2


def test_a_loss_that_depends_on_an_outer_graph() -> None:
    scale = torch.ones((), requires_grad=True)
    outside = scale * 2

    def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets) * outside

    maml = MAML(mlp(), inner_lr=0.1, loss_fn=loss_fn)
    (code,) = codes(complaint(lambda: maml(EPISODES)), r"or use (.*), which is the same loss")
    loss = eval(code, {"maml": maml, "episodes": EPISODES})
    loss.backward()
    assert scale.grad is not None
    assert scale.grad.isfinite()


@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("layer", [nn.Linear(4, 5), nn.Conv1d(2, 5, 4)], ids=["linear", "convolution"])
def test_weight_norm_in_plain_operations(layer: nn.Module, dim: int) -> None:
    model = nn.utils.parametrizations.weight_norm(copy.deepcopy(layer), dim=dim % layer.weight.dim()).double()
    maml = MAML(nn.Sequential(model, nn.Flatten()), inner_lr=0.1)
    maml(make_episodes(shape=layer.weight.shape[1:]))
    (code,) = codes(maml.describe(), r"order 2; (.*) in forward would be right\)")[:1]
    g, v = model.parametrizations.weight.original0, model.parametrizations.weight.original1
    torch.testing.assert_close(eval(code, {"g": g, "v": v}), model.weight)
