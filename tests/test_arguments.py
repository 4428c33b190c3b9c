"""What arguments may be: the kinds, and every public entry under arguments that are none of them."""

from __future__ import annotations

import argparse
import inspect
import pickle
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from small import conv_net, make_episodes
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import maml_fast as mf
from maml_fast import _arguments as arguments
from maml_fast import algorithms, compat, data, deployment, distributed, fusion, maml, models, ops, report, train
from maml_fast._arguments import (
    array,
    check_fields,
    choice,
    device,
    flag,
    function,
    instance,
    int_from,
    integer,
    location,
    many,
    nn_module,
    number,
    optional,
    shown,
    takes,
    tensor,
    tensor_or,
    text,
)
from maml_fast.compat import dragen1860, learn2learn, torchmeta

PACKAGE = str(Path(mf.__file__).parent)

TAKEN = {
    "int": (integer, 3, 3),
    "NumPy's int": (int_from(0), np.int64(3), 3),
    "NumPy's unsigned": (int_from(0, 2**64 - 1), np.uint64(2**64 - 1), 2**64 - 1),
    "array of one": (int_from(0), np.array(3), 3),
    "tensor of one": (int_from(0), torch.tensor(3), 3),
    "both ends": (many(int_from(1, 4)), [1, 4], (1, 4)),
    "float": (number(), -0.5, -0.5),
    "int as float": (number(least=0), 0, 0.0),
    "NumPy's float": (number(), np.float32(0.5), 0.5),
    "NumPy's int as float": (number(), np.int8(2), 2.0),
    "fraction": (number(above=0, below=1), Fraction(1, 4), 0.25),
    "flag": (flag, True, True),
    "NumPy's flag": (flag, np.bool_(False), False),
    "text": (text, "", ""),
    "NumPy's text": (text, np.str_("a"), "a"),
    "path": (location, "a/b", Path("a/b")),
    "PathLike": (location, Path("a"), Path("a")),
    "choice": (choice("a", "b"), "b", "b"),
    "NumPy's choice": (choice(1, 2), np.int64(2), 2),
    "device": (device, "cpu", torch.device("cpu")),
    "device itself": (device, torch.device("meta"), torch.device("meta")),
    "none": (optional(flag), None, None),
    "not none": (optional(int_from(0)), np.int8(1), 1),
    "tuple": (many(text), ("a", "b"), ("a", "b")),
    "generator": (many(int_from(0)), (i for i in range(3)), (0, 1, 2)),
    "array": (many(integer, length=2), np.arange(2), (0, 1)),
    "number or tensor": (tensor_or(number()), 1, 1.0),
    "class": (instance(Path), Path("a"), Path("a")),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_taken_comes_back_plain(case: str) -> None:
    kind, value, plain = TAKEN[case]
    found = kind("x", value)
    assert (type(found), found) == (type(plain), plain)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (tensor, torch.ones(2)),
        (tensor_or(number()), torch.ones(2)),
        (nn_module, nn.ReLU()),
        (array, np.ones(2)),
        (function(), len),
        (function(), nn.CrossEntropyLoss()),
        (instance(nn.Module), nn.ReLU()),
    ],
)
def test_objects_stay_what_they_are(kind: arguments.Kind, value: object) -> None:
    assert kind("x", value) is value


