"""Images: models, benchmarks and the layouts of data sets that learn2learn left on disk."""

from __future__ import annotations

import copy
import io
import os
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_omniglot import TINY, tiny_files, write_folders, write_zips
from torch import nn
from torch.utils.data import TensorDataset

from maml_fast.compat import learn2learn as l2l
from maml_fast.compat.learn2learn.vision import benchmarks, datasets, models, transforms
from maml_fast.compat.learn2learn.vision.benchmarks import _data_sets

SUMS = {  # of the parameters that learn2learn draws by seed 3 of torch and NumPy
    "OmniglotFC": (lambda: models.OmniglotFC(9, 2, [4, 3]), [4, 0, -0.022803, 0, 3, 0, -0.013671, 0, -0.034477, 0]),
    "OmniglotCNN": (
        lambda: models.OmniglotCNN(3, 2, 2),
        [0.109833, 0, -3.597246, 0, 1.010743, 0, -2.882296, 0, 5.407244, 0],
    ),
    "CNN4": (
        lambda: models.CNN4(3, 2, channels=1, embedding_size=8),
        [0.109833, 0, -3.597246, 0, 1.010743, 0, -2.882296, 0, 1.86052, 0, 1.192246, 0],
    ),
    "ResNet12": (
        lambda: models.ResNet12Backbone(wider=False).layer1,
        [0.806072, 64, 0, 17.866672, 64, 0, -7.248585, 64, 0, -1.914706, 64, 0],
    ),
}


@pytest.mark.parametrize("net", SUMS)
def test_a_seed_draws_learn2learns_weights(net):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    make, sums = SUMS[net]
    found = [float(parameter.detach().double().sum()) for parameter in make().parameters()]
    assert found[: len(sums)] == pytest.approx(sums, abs=2e-6)


def test_names_of_parameters_are_learn2learns():
    block = ["normalize.weight", "normalize.bias", "conv.weight", "conv.bias"]
    blocks = [f"{i}.{name}" for i in range(4) for name in block]
    head = ["classifier.weight", "classifier.bias"]
    names = {net: [name for name, _ in net(5).named_parameters()] for net in (models.CNN4, models.OmniglotCNN)}
    assert names[models.CNN4] == [*(f"features.{name}" for name in blocks), *head]
    assert names[models.OmniglotCNN] == [*(f"base.{name}" for name in blocks), *head]
    state = models.OmniglotCNN(5).state_dict()
    assert "features.1.3.normalize.num_batches_tracked" in state
    assert list(models.ResNet12(5, wider=False).state_dict())[:2] == [
        "features.layer1.0.conv1.weight",
        "features.layer1.0.bn1.weight",
    ]


def written(x, base):
    """The layers of a ConvBase, one by one in PyTorch."""
    for block in base:
        x = torch.relu(block.normalize(block.conv(x)))
        x = block.max_pool(x)
    return x


@pytest.mark.parametrize("max_pool", [False, True])
def test_a_backbone_is_fused_outside_of_a_learner_too(max_pool):
    base = models.ConvBase(hidden=4, channels=2, max_pool=max_pool, layers=2).double()
    expected, x = copy.deepcopy(base), torch.randn(3, 2, 8, 8, dtype=torch.float64)
    for step in range(2):
        out, wanted = base(x + step), written(x + step, expected)
        torch.testing.assert_close(out, wanted, rtol=1e-11, atol=1e-11)
        out.sin().sum().backward()
        wanted.sin().sum().backward()
    for parameter, other in zip(base.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-9, atol=1e-9)
    for buffer, other in zip(base.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-11, atol=1e-11)
    calls = vars(base)["_maml_fast_recordings"].calls
    assert len(calls.report.fused) == 2
    assert vars(copy.deepcopy(base))["_maml_fast_recordings"].calls is calls
    base.eval()
    torch.testing.assert_close(base(x), written(x, expected.eval()), rtol=1e-11, atol=1e-11)


def test_a_backbone_whose_layers_are_replaced_and_hooked():
    base = models.CNN4Backbone(hidden_size=4, channels=2).double()
    x, seen = torch.randn(3, 2, 16, 16, dtype=torch.float64), []
    before = base(x)
    base.register_forward_hook(lambda *_: seen.append("whole"))
    base[1].conv.register_forward_hook(lambda *_: seen.append("layer"))
    torch.testing.assert_close(base(x), before, rtol=1e-11, atol=1e-11)
    assert seen == ["layer", "whole"]
    base[3] = nn.Identity()
    torch.testing.assert_close(base(x), written(x, [base[i] for i in range(3)]).flatten(1), rtol=1e-11, atol=1e-11)


