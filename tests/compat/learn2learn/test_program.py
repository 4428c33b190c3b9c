"""Programs that import learn2learn, run with no line changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maml_fast.compat import learn2learn
from maml_fast.compat.learn2learn import _alias

PROGRAM = '''
import argparse
import random

import numpy as np
import torch
from torch import nn

import learn2learn as l2l
import learn2learn.nn.metalayers as ml
from learn2learn.algorithms.maml import MAML, maml_update
from learn2learn.data.transforms import ConsecutiveLabels, KShots, LoadData, NWays, RemapLabels

import beside


class Own(MAML):
    """A learner with a clone() of its own."""

    def clone(self, first_order=None):
        return Own(l2l.clone_module(self.module), lr=self.lr, first_order=bool(first_order))


def accuracy(predictions, targets):
    return (predictions.argmax(dim=1).view(targets.shape) == targets).sum().float() / targets.size(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ways", type=int, default=5)
    args = parser.parse_args()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    images = torch.utils.data.TensorDataset(torch.rand(60, 3, 16, 16), torch.arange(60) % 6)
    dataset = l2l.data.MetaDataset(images)
    transforms = [
        NWays(dataset, args.ways),
        KShots(dataset, 4),
        LoadData(dataset),
        RemapLabels(dataset),
        ConsecutiveLabels(dataset),
    ]
    tasks = l2l.data.Taskset(dataset, task_transforms=transforms, num_tasks=20)
    model = l2l.vision.models.CNN4(output_size=args.ways, hidden_size=4, embedding_size=4)
    maml = Own(model, lr=0.1)
    optimizer = torch.optim.Adam(maml.parameters(), 0.01)
    loss = nn.CrossEntropyLoss()
    for iteration in range(3):
        optimizer.zero_grad()
        for _ in range(2):
            learner = maml.clone()
            data, labels = tasks.sample()
            adapting = np.zeros(len(data), dtype=bool)
            adapting[np.arange(2 * args.ways) * 2] = True
            for _ in range(2):
                learner.adapt(loss(learner(data[adapting]), labels[adapting]))
            error = loss(learner(data[~adapting]), labels[~adapting])
            error.backward()
        for p in maml.parameters():
            p.grad.data.mul_(0.5)
        optimizer.step()
    print(l2l.__name__, MAML is l2l.algorithms.MAML, len(maml.fusion.fused), beside.VALUE, error.item() > 0)
'''


def run(*arguments, cwd):
    command = [sys.executable, "-m", "maml_fast.compat.learn2learn", *arguments]
    path = str(Path(learn2learn.__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.backendless
def test_a_program_runs_as_it_is(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "program.py").write_text(PROGRAM)
    (tmp_path / "project" / "beside.py").write_text("VALUE = 'beside'\n")
    done = run("project/program.py", "--ways", "3", cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.split() == ["maml_fast.compat.learn2learn", "True", "4", "beside", "True"]
    assert done.returncode == 0


def test_the_command_line_is_checked(tmp_path, monkeypatch, capsys):
    from maml_fast.compat.learn2learn.__main__ import main

    for arguments, message in ((["absent.py"], "there is no program absent.py"), ([], "usage:"), (["-m"], "usage:")):
        monkeypatch.setattr(sys, "argv", ["l2l", *arguments])
        with pytest.raises(SystemExit, match=message):
            main()


@pytest.fixture
def alias(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    _alias.install_alias()
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "learn2learn"]:
        del sys.modules[name]


NAMES = {
    "learn2learn.algorithms": "GBML MAML MetaSGD maml_update meta_sgd_update",
    "learn2learn.algorithms.base_learner": "BaseLearner",
    "learn2learn.algorithms.maml": "MAML maml_update",
    "learn2learn.algorithms.meta_sgd": "MetaSGD meta_sgd_update",
    "learn2learn.algorithms.gbml": "GBML",
    "learn2learn.data": "MetaDataset UnionMetaDataset FilteredMetaDataset TaskDataset Taskset DataDescription "
    "OnDeviceDataset partition_task InfiniteIterator transforms",
    "learn2learn.data.meta_dataset": "MetaDataset",
    "learn2learn.data.task_dataset": "TaskDataset DataDescription",
    "learn2learn.data.samplers": "TasksetSampler",
    "learn2learn.data.transforms": "TaskTransform LoadData FilterLabels ConsecutiveLabels RemapLabels NWays KShots "
    "FusedNWaysKShots",
    "learn2learn.data.utils": "InfiniteIterator partition_task",
    "learn2learn.nn": "Lambda Flatten Scale freeze unfreeze KroneckerLinear PrototypicalClassifier MetaModule",
    "learn2learn.nn.misc": "Lambda Flatten Scale freeze unfreeze",
    "learn2learn.nn.metalayers": "MetaModule ParameterTransform",
    "learn2learn.optim": "LearnableOptimizer ParameterUpdate DifferentiableSGD ModuleTransform KroneckerTransform "
    "MetaCurvatureTransform",
    "learn2learn.optim.transforms": "ModuleTransform KroneckerTransform MetaCurvatureTransform TransformDictionary",
    "learn2learn.optim.update_rules.differentiable_sgd": "DifferentiableSGD",
    "learn2learn.utils": "clone_module update_module detach_module clone_parameters clone_named_parameters accuracy "
    "magic_box clone_distribution detach_distribution flatten_config",
    "learn2learn.vision": "datasets models transforms benchmarks",
    "learn2learn.vision.benchmarks": "list_tasksets get_tasksets",
    "learn2learn.vision.datasets": "FullOmniglot MiniImagenet TieredImagenet CIFARFS FC100",
    "learn2learn.vision.datasets.mini_imagenet": "MiniImagenet",
    "learn2learn.vision.models": "CNN4 CNN4Backbone ConvBase ConvBlock MiniImagenetCNN OmniglotCNN OmniglotFC "
    "ResNet12 ResNet12Backbone WRN28 WRN28Backbone fc_init_ maml_init_",
    "learn2learn.vision.models.cnn4": "CNN4 maml_init_ fc_init_",
    "learn2learn.vision.transforms": "RandomClassRotation",
}


@pytest.mark.parametrize("module", NAMES)
def test_dotted_names_work_under_both_names(alias, module):
    for name in NAMES[module].split():
        scope = {}
        exec(f"from {module} import {name} as a; from maml_fast.compat.{module} import {name} as b", scope)
        assert scope["a"] is scope["b"], name
    assert sys.modules[module].__spec__.name == f"maml_fast.compat.{module}"


OUT = {
    "import learn2learn.gym": "no gym: reinforcement learning is out; algorithms, data, nn, optim, utils and vision",
    "from learn2learn.gym.envs import Particles2D": "no gym: reinforcement learning is out",
    "from learn2learn import text": "no text: text data sets are out; wrap a torch Dataset",
    "from learn2learn.algorithms import LightningMAML": "LightningMAML: PyTorch Lightning is out; write the loop over",
    "from learn2learn.utils.lightning import EpisodicBatcher": "utils.lightning: PyTorch Lightning is out",
    "import learn2learn.absent": r"compat.learn2learn has no absent: it has MAML, .*vision",
    "import learn2learn; learn2learn.gym": "no gym: reinforcement learning is out",
}


@pytest.mark.parametrize("statement", OUT)
def test_what_is_out_says_so_and_what_remains(alias, statement):
    with pytest.raises(ImportError, match=OUT[statement]):
        exec(statement, {})


def test_the_alias_comes_first(alias, monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn", pytest)
    with pytest.raises(RuntimeError, match="learn2learn has been imported already; install the alias first"):
        _alias.install_alias()