REFUSED = {
    "bool": (integer, True, TypeError, "x must be an integer, got True"),
    "NumPy's bool": (integer, np.bool_(True), TypeError, "x must be an integer, got .*True"),
    "float": (integer, 2.0, TypeError, "x must be an integer, got 2.0"),
    "text": (int_from(1), "1", TypeError, "x must be an integer, got '1'"),
    "array of several": (int_from(1), np.arange(2), TypeError, r"x must be an integer, got ndarray \[2\] of int64"),
    "tensor without values": (int_from(1), torch.empty((), dtype=torch.int64, device="meta"), TypeError, "got Tensor"),
    "too small": (int_from(1), 0, ValueError, "x must be at least 1, got 0"),
    "too large": (int_from(1), 10**30, ValueError, r"x must be from 1 to 2\*\*31 - 1, got 1000000000"),
    "larger than can be printed": (int_from(1), 10**10000, ValueError, r"x must be from 1 to 2\*\*31 - 1, got <"),
    "out of range": (int_from(1, 1_000_000), 0, ValueError, "x must be from 1 to 1,000,000, got 0"),
    "number as text": (number(), "1.0", TypeError, "x must be a number, got '1.0'"),
    "bool as number": (number(), False, TypeError, "x must be a number, got False"),
    "complex": (number(), 1j, TypeError, "x must be a number, got 1j"),
    "nan": (number(), float("nan"), ValueError, "x must be finite, got nan"),
    "infinite": (number(least=0), float("inf"), ValueError, "x must be finite and at least 0, got inf"),
    "beyond floats": (number(), 10**400, ValueError, "x must be finite, got 1000"),
    "negative": (number(least=0), -1, ValueError, "x must be finite and at least 0, got -1"),
    "at the bound": (number(above=0, below=1), 1, ValueError, "x must be finite, above 0 and below 1, got 1"),
    "flag as text": (flag, "false", TypeError, "x must be True or False, got 'false'"),
    "flag as number": (flag, 0, TypeError, "x must be True or False, got 0"),
    "flag as array": (flag, np.zeros(2), TypeError, r"x must be True or False, got ndarray \[2\] of float64"),
    "bytes": (text, b"x", TypeError, "x must be a string, got b'x'"),
    "no path": (location, 3, TypeError, "x must be a path, a string or os.PathLike, got 3"),
    "path of bytes": (location, b"x", TypeError, "x must be a path.* got b'x'"),
    "empty path": (location, "", ValueError, "x must be a path and not empty, got ''; '.' is the folder you are in"),
    "path with a zero": (location, "a\0b", ValueError, "x must be a path"),
    "choice": (choice("a", "b"), "c", ValueError, "x must be one of a, b; got 'c'"),
    "said choice": (choice(1, 2, said="1 or 2"), 3, ValueError, "x must be 1 or 2, got 3"),
    "choice of arrays": (choice("a"), np.array(["a", "a"]), ValueError, r"x must be one of a; got ndarray \[2\]"),
    "bool as choice": (choice(1, 2), True, ValueError, "x must be one of 1, 2; got True"),
    "unhashable choice": (choice("a"), ["a"], ValueError, r"x must be one of a; got \['a'\]"),
    "device": (device, "tpv", ValueError, "x must be a device such as 'cpu' or 'cuda:0', got 'tpv': "),
    "no device": (device, True, TypeError, "x must be a device .*got True"),
    "device number": (device, -1, ValueError, "x must be from 0 to 127, got -1"),
    "tensor": (tensor, [1.0], TypeError, r"x must be a torch tensor, got \[1.0\]; use torch.as_tensor"),
    "array": (array, [1.0], TypeError, r"x must be a NumPy array, got \[1.0\]; use np.asarray"),
    "class of modules": (nn_module, nn.ReLU, TypeError, r"must be an nn.Module, got the class ReLU; pass .* ReLU\("),
    "no module": (nn_module, len, TypeError, "x must be an nn.Module, got <built-in function len>"),
    "class as function": (function(), nn.ReLU, TypeError, r"must be a function, got the class ReLU; pass .* ReLU\("),
    "no function": (function("a loss"), 3, TypeError, "x must be a loss, got 3"),
    "instance": (instance(np.ndarray, "use it"), 3, TypeError, "x must be a ndarray, got 3; use it"),
    "not none": (optional(flag), 0, TypeError, "x must be True or False, got 0"),
    "one of many": (many(text), ["a", 1], TypeError, r"x\[1\] must be a string, got 1"),
    "text as many": (many(text), "ab", TypeError, "x must be a sequence, got 'ab'"),
    "tensor as many": (many(tensor), torch.ones(2), TypeError, r"x must be a sequence, got Tensor \[2\] of torch.f"),
    "set": (many(integer), {1}, TypeError, r"x must be a sequence, got \{1\}"),
    "table": (many(integer), np.ones((2, 2), int), TypeError, r"x must be a sequence, got ndarray \[2, 2\]"),
    "too many": (many(integer, length=2), (1, 2, 3), ValueError, r"x must have 2 entries, got \(1, 2, 3\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_and_shown(case: str) -> None:
    kind, value, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        kind("x", value)


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError


def test_values_are_shown_on_one_short_line() -> None:
    for value in (nn.Sequential(*[nn.Linear(2, 2)] * 50), "x" * 10**5, [[0] * 1000] * 1000, b"\n" * 1000, Mute()):
        line = shown(value)
        assert 0 < len(line) < 400
        assert "\n" not in line
    assert shown({"a": torch.ones(2, 3)}) == "{'a': Tensor [2, 3] of torch.float32}"


def add(a: int, b: float = 0.5, *, double: bool = False) -> float:
    """Add."""
    return (a + b) * (2 if double else 1)


checked_add = takes(a=int_from(0, 9), b=number(), double=flag)(add)


def test_a_function_takes_what_it_took_and_is_what_it_was() -> None:
    assert (checked_add.__name__, checked_add.__doc__) == ("add", "Add.")
    assert inspect.signature(checked_add) == inspect.signature(add)
    assert checked_add(np.int64(1)) == checked_add(a=1) == 1.5
    assert checked_add(1, 1, double=np.bool_(True)) == 4
    for call in (lambda: checked_add(10), lambda: checked_add(a=10), lambda: checked_add(1, b="1")):
        with pytest.raises((TypeError, ValueError), match=r"^[ab] must be"):
            call()
    for call, message in ((checked_add, "missing 1 required"), (lambda: checked_add(1, 2, True), "takes from 1 to 2")):
        with pytest.raises(TypeError, match=message):
            call()
    assert pickle.loads(pickle.dumps(ops.conv_block)) is ops.conv_block


def test_a_kind_of_no_parameter_is_a_slip() -> None:
    with pytest.raises(AssertionError, match="'c'"):
        takes(c=flag)(add)


def test_attributes_are_settled_in_frozen_objects_too() -> None:
    split = data.Split("s", {"train": ["a"], "test": np.array(["b"])})
    assert split.classes == {"train": ("a",), "test": ("b",)}
    check_fields(split, name=text)


def block(x: Tensor, weight: Tensor) -> Tensor:
    statistics = {"mean": torch.zeros(4), "variance": torch.ones(4)}
    out = ops.conv_block_by_statistics(x, weight, None, None, None, **statistics, stride=2)
    return ops.conv_block(x, weight, pool=None).sum() + out.sum()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by Dynamo itself
def test_transforms_of_torch_see_through_it() -> None:
    x, weight = torch.randn(2, 3, 2, 8, 8), torch.randn(2, 4, 2, 3, 3)
    expected = block(x, weight)
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="eager")(x, weight), expected)
    with mf.use_backend("reference"):
        torch.testing.assert_close(make_fx(block, tracing_mode="symbolic")(x, weight)(x, weight), expected)
    gradients = torch.func.vmap(torch.func.grad(block, argnums=1))(x[None], weight[None])
    assert gradients.shape == (1, *weight.shape)