def test_an_embedded_backbone_is_fused_with_its_model():
    model = models.OmniglotCNN(3, hidden_size=4).double()
    maml = l2l.algorithms.MAML(model, lr=0.1)
    x = torch.rand(6, 784, dtype=torch.float64)
    learner = maml.clone()
    learner.adapt(learner(x).pow(2).mean())
    assert len(maml.fusion.fused) == 4
    expected = written(x.view(-1, 1, 28, 28), copy.deepcopy(model).base).mean((2, 3))
    torch.testing.assert_close(maml(x), model.classifier(expected), rtol=1e-10, atol=1e-10)


def test_dropped_blocks_are_squares():
    torch.manual_seed(0)
    drop = models.resnet12.DropBlock(3)
    x = torch.ones(1, 1, 9, 9)
    assert drop.eval()(x, gamma=0.5) is x
    kept = drop.train()(x, gamma=0.05)[0, 0]
    assert 0 < (kept == 0).sum() < 81
    assert kept.mean() == pytest.approx(1)
    corners = (kept.unfold(0, 3, 1).unfold(1, 3, 1) == 0).all(-1).all(-1)  # [7, 7]
    covered = torch.zeros(9, 9, dtype=torch.bool)
    for i, j in corners.nonzero().tolist():
        covered[i : i + 3, j : j + 3] = True
    assert torch.equal(covered, kept == 0)


def test_residual_networks_run_in_learners():
    model = models.ResNet12(3, hidden_size=64 * 8, wider=False, avg_pool=False, dropblock_dropout=0.0)
    maml = l2l.algorithms.MAML(model, lr=0.01)
    x = torch.randn(2, 3, 16, 16)
    learner = maml.clone()
    for _ in range(2):
        learner.adapt(learner(x).pow(2).mean())
    assert learner.module.features.layer1[0].num_batches_tracked == 2
    assert model.features.layer1[0].num_batches_tracked == 0


# --- rotations


@pytest.mark.parametrize("angle", [0.0, 90.0, 180.0, 270.0])
def test_tensors_and_pictures_are_rotated_alike(angle):
    pixels = np.random.RandomState(0).randint(0, 256, (12, 12), dtype=np.uint8)
    picture = transforms._rotated(Image.fromarray(pixels), angle)
    tensor = transforms._rotated(torch.from_numpy(pixels)[None].float(), angle)
    assert np.array_equal(np.asarray(picture), np.rot90(pixels, round(angle / 90)))
    assert np.array_equal(tensor[0].numpy(), np.rot90(pixels, round(angle / 90)))


def test_a_task_is_rotated_by_the_angle_of_its_last_class():
    images = torch.arange(6 * 4.0).view(6, 1, 2, 2)
    dataset = l2l.data.MetaDataset(TensorDataset(images, torch.tensor([0, 0, 1, 1, 2, 2])))
    steps = [l2l.data.transforms.LoadData(dataset), transforms.RandomClassRotation(dataset, [0.0, 90.0, 180.0, 270.0])]
    tasks = l2l.data.Taskset(dataset, steps)
    seen = set()
    for seed in range(8):
        random.seed(seed)
        task = tasks[0][0]
        random.seed(seed)
        angle = [random.choice([0, 1, 2, 3]) for _ in range(3)][-1]
        assert torch.equal(task, torch.rot90(images, angle, (2, 3)))
        seen.add(angle)
    assert len(seen) > 2


# --- data sets


