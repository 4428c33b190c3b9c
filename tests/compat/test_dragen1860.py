"""The drop-in for dragen1860's MAML-Pytorch follows a plain loop over the tasks, in float64."""

from __future__ import annotations

import argparse
import copy
import random
import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import maml_fast as mf
from maml_fast.compat import MetaLearner
from maml_fast.compat.dragen1860 import Learner, Meta, MiniImagenet, OmniglotNShot

# The nets of the two scripts with fewer channels: one ends in a 2x2 convolution, one in a pool of stride 1.
BLOCK = [("relu", [True]), ("bn", [6])]
OMNIGLOT = [
    *[("conv2d", [6, 1, 3, 3, 2, 0]), *BLOCK],
    *[("conv2d", [6, 6, 3, 3, 2, 0]), *BLOCK] * 2,
    *[("conv2d", [6, 6, 2, 2, 1, 0]), *BLOCK],
    *[("flatten", []), ("linear", [5, 6])],
]
MINI_IMAGENET = [
    *[("conv2d", [6, 3, 3, 3, 1, 0]), *BLOCK, ("max_pool2d", [2, 2, 0])],
    *[("conv2d", [6, 6, 3, 3, 1, 0]), *BLOCK, ("max_pool2d", [2, 1, 0])],
    *[("flatten", []), ("linear", [5, 6 * 4 * 4])],
]
LINEAR = [("flatten", []), ("linear", [5, 64])]
CONFIGS = {"omniglot": (OMNIGLOT, 1, 28), "mini-imagenet": (MINI_IMAGENET, 3, 16), "linear": (LINEAR, 1, 8)}
over_configs = pytest.mark.parametrize("config", ["omniglot", "mini-imagenet"])

BN = 1e-5, 0.1  # eps and momentum


def settings(**changes):
    plain = {"n_way": 5, "k_spt": 1, "k_qry": 3, "task_num": 3, "meta_lr": 1e-2, "update_lr": 0.1}
    return argparse.Namespace(**{**plain, "update_step": 3, "update_step_test": 4, "imgc": 1, "imgsz": 28, **changes})


def make_meta(config):
    layers, channels, size = CONFIGS[config]
    torch.manual_seed(0)
    return Meta(settings(imgc=channels, imgsz=size), layers).double()


def make_batch(config, seed=0):
    _, channels, size = CONFIGS[config]
    generator = torch.Generator().manual_seed(seed)

    def half(images):
        x = torch.rand(3, 5 * images, channels, size, size, generator=generator, dtype=torch.float64)
        return x, torch.arange(5).repeat(3, images)

    return *half(1), *half(3)


def forward(config, weights, x):
    """The net of a config, written out."""
    weights = iter(weights)
    for kind, options in CONFIGS[config][0]:
        if kind == "conv2d":
            x = F.conv2d(x, next(weights), next(weights), options[4], options[5])
        elif kind == "bn":
            x = F.batch_norm(x, None, None, next(weights), next(weights), training=True)
        elif kind == "max_pool2d":
            x = F.max_pool2d(x, 2, options[1])
        else:
            x = {"relu": F.relu, "flatten": nn.Flatten()}[kind](x) if kind != "linear" else F.linear(x, *weights)
    return x


def adapted(config, weights, x, y, steps):
    """The weights before every step and after the last one, without second derivatives."""
    yield weights
    for _ in range(steps):
        gradients = torch.autograd.grad(F.cross_entropy(forward(config, weights, x), y), weights)
        weights = [w - 0.1 * g for w, g in zip(weights, gradients, strict=True)]
        yield weights


def plain_loop(config, weights, batch, steps):
    """The mean loss after the last step, and the accuracies after every one."""
    loss, correct = 0.0, np.zeros(steps + 1)
    for x_spt, y_spt, x_qry, y_qry in zip(*batch, strict=True):
        for step, fast in enumerate(adapted(config, weights, x_spt, y_spt, steps)):
            logits = forward(config, fast, x_qry)
            correct[step] += (logits.argmax(1) == y_qry).sum()
        loss = loss + F.cross_entropy(logits, y_qry)
    return loss / len(batch[0]), correct / batch[3].numel()


@pytest.mark.parametrize("config", CONFIGS)
def test_training_follows_a_plain_loop(config):
    meta = make_meta(config)
    weights = [each.detach().clone().requires_grad_() for each in meta.net.parameters()]
    for iteration in range(3):
        batch = make_batch(config, iteration)
        loss, accuracies = plain_loop(config, weights, batch, steps=3)
        expected = torch.autograd.grad(loss, weights)
        np.testing.assert_array_equal(meta(*batch), accuracies)
        scale = max(gradient.norm() for gradient in expected)
        for own, gradient in zip(meta.net.parameters(), expected, strict=True):
            assert (own.grad - gradient).norm() <= 1e-9 * scale
        weights = [each.detach().clone().requires_grad_() for each in meta.net.parameters()]