# Every public entry, and arguments that it takes. What is named in IDLE is not called as it stands here.

EPISODES = make_episodes(2, 3, 2, shape=(1, 4, 4), dtype=torch.float32)._replace(
    y_spt=torch.arange(3).expand(2, -1), y_qry=torch.zeros(2, 2, dtype=torch.int64)
)
X, V = torch.randn(2, 3, 1, 4, 4), torch.randn(2, 2)
BLOCK = {"x": X, "weight": torch.randn(2, 2, 1, 3, 3), "bias": V, "gamma": V, "beta": V}
GEOMETRY = {"stride": 1, "padding": 1, "pool": 2, "eps": 1e-5, "relu_first": False}
BANK = data.make_noise(4, 6, (1, 4, 4))
LOG = data.simulate_students(4, 6, 2)
NOWHERE = Path("nowhere")
IMAGES = torch.rand(2, 1, 28, 28)
PIXELS = np.ones((1, 1, 1, 2, 2), np.uint8)


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def normed() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))


def linear() -> nn.Linear:
    return nn.Linear(3, 2)


NUMBERED = {"meta_batch_size": 2, "seed": 0, "start_episode": 0, "batches": 2, "stride": None}
AUGMENT = {"crop_padding": 1, "flip": False, "color_jitter": 0.5}
DRAWN = {"n_way": 2, "k_shot": 1, "k_query": 1, "prefetch": 0, "threads": None, "device": "cpu"}
TOLD = {"progress": None, "say": print}
FROM_A_RUN = {**TOLD, "format": "torch", "inner_steps": None, "judged": True}
OMNIGLOT = {"root": NOWHERE, "size": 28, "layout": data._omniglot.OMNIGLOT}
PICTURES = {"root": NOWHERE, "image_size": 8, "channels": "L"}
COLUMNS = {"student": "a", "skill": "b", "correct": "c", "order": "d"}
EVALUATED = {"n_episodes": 5, "inner_steps": None, "n_way": None, "split": "test", "seed": None}
SEEN = deployment.Preprocessing(28, "L", "unit")
ADAPTED = {"module": net(), "class_names": ("a", "b", "c"), "preprocessing": SEEN, "estimate": {}, "provenance": {}}
ALLOWED = {"allow_unused": None, "allow_nograd": False}
UPDATES = [torch.ones(2, 3), None]
LOOP = {"model": net(), "inner_lr": 0.1, "inner_steps": 1}
ANNEALED = {"first_order_iterations": 0, "multi_step_iterations": 0}
MAML = {
    **LOOP,
    **ANNEALED,
    "order": 2,
    "loss_fn": nn.functional.cross_entropy,
    "metric": "auto",
    "adapted": None,
    "learn_inner_lr": False,
    "batch_norm": "batch",
    "inner_optimizer": "sgd",
    "head": "learned",
    "fused": True,
    "task_chunk": "auto",
    "inner_memory": "auto",
    "cuda_graph": False,
}
DRAGEN1860 = {"update_lr": 0.1, "meta_lr": 0.1, "update_step": 1, "update_step_test": 1, "imgc": 1, "imgsz": 4}
DRAGEN1860 |= {"n_way": 2, "k_spt": 1, "k_qry": 1, "task_num": 2}
LAYERS = [("flatten", []), ("linear", [3, 16])]
TRANSFORMS = {"transform": None, "target_transform": None, "dataset_transform": None}
SPLITS_OF_TORCHMETA = {"meta_train": True, "meta_val": False, "meta_test": False, "meta_split": None}
IMAGE_TASKS = {"root": NOWHERE, "num_classes_per_task": 2, "class_augmentations": None, "download": False}
IMAGE_TASKS |= SPLITS_OF_TORCHMETA | TRANSFORMS
IMAGE_SHOTS = {"folder": NOWHERE, "shots": 1, "ways": 2, "shuffle": True, "test_shots": None, "seed": 0}
OF_QUERIES = {"test_embeddings": torch.randn(2, 4, 3), "num_classes": 3, "eps": 1e-8}
OF_SUPPORT = {"embeddings": torch.randn(2, 5, 3), "targets": torch.arange(5).remainder(3).repeat(2, 1)}
PER_CLASS = {f"num_{part}_per_class": None for part in ("train", "test", "support", "query", "samples")}
SPLITTING = {"num_train_per_class": 1, "task": None, "shuffle": True, "random_state_seed": 0}
TRAIN_AND_TEST = {f"train_{name}": each for name, each in OF_SUPPORT.items()}
TRAIN_AND_TEST["test_targets"] = torch.zeros(2, 4, dtype=torch.int64)
META = torchmeta.modules.MetaLinear(3, 2)
INNER_STEP = {"model": META, "loss": sum(each.sum() for each in META.parameters()), "first_order": False}
SHOTS = {"root": NOWHERE, "batchsz": 2, "n_way": 2, "k_shot": 1, "k_query": 1}
SPLIT = {"name": "s", "classes": {"train": ("class 0",), "test": ("class 1",)}}
SCALARS = {"gamma": True, "eps": 1e-5}
NORM = GEOMETRY | SCALARS