@pytest.mark.parametrize("layout", ["zips", "folders", "torchvision"])
def test_omniglot(tmp_path, layout):
    files = tiny_files()
    if layout == "zips":
        write_zips(tmp_path, files)
    else:
        write_folders(tmp_path / ("omniglot-py" if layout == "torchvision" else "omniglot"), files)
    omniglot = datasets.FullOmniglot(tmp_path, layout=TINY, target_transform=lambda label: -label)
    assert len(omniglot) == 15
    assert omniglot.labels_of_samples() == [-label for label in range(5) for _ in range(3)]
    image, label = omniglot[14]
    assert (image.size, image.mode, label) == ((40, 40), "L", -4)
    sets = ("images_background", "images_evaluation")
    if layout == "torchvision":  # in the order in which the system lists them
        tops = [tmp_path / "omniglot-py" / name for name in sets]
        folders = [top / a / c for top in tops for a in os.listdir(top) for c in os.listdir(top / a)]
        expected = [(each / name).read_bytes() for each in folders for name in os.listdir(each)]
    else:
        expected = [files[name] for top in sets for name in sorted(files) if name.startswith(top)]
    for i, content in enumerate(expected):
        assert np.array_equal(np.asarray(omniglot[i][0]), np.asarray(Image.open(io.BytesIO(content)).convert("L")))


def test_omniglots_benchmark(tmp_path, monkeypatch):
    write_zips(tmp_path, tiny_files())
    monkeypatch.setattr(_data_sets, "FullOmniglot", lambda root, download: datasets.FullOmniglot(root, layout=TINY))
    monkeypatch.setattr(_data_sets.random, "shuffle", lambda classes: None)
    random.seed(5)
    with pytest.raises(ValueError, match="a task needs"):
        benchmarks.get_tasksets("omniglot", root=tmp_path, train_ways=6, train_samples=2).train.sample()
    tasks = benchmarks.get_tasksets("omniglot", root=tmp_path, train_ways=3, train_samples=2, num_tasks=7)
    x, y = tasks.train.sample()
    assert (x.shape, x.dtype, len(tasks.train)) == ((6, 1, 28, 28), torch.float32, 7)
    assert sorted(y.tolist()) == [0, 0, 1, 1, 2, 2]
    small = datasets.FullOmniglot(tmp_path, layout=TINY).read_image(4).resize((28, 28), Image.Resampling.LANCZOS)
    held = tasks.test.dataset.dataset.dataset
    torch.testing.assert_close(held[4][0][0], 1 - torch.from_numpy(np.array(small)) / 255)
    assert held[4][1] == 1


def images(n, side, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (n, side, side, 3), dtype=np.uint8)


def mini_imagenet(root):
    for seed, part in enumerate(("train", "validation", "test")):
        order = np.random.RandomState(seed).permutation(9)
        classes = {f"n{i}": [int(number) for number in order[i::3]] for i in (2, 0, 1)}
        content = {"image_data": images(9, 84, seed), "class_dict": classes}
        (root / f"mini-imagenet-cache-{part}.pkl").write_bytes(pickle.dumps(content, protocol=2))


def test_mini_imagenet_keeps_the_order_of_its_file(tmp_path):
    mini_imagenet(tmp_path)
    found = datasets.MiniImagenet(tmp_path, mode="validation", download=True)
    content = pickle.loads((tmp_path / "mini-imagenet-cache-validation.pkl").read_bytes())
    assert (found.x.shape, found.x.dtype) == ((9, 3, 84, 84), torch.float32)
    assert torch.equal(found[4][0], torch.from_numpy(content["image_data"][4]).permute(2, 0, 1).float())
    for label, numbers in enumerate(content["class_dict"].values()):
        assert {found[i][1] for i in numbers} == {label}
    assert found.y.tolist() == found.labels_of_samples()


def fc100(root):
    for seed, part in enumerate(("train", "val", "test")):
        content = {"data": images(9, 32, seed), "labels": [7, 5, 9] * 3}
        (root / f"FC100_{part}.pickle").write_bytes(pickle.dumps(content, protocol=2))


def cifarfs(root):
    for seed, part in enumerate(("train", "val", "test")):
        for label in "bca":
            folder = root / "cifarfs" / "processed" / part / label
            folder.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(images(1, 32, 10 * seed + i)[0]).save(folder / f"{i}.png")


def tiered_imagenet(root):
    folder = root / "tiered-imagenet"
    folder.mkdir()
    for part in ("train", "val", "test"):
        encoded = []
        for pixels in images(9, 84):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            encoded.append(np.frombuffer(buffer.getvalue(), np.uint8)[:, None])
        (folder / f"{part}_images_png.pkl").write_bytes(pickle.dumps(encoded))
        labels = {"label_specific": np.arange(9) % 3, "label_general": np.zeros(9, int)}
        (folder / f"{part}_labels.pkl").write_bytes(pickle.dumps(labels))


