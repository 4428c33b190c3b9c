"""The file of an adapted model: what was written is read, nothing in it is run, and damage is one clear error."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from maml_fast import MAML, deploy, models
from maml_fast.algorithms import ProtoNet
from maml_fast.deployment import Adapted, Preprocessing, open_adapted, save_adapted
from maml_fast.deployment._layers import build, describe

pytestmark = pytest.mark.backendless

NAMES = ("一", "b", "c, with a comma")
X, Y = torch.rand(6, 1, 16, 16), torch.arange(3).repeat(2)
SEEN = Preprocessing(16, "L", "inverted")

NETS = {
    "conv4": lambda: MAML(models.Conv4(5, hidden=4, image_size=16), inner_lr=0.4),
    "conv4-strided": lambda: MAML(models.Conv4(5, hidden=4, image_size=16, strided=True), inner_lr=0.4, head="zero"),
    "protonet": lambda: ProtoNet(models.Conv4(None, hidden=4, image_size=16)),
    "protonet, cosine": lambda: ProtoNet(models.Conv4(None, hidden=4, image_size=16), distance="cosine"),
}


def adapted(net: str = "conv4") -> Adapted:
    torch.manual_seed(0)
    return Adapted(deploy(NETS[net](), X, Y), NAMES, SEEN, {"right": 1, "judged": 2}, {"run": "r", "list": [1, None]})


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("adapted") / "model.pt"
    save_adapted(adapted(), path)
    return path


@pytest.mark.parametrize("net", NETS)
def test_what_was_written_is_read(net: str, tmp_path: Path) -> None:
    model = adapted(net)
    save_adapted(model, tmp_path / "model.pt")
    found = open_adapted(tmp_path / "model.pt")
    assert torch.equal(found.probabilities(X), model.probabilities(X))
    assert found.described() == model.described()
    assert repr(found.module) == repr(model.module)
    assert not found.module.training


def test_the_tutorials_network(tmp_path: Path) -> None:
    module = deploy(MAML(models.TutorialNet(3), inner_lr=0.1), torch.rand(3, 1, 28, 28), torch.arange(3))
    save_adapted(Adapted(module, NAMES, Preprocessing(28, "L", "raw"), {}, {}), tmp_path / "model.pt")
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(open_adapted(tmp_path / "model.pt").module(x), module(x))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def test_nothing_in_a_file_is_run(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = torch.load(written, weights_only=True)
    torch.save({**content, "provenance": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({**content, "provenance": Bomb()}))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(ValueError, match=rf"{name} can't be read: truncated, damaged or not an adapted model"):
            open_adapted(tmp_path / name)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated(written: Path, tmp_path: Path, share: float) -> None:
    content = written.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.pt can't be read: truncated, damaged"):
        open_adapted(tmp_path / "cut.pt")


def test_a_single_bit(written: Path, tmp_path: Path) -> None:
    """Wherever it is in the tensors: torch itself would not notice."""
    content = bytearray(written.read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(entry for entry in archive.namelist() if "/data/" in entry)
        place = content.index(archive.read(name))
    content[place + 3] ^= 1
    (tmp_path / "bit.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"has a wrong checksum|Bad CRC"):
        open_adapted(tmp_path / "bit.pt")


def without(content: dict, name: str) -> dict:
    return {key: value for key, value in content.items() if key != name}


def changed_tensor(content: dict, change) -> dict:
    tensors = dict(content["tensors"])
    tensors["classifier.weight"] = change(tensors["classifier.weight"])
    return {**content, "tensors": tensors}


def changed_layer(content: dict, **changes: Any) -> dict:
    layers = copy.deepcopy(content["layers"])
    layers["parts"]["classifier"].update(changes)
    return {**content, "layers": layers}


def nested(depth: int) -> dict:
    spec: dict = {"kind": "ReLU"}
    for _ in range(depth):
        spec = {"kind": "Sequential", "parts": {"0": spec}}
    return spec


DAMAGE = {
    "another kind": (lambda c: {**c, "kind": "checkpoint"}, "holds no adapted model"),
    "a list": (lambda c: [c], "holds no adapted model"),
    "a later format": (lambda c: {**c, "format": 2}, "is of format 2, and this maml_fast reads 1"),
    "no classes": (lambda c: without(c, "class_names"), r"is damaged .*; adapt again"),
    "a stranger": (lambda c: {**c, "more": 1}, "is damaged"),
    "one class fewer": (lambda c: {**c, "class_names": c["class_names"][:2]}, "2 classes, but outputs"),
    "a class twice": (lambda c: {**c, "class_names": ["a", "a", "b"]}, "all different"),
    "classes that are no text": (lambda c: {**c, "class_names": [1, 2, 3]}, "class_names.* must be a string"),
    "another size": (lambda c: {**c, "preprocessing": {**c["preprocessing"], "size": 64}}, "is damaged"),
    "another mode": (lambda c: {**c, "preprocessing": {**c["preprocessing"], "channels": "RGB"}}, "is damaged"),
    "a scale of no kind": (lambda c: {**c, "preprocessing": {**c["preprocessing"], "scale": "log"}}, "scale must be"),
    "no tensors": (lambda c: {**c, "tensors": None}, "it holds no tensors"),
    "a tensor fewer": (lambda c: {**c, "tensors": without(c["tensors"], "classifier.bias")}, "classifier.bias is miss"),
    "a tensor more": (lambda c: {**c, "tensors": {**c["tensors"], "x": torch.ones(1)}}, "is damaged"),
    "a shape": (lambda c: changed_tensor(c, lambda t: t[:2]), "size mismatch"),
    "a type": (lambda c: changed_tensor(c, lambda t: t.half()), "classifier.weight is missing, of another type"),
    "not a number": (lambda c: changed_tensor(c, lambda t: t * torch.nan), "not finite"),
    "no layers": (lambda c: {**c, "layers": None}, "must be described by its kind"),
    "a layer of no kind": (lambda c: changed_layer(c, kind="os.system"), "not a layer that a model may have"),
    "an argument too many": (lambda c: changed_layer(c, device="cuda"), "not a layer that a model may have"),
    "a size of no layer": (lambda c: changed_layer(c, out_features=10**12), "out_features must be from"),
    "layers without an end": (lambda c: {**c, "layers": nested(100)}, "is damaged|cannot be read"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_clear_error(what: str, written: Path, tmp_path: Path) -> None:
    damage, message = DAMAGE[what]
    torch.save(damage(torch.load(written, weights_only=True)), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message) as error:
        open_adapted(tmp_path / "model.pt")
    assert str(tmp_path / "model.pt") in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*maml-fast adapt writes one"):
        open_adapted(tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_adapted(tmp_path)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(1, 2, 3, dilation=2), nn.Conv2d(2, 2, 3, groups=2), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(0)],
)
def test_settings_that_a_file_has_no_name_for_are_refused(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match="settings that the file format can't store"):
        describe(nn.Sequential(layer))


def test_layers_that_a_file_has_no_name_for_are_refused() -> None:
    with pytest.raises(ValueError, match=r"net.1 is a GELU, which the file format can't store"):
        describe(nn.Sequential(OrderedDict(net=nn.Sequential(nn.ReLU(), nn.GELU()))))


def test_what_is_built_takes_no_memory_yet() -> None:
    spec = {"kind": "Linear", "in_features": 2**24, "out_features": 2**24, "bias": False}
    assert build(spec).weight.is_meta