CALLS: dict[str, dict[str, Any]] = {
    "deploy": {"maml": mf.MAML(net()), "x_spt": EPISODES.x_spt[0], "y_spt": EPISODES.y_spt[0], "inner_steps": 1},
    "evaluate": {"maml": mf.MAML(net()), "sampler": [EPISODES], "n_episodes": 2, "inner_steps": 1, "batch_norm": "own"},
    "fuse": {"model": conv_net(), "batch_norm": "batch"},
    "use_backend": {"name": "reference"},
    "use_engine": {"name": "loop"},
    "ops.conv_block": {**BLOCK, **GEOMETRY},
    "ops.conv_block_with_statistics": {**BLOCK, **GEOMETRY},
    "ops.conv_block_by_statistics": {**BLOCK, **GEOMETRY, "mean": torch.zeros(2), "variance": torch.ones(2)},
    "ops.in_kernel_order": {"weight": BLOCK["weight"][0]},
    "ops.output_extent": {"extent": 5, "kernel": 3, "stride": 1, "padding": 1, "pool": 2},
    "ops.over_tasks": {"parameter": V, "n_tasks": 2},
    "nn.BatchStatNorm2d": {"num_features": 2, "affine": True, **SCALARS},
    "nn.ConvBlock": {"in_channels": 1, "out_channels": 2, "kernel_size": 3, "bias": True, "affine": True} | NORM,
    "nn.batch_stat_norm": {"x": X[0], "weight": torch.ones(1), "bias": torch.ones(1), "eps": 1e-5},
    "nn.conv_block": {name: each[0] for name, each in BLOCK.items()} | GEOMETRY,
    "models.ResNet12": {"n_way": 3, "in_channels": 3, "widths": (2, 2, 2, 2), "image_size": 16},
    "models.Conv4": {"n_way": 3, "in_channels": 1, "hidden": 2, "image_size": 28, "strided": False, **SCALARS},
    "models.LSTM": {"inputs": 2, "hidden": 2, "outputs": 1},
    "models.MLP": {"sizes": (2, 3), "init_std": 0.1, "relu_output": False},
    "models.TutorialNet": {"n_way": 3, "in_channels": 1},
    "data.AnswerLog": vars(LOG),
    "data.DataSet": {"name": "n", "banks": {"train": BANK, "test": BANK}, "split": data.Split(**SPLIT)},
    "data.EpisodeSampler": {**NUMBERED, **DRAWN, "bank": BANK, "scale": "unit", "rotate": False, **AUGMENT},
    "data.ImageBank": vars(BANK),
    "data.SinusoidSampler": {**NUMBERED, "k_shot": 2, "k_query": 2},
    "data.Split": SPLIT,
    "data.StudentSampler": {**NUMBERED, "log": LOG, "n_support": 2, "n_answers": 4},
    "data.answer_loss": {"logits": torch.randn(1, 2, 2), "answers": torch.ones(1, 2, 2)},
    "data.check_episodes": {"episodes": EPISODES, "n_way": 3, "classification": True, "values": True, "ignored": -100},
    "data.draw_strokes": {"n_classes": 1, "n_images": 1, "size": 8, "seed": 0, "progress": None},
    "data.load": {**TOLD, **PICTURES, "name": "strokes", "split": None, "seed": None},
    "data.make_noise": {"n_classes": 1, "n_images": 1, "image_shape": (1, 2, 2), "seed": 0},
    "data.prepare_omniglot": {**TOLD, **OMNIGLOT, "out": None, "download": False},
    "data.read_answers": {**COLUMNS, "path": NOWHERE, "encoding": "utf-8", "say": print},
    "data.read_folder": {**TOLD, **PICTURES, "name": "n", "cache": None},
    "data.read_omniglot": {**TOLD, **OMNIGLOT},
    "data.read_split": {"folder": NOWHERE},
    "data.simulate_students": {"n_students": 2, "n_answers": 2, "n_skills": 1, "seed": 0},
    "data.student_episodes": {"log": LOG, "students": [0, 1], "n_support": 2, "n_answers": 4},
    "data.tasks_from_batch": {"x": torch.randn(4, 3), "y": torch.randn(4), "n_tasks": 2, "n_support": 1},
    "deployment.Adapted": ADAPTED,
    "deployment.Preprocessing": {"size": 8, "channels": "L", "scale": "unit"},
    "deployment.adapt_run": {**FROM_A_RUN, "run": NOWHERE, "folder": NOWHERE, "out": NOWHERE},
    "deployment.open_adapted": {"path": NOWHERE},
    "deployment.save_adapted": {"adapted": deployment.Adapted(**ADAPTED), "path": NOWHERE},
    "distributed.shard": {"sampler": data.SinusoidSampler(2, 2, 4), "rank": 0, "world_size": 2, "uneven": False},
    "maml.Annealing": {"first_order_iterations": 1, "multi_step_iterations": 2},
    "maml.MAML": MAML,
    "report.write_report": {"runs": [NOWHERE], "out": NOWHERE},
    "algorithms.ANIL": {**LOOP, "order": 2},
    "algorithms.BOIL": {**LOOP, "order": 2, "model": nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Linear(3, 3))},
    "algorithms.FOMAML": LOOP,
    "algorithms.LearnedOptimizer": {**LOOP, "order": 1, "hidden": 2, "objective": "last", "learn_start": True},
    "algorithms.MAMLPlusPlus": {**LOOP, **ANNEALED, "model": normed(), "order": 2, "batch_norm": "per_step"},
    "algorithms.MetaLSTM": {**LOOP, "order": 1, "hidden": 2},
    "algorithms.MetaSGD": {**LOOP, "order": 2},
    "algorithms.ProtoNet": {"model": net(), "distance": "cosine", "batch_norm": "batch", "fused": True},
    "algorithms.Reptile": {**LOOP, "inner_batch": 2, "batch_norm": "batch", "fused": True},
    "compat.dragen1860.Learner": {"config": LAYERS, "imgc": 1, "imgsz": 4},
    "compat.dragen1860.Meta": {"args": argparse.Namespace(**DRAGEN1860), "config": LAYERS},
    "compat.dragen1860.MiniImagenet": {**SHOTS, "mode": "train", "resize": 4, "startidx": 0},
    "compat.dragen1860.OmniglotNShot": {**SHOTS, "imgsz": 4},
    "compat.learn2learn.BaseLearner": {"module": linear()},
    "compat.learn2learn.MAML": {"model": linear(), "lr": 0.1, "first_order": False, **ALLOWED},
    "compat.learn2learn.MetaSGD": {"model": linear(), "lr": 0.1, "first_order": False, "lrs": None},
    "compat.learn2learn.accuracy": {"preds": torch.rand(4, 2), "targets": torch.tensor([0, 1, 1, 0])},
    "compat.learn2learn.clone_distribution": {"dist": torch.distributions.Normal(0.0, 1.0)},
    "compat.learn2learn.clone_module": {"module": linear(), "memo": {}},
    "compat.learn2learn.clone_named_parameters": {"param_dict": {"v": V}},
    "compat.learn2learn.clone_parameters": {"param_list": [V]},
    "compat.learn2learn.detach_distribution": {"dist": torch.distributions.Normal(0.0, 1.0)},
    "compat.learn2learn.detach_module": {"module": linear(), "keep_requires_grad": False},
    "compat.learn2learn.maml_update": {"model": learn2learn.clone_module(linear()), "lr": 0.1, "grads": UPDATES},
    "compat.learn2learn.update_module": {"module": learn2learn.clone_module(linear()), "updates": UPDATES, "memo": {}},
    "compat.torchmeta.datasets.MiniImagenet": IMAGE_TASKS,
    "compat.torchmeta.datasets.Omniglot": {**IMAGE_TASKS, "use_vinyals_split": True},
    "compat.torchmeta.datasets.helpers.miniimagenet": IMAGE_SHOTS,
    "compat.torchmeta.datasets.helpers.omniglot": IMAGE_SHOTS,
    "compat.torchmeta.transforms.Categorical": {"num_classes": 2},
    "compat.torchmeta.transforms.ClassSplitter": PER_CLASS | SPLITTING,
    "compat.torchmeta.utils.get_num_samples": {"targets": OF_SUPPORT["targets"], "num_classes": 3, "dtype": None},
    "compat.torchmeta.utils.get_prototypes": {**OF_SUPPORT, "num_classes": 3},
    "compat.torchmeta.utils.gradient_update_parameters": {**INNER_STEP, "params": None, "step_size": 0.1},
    "compat.torchmeta.utils.matching_log_probas": {**OF_SUPPORT, **OF_QUERIES},
    "compat.torchmeta.utils.matching_loss": {**TRAIN_AND_TEST, **OF_QUERIES},
    "compat.torchmeta.utils.matching_probas": {**OF_SUPPORT, **OF_QUERIES},
    "compat.torchmeta.utils.pairwise_cosine_similarity": {
        "embeddings1": X[:, :, 0, 0],
        "embeddings2": X[:, :, 0, 1],
        "eps": 1e-8,
    },
    "compat.torchmeta.utils.prototypical_loss": {**OF_SUPPORT, "prototypes": torch.randn(2, 3, 3)},
    "compat.torchmeta.toy.Sinusoid": {"num_samples_per_task": 2, "num_tasks": 3, "noise_std": 0.1, **TRANSFORMS},
    "compat.torchmeta.toy.helpers.sinusoid": {"shots": 1, "shuffle": True, "test_shots": 1, "seed": 0},
    "train.TrainConfig": train.TrainConfig().arguments(),
    "train.evaluate_run": {**EVALUATED, "run": NOWHERE, "root": None, "device": None, "threads": None},
    "train.resume": {"run": NOWHERE, "reporter": None},
    "train.train": {"config": train.TrainConfig(), "out": NOWHERE, "reporter": None},
}
IDLE = re.compile(
    r"(compat\.dragen1860\.(Mini|Omni)|compat\.torchmeta\.datasets\.[\w.]*|data\.(load|prepare_omniglot|read_)|deployment\.[a-z]|report\.[a-z]|train\.[a-z])\w*"
)  # slow, or lacks files

