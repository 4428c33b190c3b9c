"""A net of the user's own trains by its class's place, in a module or a file, with a record, resume and evaluation."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import TINY, assert_same_run

from maml_fast.train import TrainConfig, evaluate_run, resume, train
from maml_fast.train._networks import make_model, title_of_network
from maml_fast.train._record import RunFolder

pytestmark = [pytest.mark.usefixtures("plain_pictures")]

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, n_way, in_channels=3, hidden=4, norm="batch", image_size=28):
        super().__init__()
        self.norm = {"batch": nn.BatchNorm2d, "none": nn.Identity}[norm](hidden)
        self.conv = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.fc = nn.Linear(hidden * (image_size // 4) ** 2, n_way)

    def forward(self, x):
        return self.fc(nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 4).flatten(1))

class Embedding(nn.Sequential):
    def __init__(self, n_way=None, in_channels=1):
        assert n_way is None
        super().__init__(nn.Conv2d(in_channels, 3, 3), nn.ReLU(), nn.Flatten())

class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(256, 7))

class Pair(Wide):
    def forward(self, x):
        return super().forward(x), x

def number():
    return 3

def small(n_way):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, n_way))
"""


@pytest.fixture
def nets(tmp_path, monkeypatch) -> Path:
    """A file of nets, which no other test's module shares a name with."""
    name = f"nets_of_{tmp_path.name}".replace("-", "_")
    file = tmp_path / "nets" / f"{name}.py"
    file.parent.mkdir()
    file.write_text(NETS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield file
    sys.modules.pop(name, None)


def own(model: object, **changes: object) -> TrainConfig:
    return replace(TINY, model=str(model), hidden=32, **changes)


def test_run_of_an_own_net_can_be_resumed_and_evaluated_elsewhere(nets, tmp_path, monkeypatch):
    monkeypatch.chdir(nets.parent)
    config = own(f"{nets.name}:Net", model_args={"hidden": 5, "norm": "batch"})
    assert config.model == f"{nets}:Net"
    assert title_of_network(config.model) == "Net"
    whole = train(config, out=tmp_path / "whole")
    train(replace(config, iterations=3), out=tmp_path / "part")
    monkeypatch.chdir(tmp_path)
    part = resume(tmp_path / "part", iterations=config.iterations)
    assert_same_run(part.path, whole.path)
    assert evaluate_run(part.path, n_episodes=5)["accuracy"] == whole.evaluation["accuracy"]
    arguments = RunFolder(part.path).read_config()["arguments"]
    assert (arguments["model"], arguments["model_args"]) == (f"{nets}:Net", {"hidden": 5, "norm": "batch"})


def test_a_class_is_found_in_a_module_of_the_folder_one_is_in(nets, monkeypatch):
    monkeypatch.chdir(nets.parent)
    model = make_model(own(f"{nets.stem}:Net", model_args={"norm": "none"}), (1, 16, 16))
    assert model.fc.weight.shape == (3, 4 * 16)
    assert model.conv.in_channels == 1
    assert model.training


def test_weights_follow_from_the_seed(nets):
    one, same, other = (make_model(own(f"{nets}:small", seed=seed), (1, 16, 16)) for seed in (3, 3, 4))
    assert torch.equal(one[1].weight, same[1].weight)
    assert not torch.equal(one[1].weight, other[1].weight)


def test_embeddings_for_prototypes(nets):
    config = TrainConfig(algorithm="protonet", model=f"{nets}:Embedding", dataset="random", n_way=3)
    assert make_model(config, (1, 16, 16))(torch.zeros(2, 1, 16, 16)).dim() == 2


def test_a_recipe_with_an_own_net_leaves_its_channels_out(nets):
    config = TrainConfig.for_recipe("finn2017-omniglot-5w1s", model=f"{nets}:small", root="data")
    assert config.hidden == 32
    assert TrainConfig.for_dataset("omniglot", model=f"{nets}:small", root="data").hidden == 32


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("conv5", {}, "model must be one of conv4, conv4-strided, resnet12, tutorial, or a class of your own"),
        (":Net", {}, "model must be one of"),
        ("FILE:no Net", {}, "model must be one of"),
        ("FILE:Net", {"hidden": 8}, "hidden 8 is for conv4; give it to .*Net by model_args"),
        ("conv4", {"model_args": {"hidden": 8}}, "model_args are for a class of your own; conv4 takes none"),
    ],
)
def test_bad_names(nets, model, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(own(model.replace("FILE", str(nets))), **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(3, "model_args must map names"), ({"a b": 1}, "model_args must map"), ({"x": {1, 2}}, "must hold what JSON can")],
)
def test_bad_arguments(nets, arguments, message):
    with pytest.raises(TypeError, match=message):
        own(f"{nets}:Net", model_args=arguments)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("no_such_module:Net", None, "import no_such_module raises ModuleNotFoundError.*or give file.py:Class"),
        ("FOLDER/missing.py:Net", None, "import missing raises ModuleNotFoundError"),
        ("FILE:Nett", None, "has no class Nett"),
        ("FILE:Net", {"depth": 3}, "raises TypeError.*depth.*; give its arguments by model_args"),
        ("FILE:number", None, "must make an nn.Module, got 3"),
        ("FILE:Wide", None, r"into logits \[2, 3\], got \[2, 7\]"),
        ("FILE:Pair", None, r"into logits \[2, 3\], got tuple"),
        ("FILE:Net", {"image_size": 99}, r"can't take images \[2, 1, 16, 16\]"),
    ],
)
def test_nets_that_do_not_fit(nets, model, arguments, message):
    config = own(model.replace("FILE", str(nets)).replace("FOLDER", str(nets.parent)), model_args=arguments)
    with pytest.raises(ValueError, match=message):
        make_model(config, (1, 16, 16))


def test_a_file_with_the_name_of_another_module(tmp_path):
    file = tmp_path / "json.py"
    file.write_text(NETS)
    with pytest.raises(ValueError, match=r"another module is called json .*; rename the file"):
        make_model(own(f"{file}:small"), (1, 16, 16))