def test_the_outer_step_is_adams():
    meta = make_meta("omniglot")
    before = [each.detach().clone() for each in meta.net.parameters()]
    meta(*make_batch("omniglot"))
    for own, start in zip(meta.net.parameters(), before, strict=True):
        step = -1e-2 * own.grad / (own.grad.abs() + 1e-8)
        torch.testing.assert_close(own.detach(), start + step, rtol=1e-9, atol=1e-12)


@over_configs
@pytest.mark.parametrize("engine", ["auto", "loop"])
def test_finetunning_follows_a_plain_loop_and_changes_nothing(config, engine):
    meta = make_meta(config)
    state = copy.deepcopy(meta.state_dict())
    one = [part[:1] for part in make_batch(config)]
    weights = [each.detach().requires_grad_() for each in copy.deepcopy(meta.net).parameters()]
    _, accuracies = plain_loop(config, weights, one, steps=4)
    with nullcontext() if engine == "auto" else mf.use_engine(engine):
        np.testing.assert_array_equal(meta.finetunning(*(part[0] for part in one)), accuracies)
    assert all(torch.equal(state[name], each) for name, each in meta.state_dict().items())


@pytest.mark.native
@over_configs
def test_its_nets_run_natively(config):
    meta = make_meta(config)
    meta(*make_batch(config))
    assert "inner loop: native" in meta._maml[0].describe()


def test_attributes_can_be_changed_between_calls():
    meta, batch = make_meta("omniglot"), make_batch("omniglot")
    meta.update_step, meta.update_lr = 1, 0.0
    accuracies = meta(*batch)
    assert len(accuracies) == 2
    assert accuracies[0] == accuracies[1]
    meta.update_step_test = 2
    assert len(meta.finetunning(*(part[0] for part in batch))) == 3
    meta.net = Learner(OMNIGLOT, 1, 28).double()
    assert len(meta(*batch)) == 2
    assert all(each.grad is not None for each in meta.net.parameters())


def test_meta_learner_with_arguments_is_meta():
    meta = MetaLearner(settings(), OMNIGLOT)
    assert type(meta) is Meta
    assert type(copy.deepcopy(MetaLearner())) is MetaLearner


@pytest.mark.parametrize("name", ["update_lr", "task_num", "imgsz"])
def test_a_missing_setting_is_named(name):
    args = settings()
    delattr(args, name)
    with pytest.raises(TypeError, match=rf"args must have .*; {name} is missing in Namespace"):
        Meta(args, OMNIGLOT)


# --- the net


def test_initial_values_and_state_dict_are_the_originals():
    torch.manual_seed(3)
    net = Learner(OMNIGLOT, 1, 28)
    torch.manual_seed(3)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            torch.testing.assert_close(parameter, nn.init.kaiming_normal_(torch.empty(parameter.shape)), rtol=0, atol=0)
    assert [name for name in net.state_dict() if name.startswith("vars.")] == [f"vars.{i}" for i in range(18)]
    assert [name for name in net.state_dict() if name.startswith("vars_bn.")] == [f"vars_bn.{i}" for i in range(8)]
    assert len(net.parameters()) == len(net.vars) == 18
    assert not any(each.requires_grad for each in net.vars_bn)