_OF_DATA_SETS = ("DefaultTargetTransform", "FixedCategory", "Splitter", "TargetTransform")
_OF_IMAGES = ("HorizontalFlip", "Rotation", "VerticalFlip")

NO_ENTRIES = {
    "Backend EvaluationResult MAMLOutput": "what a call returns",
    "ops.InnerLoopsResult train.RunResult train.TrainingInterrupted maml.TaskResults": "what a call returns or raises",
    "deployment.AdaptedRun deployment.Prediction": "what a call returns",
    "fusion.FusionReport fusion.FusedModel fusion.Runner": "made by fuse, which checks",
    "fusion.is_being_recorded": "has no arguments",
    "backend ops.has_native_kernels compat.TutorialBaseNet train.Reporter": "has no arguments",
    "compat.MetaLearner": "has none, or those of dragen1860.Meta",
    "distributed.PeerFailedError distributed.PeerLostError distributed.PeerStopped": "what a run raises",
    " ".join(f"compat.torchmeta.modules.{name}" for name in torchmeta.modules.__all__): "take what torch.nn's take",
    " ".join(f"compat.torchmeta.utils.data.{name}" for name in torchmeta.utils.data.__all__): "bases, and DataLoaders",
    " ".join(f"compat.torchmeta.transforms.{name}" for name in (*_OF_DATA_SETS, *_OF_IMAGES)): "called by data sets",
    "Episodes": "a plain tuple, which is checked where it is used",
    "maml.Learner maml.LearnedRule": "abstract; its classes stand here",
    "algorithms.Algorithm algorithms.Settings": "a TrainConfig, which checks, fills them in",
    "ops.inner_loops ops.program_memory ops.NetDescription ops.LoweredModel": "for the engines; the operators check",
    "ops.RepeatedImages": "for the engines, which checked the images",
    "ops.native_obstacle nn.conv_block_of_tasks nn.tracking_conv_block nn.moved": "for what was checked before",
    "nn.traced_as_one": "a decorator",
    "build": "would compile; tested by itself",
    "compat.learn2learn.magic_box": "takes anything",
}