LAYOUTS = {
    "mini-imagenet": (mini_imagenet, 84, 255),
    "tiered-imagenet": (tiered_imagenet, 84, 1),
    "fc100": (fc100, 32, 1),
    "cifarfs": (cifarfs, 32, 1),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_benchmarks_read_what_learn2learn_left(tmp_path, name, device):
    write, side, most = LAYOUTS[name]
    write(tmp_path)
    tasks = benchmarks.get_tasksets(name, 2, 3, 3, 2, root=str(tmp_path), device=device)
    for part, ways, samples in ((tasks.train, 2, 3), (tasks.validation, 3, 2), (tasks.test, 3, 2)):
        x, y = part.sample()
        assert x.shape == (ways * samples, 3, side, side)
        assert 0.9 * most < x.max() <= most
        assert sorted(y.tolist()) == sorted([*range(ways)] * samples)
    assert set(LAYOUTS) | {"omniglot"} == set(benchmarks.list_tasksets())


def test_the_parts_of_a_benchmark(tmp_path):
    fc100(tmp_path)
    parts, steps = benchmarks.fc100_tasksets(2, 3, 3, 2, root=tmp_path)
    names = [[type(step).__name__ for step in each] for each in steps]
    assert names[0] == names[2] == ["NWays", "KShots", "LoadData", "RemapLabels", "ConsecutiveLabels"]
    assert names[1] == ["NWays", "KShots", "LoadData", "ConsecutiveLabels", "RemapLabels"]
    assert [(each[0].n, each[1].k) for each in steps] == [(2, 3), (3, 2), (3, 2)]
    assert [part.labels for part in parts] == [[7, 5, 9]] * 3


def test_cifarfs_before_its_copy(tmp_path):
    cifarfs(tmp_path)
    top = tmp_path / "cifarfs"
    (top / "cifar100" / "splits" / "bertinetto").mkdir(parents=True)
    copied = datasets.CIFARFS(tmp_path, mode="validation")
    (top / "processed" / "val").rename(top / "cifar100" / "data")
    (top / "cifar100" / "splits" / "bertinetto" / "val.txt").write_text("c\nb\na\n")
    listed = datasets.CIFARFS(tmp_path, mode="validation")
    assert listed.classes == copied.classes == ["a", "b", "c"]
    assert listed.labels == copied.labels
    assert listed[5][0].mode == "RGB"


@pytest.mark.parametrize(("data_set", "name", "side"), [("MiniImagenet", "mini-imagenet", 84), ("FC100", "fc100", 32)])
def test_layouts_of_maml_fast_are_read_too(tmp_path, monkeypatch, data_set, name, side):
    monkeypatch.setenv("MAML_FAST_CACHE", str(tmp_path / "cache"))
    for part in ("train", "val", "test"):
        for label in "ab":
            folder = tmp_path / name / part / f"{part}-{label}"
            folder.mkdir(parents=True)
            Image.fromarray(images(1, side)[0]).save(folder / "0.png")
    image, label = getattr(datasets, data_set)(tmp_path, mode="validation")[1]
    assert label == 1
    assert np.array_equal(
        np.asarray(image) if data_set == "FC100" else image.permute(1, 2, 0).numpy(), images(1, side)[0]
    )


def test_missing_data_and_wrong_choices(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not hold FC100_val.pickle, as learn2learn leaves it; and"):
        datasets.FC100(tmp_path, mode="validation")
    with pytest.raises(ValueError, match="mode must be one of train, validation, test; got 'val'"):
        datasets.MiniImagenet(tmp_path, mode="val")
    with pytest.raises(ValueError, match="name must be one of omniglot, mini-imagenet"):
        benchmarks.get_tasksets("cub")
    mini_imagenet(tmp_path)
    with pytest.raises(ValueError, match=r"data_augmentation must be None, 'normalize' or 'lee2019', got 'x'"):
        benchmarks.get_tasksets("mini-imagenet", root=tmp_path, data_augmentation="x")
    x, _ = benchmarks.get_tasksets("mini-imagenet", 2, 3, root=tmp_path, data_augmentation="normalize").train.sample()
    assert 0.9 < x.max() <= 1
    with pytest.raises(ImportError, match=r"no vision.datasets.Quickdraw: this data set is out; wrap a torch Dataset"):
        datasets.Quickdraw  # noqa: B018