LAYERS = {
    "convt2d": ([2, 3, 3, 3, 2, 1], lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1)),
    "leakyrelu": ([0.2, True], lambda x: F.leaky_relu(x, 0.2)),
    "tanh": ([], torch.tanh),
    "sigmoid": ([], torch.sigmoid),
    "avg_pool2d": ([2, 1, 0], lambda x: F.avg_pool2d(x, 2, 1)),
    "upsample": ([2], lambda x: F.interpolate(x, scale_factor=2)),
    "reshape": ([2, 4, 4], lambda x: x.reshape(-1, 2, 4, 4)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_other_layers(kind):
    options, expected = LAYERS[kind]
    net, x = Learner([(kind, options)], 2, 4), torch.randn(3, 2, 4, 4)
    before = x.clone()
    torch.testing.assert_close(net(x), expected(x, *net.parameters()))
    assert torch.equal(x, before)


def test_running_statistics_are_updated_and_used_as_asked():
    net, x = Learner([("bn", [2])], 2, 4), torch.randn(8, 2, 4, 4)
    net(x)
    mean = x.mean((0, 2, 3))
    torch.testing.assert_close(net.vars_bn[0].data, 0.1 * mean)
    expected = F.batch_norm(x, net.vars_bn[0], net.vars_bn[1], torch.ones(2), torch.zeros(2))
    torch.testing.assert_close(net(x, bn_training=False), expected)


def test_runs_with_other_parameters_and_clears_gradients():
    net, x = Learner([("flatten", []), ("linear", [2, 16])], 1, 4), torch.randn(3, 1, 4, 4)
    others = [torch.zeros(2, 16), torch.ones(2)]
    assert (net(x, others) == 1).all()
    net(x).sum().backward()
    net.zero_grad()
    assert all((each.grad == 0).all() for each in net.parameters())
    with pytest.raises(ValueError, match=r"vars must hold 2 tensors, as parameters\(\) does, got 1"):
        net(x, others[:1])


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (("conv3d", [1]), ValueError, r"config\[1\] must be one of the layers conv2d, .*, bn; got 'conv3d'"),
        (("conv2d", [6, 1, 3, 3]), ValueError, r"config\[1\]: conv2d takes 6 options, got \[6, 1, 3, 3\]"),
        ("relu", TypeError, r"config\[1\] must be a pair of a layer and its options, .* got 'relu'"),
    ],
)
def test_a_wrong_layer_is_named(layer, error, message):
    with pytest.raises(error, match=message):
        Learner([("relu", [True]), layer], 1, 28)


def test_gradients_are_clipped_by_their_common_norm():
    gradients = [torch.tensor([3.0]), torch.tensor([4.0])]
    assert make_meta("omniglot").clip_grad_by_norm_(gradients, 1.0) == 2.5
    torch.testing.assert_close(torch.cat(gradients), torch.tensor([0.6, 0.8]))
    make_meta("omniglot").clip_grad_by_norm_(gradients, 2.0)
    torch.testing.assert_close(torch.cat(gradients), torch.tensor([0.6, 0.8]))


# --- the data


@pytest.fixture(scope="module", params=[np.float64, np.uint8])
def omniglot(request, tmp_path_factory):
    """A folder with ``omniglot.npy``; the first two pixels of a drawing say of which character it is, and which one."""
    folder = tmp_path_factory.mktemp("omniglot")
    pixels = np.zeros((1623, 20, 1, 2, 2))
    pixels[..., 0, 0] = (np.arange(1623) // 256)[:, None, None]
    pixels[..., 0, 1] = (np.arange(1623) % 256)[:, None, None]
    pixels[..., 1, 0] = np.arange(20)[:, None]
    name = "omniglot.npy" if request.param is np.float64 else "omniglot_2.npy"
    np.save(folder / name, pixels / 255 if request.param is np.float64 else pixels.astype(np.uint8))
    return folder


def told(x):
    """The character of every drawing, and its number."""
    pixels = np.rint(x * 255).astype(int)
    return pixels[..., 0, 0, 0] * 256 + pixels[..., 0, 0, 1], pixels[..., 0, 1, 0]


def drawn_as_the_original(classes, tasks, n_way, k_shot, k_query):
    """Support and query drawings of a meta-batch, by the original's calls of NumPy's generator."""
    batch = []
    for _ in range(tasks):
        support, query = [], []
        for label, character in enumerate(np.random.choice(classes, n_way, False)):  # noqa: NPY002
            drawings = np.random.choice(20, k_shot + k_query, False)  # noqa: NPY002
            support += [(character, number, label) for number in drawings[:k_shot]]
            query += [(character, number, label) for number in drawings[k_shot:]]
        batch += [[half[i] for i in np.random.permutation(len(half))] for half in (support, query)]  # noqa: NPY002
    return batch


def test_omniglot_draws_the_originals_episodes(omniglot):
    np.random.seed(5)  # noqa: NPY002
    data = OmniglotNShot(omniglot, batchsz=2, n_way=4, k_shot=1, k_query=2, imgsz=2)
    found = [data.next(mode) for mode in ("train", "test")] + [data.next() for _ in range(10)]
    np.random.seed(5)  # noqa: NPY002
    train, test = ([drawn_as_the_original(n, 2, 4, 1, 2) for _ in range(10)] for n in (1200, 423))
    train += [drawn_as_the_original(1200, 2, 4, 1, 2) for _ in range(10)]  # once the first ten have been used
    for batch, expected, first in ((found[0], train[0], 0), (found[1], test[0], 1200), (found[-1], train[10], 0)):
        assert [part.dtype for part in batch] == [np.float32, np.int64] * 2
        for x, y, wanted in ((batch[0], batch[1], expected[::2]), (batch[2], batch[3], expected[1::2])):
            characters, numbers = told(x)
            np.testing.assert_array_equal(np.stack([characters - first, numbers, y], axis=-1), wanted)


def test_omniglot_of_another_size_is_refused(omniglot):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(str(omniglot))):
        OmniglotNShot(omniglot, 1, 2, 1, 1, imgsz=28)
    with pytest.raises(ValueError, match=r"k_shot \+ k_query is 10 \+ 11, but a character has 20 drawings"):
        OmniglotNShot(omniglot, 1, 2, 10, 11, imgsz=2)