TORCHMETA = (
    torchmeta.datasets,
    torchmeta.datasets.helpers,
    torchmeta.modules,
    torchmeta.toy,
    torchmeta.toy.helpers,
    torchmeta.transforms,
    torchmeta.utils,
    torchmeta.utils.data,
)
MODULES = (
    mf,
    ops,
    mf.nn,
    models,
    data,
    distributed,
    maml,
    algorithms,
    fusion,
    compat,
    dragen1860,
    learn2learn,
    *TORCHMETA,
    train,
    deployment,
    report,
)


def public() -> Iterator[tuple[str, Any]]:
    for module in MODULES:
        prefix = module.__name__.removeprefix("maml_fast").removeprefix(".")
        for name in module.__all__:
            found = getattr(module, name)
            if callable(found) and not isinstance(found, ModuleType):
                yield f"{prefix}.{name}".removeprefix("."), found


def entry(path: str) -> Any:
    found: Any = mf
    for name in path.split("."):
        found = getattr(found, name) if hasattr(found, name) else getattr(mf, name)
    return found


def test_every_public_callable_stands_in_the_table_or_says_why_not() -> None:
    left = {entry(name) for names in NO_ENTRIES for name in names.split()}
    known = left | {found for name, found in public() if name in CALLS}
    assert [name for name, found in public() if found not in known] == []


def test_every_argument_stands_in_the_table() -> None:
    for name, given in CALLS.items():
        parameters = inspect.signature(entry(name)).parameters.values()
        wanted = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
        assert wanted - {"axes"} == set(given), name


def methods() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Those of objects that calls return."""
    bank, sampler, waves = BANK, mf.EpisodeSampler(BANK, 2, 1, 1, 2), data.SinusoidSampler(2, 2)
    task = {"x_spt": EPISODES.x_spt, "y_spt": EPISODES.y_spt, "inner_steps": 1}
    flags = {"first_order": None, "allow_unused": None, "allow_nograd": None}
    learner = learn2learn.MAML(linear(), lr=0.1)
    found: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "Episodes.to": (EPISODES.to, {"device": "cpu", "dtype": torch.float32, "non_blocking": False}),
        "Episodes.from_tasks": (mf.Episodes.from_tasks, {"tasks": [(X[0], V[0, :1].expand(3))], "n_support": 1}),
        "Episodes.from_tasks of classes": (mf.Episodes.from_tasks, {"tasks": [(X[0], torch.zeros(3))], "k_shot": 1}),
        "bank.select": (bank.select, {"classes": [0], "name": "n"}),
        "bank[i]": (bank.__getitem__, {"i": 0}),
        "bank.from_array": (bank.from_array, {"array": PIXELS, "class_names": None, "name": "n"}),
        "bank.from_npy": (bank.from_npy, {"path": NOWHERE, "class_names": None, "name": None}),
        "sampler.batch": (sampler.batch, {"i": 0}),
        "waves": (waves.waves, {"i": 0}),
        "log.answers_of": (LOG.answers_of, {"student": 0}),
        "log.select": (LOG.select, {"students": [0]}),
        "log.with_at_least": (LOG.with_at_least, {"n_answers": 1}),
        "l2l.clone": (learner.clone, flags),
        "l2l.adapt": (learner.clone().adapt, {"loss": V.sum(), **flags}),
        "l2l.MetaSGD.adapt": (learn2learn.MetaSGD(linear()).adapt, {"loss": V.sum(), "first_order": None}),
        "Conv4()": (models.Conv4(hidden=1), {"x": IMAGES}),
        "ResNet12()": (models.ResNet12(in_channels=1, widths=(1, 1, 1, 1), image_size=28), {"x": IMAGES}),
        "MLP()": (models.MLP((3, 1)), {"x": torch.rand(2, 3)}),
        "LSTM()": (models.LSTM(2, 2, 1), {"x": torch.rand(2, 2, 2)}),
        "Learner()": (dragen1860.Learner(LAYERS, 1, 4), {"x": X[0], "vars": None, "bn_training": True}),
        "clip_grad_by_norm_": (
            dragen1860.Meta(argparse.Namespace(**DRAGEN1860), LAYERS).clip_grad_by_norm_,
            {"grad": [torch.ones(2)], "max_norm": 1.0},
        ),
        "TutorialBaseNet()": (compat.TutorialBaseNet(), {"x": IMAGES, "params": None, "bn_training": True}),
        "finetunning": (compat.MetaLearner().finetunning, {name: x[0] for name, x in EPISODES._asdict().items()}),
        "for_dataset": (train.TrainConfig.for_dataset, {"dataset": "strokes", "algorithm": "maml"}),
        "for_recipe": (train.TrainConfig.for_recipe, {"recipe": "finn2017-omniglot-5w1s"}),
        "from_arguments": (train.TrainConfig.from_arguments, {"arguments": {}}),
        "Annealing": (type(mf.MAML(net()).annealing), ANNEALED),
    }
    for made in (mf.MAML(net()), algorithms.Reptile(net()), algorithms.ProtoNet(net())):
        name = type(made).__name__
        call = {"episodes": EPISODES, "per_step": False, "inner_steps": 1}
        found |= {
            f"{name}()": (made, call),
            f"{name}.task_results": (made.task_results, call),
            f"{name}.results_and_loss": (made.results_and_loss, call),
            f"{name}.adapt": (made.adapt, task),
            f"{name}.predict": (made.predict, {"fast": made.adapt(*EPISODES[:2]), "x_qry": EPISODES.x_qry}),
            f"{name}.engine_for": (made.engine_for, {"episodes": EPISODES}),
            f"{name}.make_optimizer": (made.make_optimizer, {"meta_lr": 0.1}),
            f"{name}.begin_iteration": (made.begin_iteration, {"iteration": 1}),
            f"{name}.for_classes": (made.for_classes, {"n_classes": 4}),
        }
    return found


METHODS = methods()

HOSTILE = [object(), np.ones((2, 3)), torch.tensor([[1, 2]]), 1j, [None], b"x", int, float("nan")]
HOSTILE_TO = {  # what says so in its annotation
    r"\bbool\b": ["false", 0, None],
    r"\bint\b": [10**30, "1", 1.5, True],
    r"\bfloat\b": [float("inf"), "0.1", True],
    r"^(?!.*(float|Rate)).*\b(str|Path)\b": [7],
    r"^(?!.*(float|Rate)).*\b(Tensor|Module|Progress|MessageCallback|Mapping)\b": ["x", 3.5],
}
CALLED = {  # in messages, where that is not the argument's name
    **{
        (f"compat.torchmeta.utils.matching_{what}", name): r"\w*embeddings[12]?|\w*targets"
        for what in ("log_probas", "loss", "probas")
        for name in ("embeddings", "test_embeddings", "train_embeddings", "train_targets")
    },
    ("use_engine", "name"): "engine",
    ("use_backend", "name"): "backend",
    ("compat.learn2learn.maml_update", "grads"): "grads|updates",
    ("nn.conv_block", "x"): "x|images",
    ("bank[i]", "i"): "i|class",
    **{(sampler, "i"): "i|meta-batch" for sampler in ("sampler.batch", "waves")},
    **{
        (f"{model}()", "x"): "x must|model was made"
        for model in ("Conv4", "LSTM", "MLP", "ResNet12", "TutorialBaseNet")
    },
}
FINE = {  # what is taken, hostile as it looks
    ("compat.torchmeta.utils.get_num_samples", "targets"): "Tensor",
    ("ops.over_tasks", "parameter"): "Tensor",
    ("compat.learn2learn.MAML", "lr"): "Tensor",
}


def hostile_to(annotation: str) -> list[Any]:
    found = list(HOSTILE)
    for pattern, values in HOSTILE_TO.items():
        found += values if re.search(pattern, annotation) else []
    if "None" in annotation:
        found = [value for value in found if value is not None]
    if re.search(r"\bbool\b", annotation):
        found = [value for value in found if value is not True]
    return found


def faults(name: str, call: Callable[..., Any], given: dict[str, Any]) -> Iterator[str]:
    """What does not end as it should when one argument is replaced by something hostile."""
    parameters = inspect.signature(call).parameters
    for argument in given:
        annotation = str(parameters[argument].annotation) if argument in parameters else ""
        for value in hostile_to(annotation):
            at = f"{name}: {argument}={shown(value)}"
            try:
                result = call(**{**given, argument: value})
                if isinstance(result, AbstractContextManager):
                    with result:
                        pass
            except (TypeError, ValueError, IndexError) as error:
                if not re.search(rf"\b({CALLED.get((name, argument), argument)})\b", str(error)):
                    yield f"{at} is not named: {error}"
                if not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGE):
                    yield f"{at} is refused elsewhere: {error}"
            except Exception as error:
                yield f"{at} ends in {type(error).__name__}: {error}"
            else:
                if type(value).__name__ != FINE.get((name, argument)):
                    yield f"{at} is taken"


@pytest.mark.parametrize("name", CALLS)
def test_entries_refuse_what_they_can_not_take(name: str) -> None:
    call, given = entry(name), CALLS[name]
    if not IDLE.fullmatch(name):
        result = call(**given)
        if isinstance(result, AbstractContextManager):
            with result:
                pass
    assert list(faults(name, call, given)) == []


@pytest.mark.parametrize("name", METHODS)
def test_methods_refuse_what_they_can_not_take(name: str) -> None:
    assert list(faults(name, *METHODS[name])) == []


def test_build_takes_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maml_fast.native._build.ensure", None)
    for name in ("verbose", "force"):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got 'false'"):
            mf.build(**{name: "false"})


SETTINGS = "inner_steps order loss_fn metric annealing task_chunk inner_memory cuda_graph inner_lr"


@pytest.mark.parametrize("name", SETTINGS.split())
def test_settings_refuse_what_they_can_not_be(name: str) -> None:
    learner = mf.MAML(net())
    before = getattr(learner, name)

    for value in HOSTILE:
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(learner, name, value)
    assert getattr(learner, name) is before