@pytest.fixture(scope="module")
def mini_imagenet(tmp_path_factory):
    """A folder with a ``train.csv`` of four classes of five pictures, whose color says which they are."""
    folder = tmp_path_factory.mktemp("mini")
    (folder / "images").mkdir()
    rows = ["filename,label"]
    for i in range(5):
        for label in (3, 1, 0, 2):
            name = f"n0000000{label}{i:08d}.png"
            Image.new("RGB", (9, 7), (40 * label, 50 * i, 0)).save(folder / "images" / name)
            rows.append(f"{name},n0000000{label}")
    (folder / "train.csv").write_text("\n".join(rows))
    return folder


def shades(x):
    """The class and the number of every picture [N, 3, H, W], which is one color all over."""
    assert (x == x[..., :1, :1]).all()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    red, green, _ = ((x[..., 0, 0] * std + mean) * 255).round().long().unbind(1)
    return (red // 40).tolist(), (green // 50).tolist()


def test_mini_imagenet_draws_episodes(mini_imagenet):
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    data = MiniImagenet(mini_imagenet, "train", batchsz=20, n_way=3, k_shot=1, k_query=3, resize=6)
    assert len(data) == 20
    labelings = set()
    for x_spt, y_spt, x_qry, y_qry in data:
        assert (x_spt.shape, x_qry.shape) == ((3, 3, 6, 6), (9, 3, 6, 6))
        (classes, support), (of_queries, queries) = shades(x_spt), shades(x_qry)
        labels = dict(zip(classes, y_spt.tolist(), strict=True))
        assert sorted(labels.values()) == [0, 1, 2]
        assert [labels[each] for each in of_queries] == y_qry.tolist()
        pictures = {*zip(classes, support, strict=True), *zip(of_queries, queries, strict=True)}
        assert len(pictures) == 12
        labelings.add(tuple(sorted(labels.items())))
    assert len(labelings) > 10
    batch = next(iter(torch.utils.data.DataLoader(data, 4)))
    assert [tuple(part.shape) for part in batch] == [(4, 3, 3, 6, 6), (4, 3), (4, 9, 3, 6, 6), (4, 9)]


def test_mini_imagenet_draws_in_the_originals_order(mini_imagenet):
    np.random.seed(1)  # noqa: NPY002
    random.seed(2)
    data = MiniImagenet(mini_imagenet, "train", batchsz=1, n_way=3, k_shot=1, k_query=2, resize=6)
    x_spt, y_spt, *_ = data[0]
    np.random.seed(1)  # noqa: NPY002
    random.seed(2)
    chosen = np.random.choice(4, 3, False)  # noqa: NPY002
    np.random.shuffle(chosen)  # noqa: NPY002
    drawn = []
    for number in chosen.tolist():
        places = np.random.choice(5, 3, False)  # noqa: NPY002
        np.random.shuffle(places)  # noqa: NPY002
        drawn.append((number, int(places[0])))
    random.shuffle(drawn)
    random.shuffle([None] * 3)  # the queries
    order = sorted(chosen.tolist())
    random.shuffle(order)
    listed = (3, 1, 0, 2)  # classes as the .csv first names them
    assert list(zip(*shades(x_spt), strict=True)) == [(listed[number], picture) for number, picture in drawn]
    assert y_spt.tolist() == [order.index(number) for number, _ in drawn]


def test_mini_imagenet_says_what_is_too_few(mini_imagenet):
    with pytest.raises(ValueError, match=r"n_way is 5, but train.csv has only 4 classes"):
        MiniImagenet(mini_imagenet, "train", 1, n_way=5, k_shot=1, k_query=1, resize=6)
    with pytest.raises(ValueError, match=r"k_shot \+ k_query is 3 \+ 3 = 6, but a class of train.csv has 5 pictures"):
        MiniImagenet(mini_imagenet, "train", 1, n_way=2, k_shot=3, k_query=3, resize=6)
