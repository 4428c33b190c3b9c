"""The drop-in for torchmeta's sets of tasks, their splitters and loaders."""

from __future__ import annotations

import json
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import maml_fast as mf
from maml_fast.compat.torchmeta import toy
from maml_fast.compat.torchmeta.datasets import MiniImagenet, Omniglot
from maml_fast.compat.torchmeta.datasets.helpers import miniimagenet, omniglot
from maml_fast.compat.torchmeta.transforms import (
    Categorical,
    ClassSplitter,
    DefaultTargetTransform,
    FixedCategory,
    HorizontalFlip,
    Rotation,
    VerticalFlip,
)
from maml_fast.compat.torchmeta.utils.data import (
    BatchMetaDataLoader,
    ClassDataset,
    CombinationMetaDataset,
    Dataset,
    MetaDataLoader,
    MetaDataset,
    Task,
)

pytestmark = pytest.mark.backendless


class Numbers(Dataset):
    """Ten samples of a class, which are numbers: ten times the class and more."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return self.transformed(torch.tensor(10.0 * self.index + index), f"class {self.index}")


class NumberClasses(ClassDataset):
    num_classes = 6

    def __getitem__(self, index):
        return Numbers(index, self.get_transform(index), self.get_target_transform(index))


def plus_sixty(x):
    return x - 60.0


def numbers(splitter=None, **options):
    return CombinationMetaDataset(
        NumberClasses(meta_train=True, **options), 3, target_transform=Categorical(3), dataset_transform=splitter
    )


def drawn_as_the_original(index, counts, seed):
    """The numbers of the samples of each part, by the original's calls of NumPy's generators."""
    shuffler = np.random.RandomState(seed)
    found = {part: [] for part in counts}
    for place, number in enumerate(index):
        order = np.random.RandomState((hash(tuple(index)) + hash(number) + 0) % 2**32).permutation(10)
        start = 0
        for part, count in counts.items():
            chosen = order[start : start + count]
            shuffler.shuffle(chosen)
            found[part] += (chosen + 10 * place).tolist()
            start += count
    return found


# --- tasks and their parts


def test_splitter_draws_what_the_original_draws():
    data = ClassSplitter(numbers(), num_train_per_class=2, num_test_per_class=3)
    data.seed(7)
    index = (4, 0, 5)
    parts = data[index]
    assert list(parts) == ["train", "test"]
    for part, expected in drawn_as_the_original(index, {"train": 2, "test": 3}, seed=7).items():
        assert list(parts[part].indices) == expected
        assert len(parts[part]) == len(expected)
        values = [parts[part][i][0].item() for i in range(len(expected))]
        assert values == [10.0 * index[i // 10] + i % 10 for i in expected]


def test_labels_of_a_task_are_one_permutation():
    data = numbers(ClassSplitter(shuffle=False, num_support_per_class=1, num_query_per_class=2))
    torch.manual_seed(0)
    orders = [torch.randperm(3).tolist() for _ in range(4)]
    torch.manual_seed(0)
    for order in orders:
        task = data[(1, 2, 5)]
        assert [label for _, label in (task["support"][i] for i in range(3))] == order
        assert [label for _, label in (task["query"][i] for i in range(6))] == [
            each for each in order for _ in range(2)
        ]


def test_parts_may_have_any_names():
    split = ClassSplitter(shuffle=False, num_samples_per_class={"a": 1, "b": 2, "c": 3})
    assert {name: len(part) for name, part in split(numbers()[(0, 1, 2)]).items()} == {"a": 3, "b": 6, "c": 9}
    assert ClassSplitter(numbers()[(0, 1, 2)], num_train_per_class=1).keys() == {"train"}


class Pairs(Task):
    """A task that is no ConcatTask, with labels or, as a regression task, without."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index, index % 2


def test_other_tasks_are_split_by_their_labels():
    split = ClassSplitter(num_train_per_class=1, num_test_per_class=2)
    train, test = split(Pairs(3, num_classes=2)).values()
    assert sorted(train[i][1] for i in range(2)) == [0, 1]
    assert Counter(test[i][1] for i in range(4)) == {0: 2, 1: 2}
    assert len({part[i][0] for part in (train, test) for i in range(len(part))}) == 6
    assert len(split(Pairs(3, num_classes=None))["test"]) == 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ClassSplitter(num_train_per_class=11)(numbers()[(0, 1, 2)]),
            ValueError,
            "class 0 has 10 samples",
        ),
        (lambda: ClassSplitter(), ValueError, "say how many samples"),
        (lambda: ClassSplitter(3, num_train_per_class=1), TypeError, "task must be a Task or a MetaDataset, got 3"),
        (lambda: numbers()[3], ValueError, "the index of a task must be 3 class numbers, got 3"),
        (lambda: numbers()[(1, 2)], ValueError, r"must be 3 class numbers, got \(1, 2\)"),
        (lambda: NumberClasses(), ValueError, "exactly one of meta_train, meta_val and meta_test must be True"),
        (lambda: NumberClasses(meta_train=True, meta_val=True), ValueError, "exactly one of meta_train"),
        (lambda: NumberClasses(meta_split="all"), ValueError, "meta_split must be one of train, val, test; got 'all'"),
        (lambda: numbers(class_augmentations=Rotation(90)), TypeError, "class_augmentations must be a list"),
        (lambda: CombinationMetaDataset(NumberClasses(meta_train=True), 7), ValueError, "but there are 6 classes"),
        (lambda: list(map(Categorical(1), "ab")), ValueError, "more than the 1 classes"),
    ],
)
def test_what_is_wrong_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_splits_have_names():
    for split in ("train", "val", "test"):
        for made in (NumberClasses(meta_split=split), NumberClasses(**{f"meta_{split}": True})):
            assert (made.meta_split, getattr(made, f"meta_{split}")) == (split, True)
            assert made.meta_train + made.meta_val + made.meta_test == 1


def test_sampled_tasks_and_all_tasks():
    data = numbers()
    data.seed(1)
    expected = tuple(np.random.RandomState(1).choice(6, size=3, replace=False))
    assert data.sample_task().index == expected
    assert len(data) == math.comb(6, 3) == len(list(data))
    assert len(CombinationMetaDataset(Many(meta_train=True), 30)) == 2**63 - 1


class Many(NumberClasses):
    num_classes = 10_000


# --- transforms of classes and targets


def test_augmentations_make_classes():
    data = NumberClasses(meta_train=True, class_augmentations=[[plus_sixty], [plus_sixty]])
    assert len(data) == 12
    plain, augmented = data[2], data[8]
    assert plain[1] == (torch.tensor(21.0), ("class 2", None))
    assert augmented[1] == (torch.tensor(21.0), ("class 8", plus_sixty))
    assert FixedCategory(plus_sixty)("a") == ("a", plus_sixty)
    assert DefaultTargetTransform(data.class_augmentations)(("a", plus_sixty)) == ("a", 1)
    task = CombinationMetaDataset(data, 2)[(2, 8)]
    assert [task[i][1][1] for i in (0, 10)] == [0, 1]


def test_categories_are_numbered_as_they_come_if_their_number_is_open():
    transform = Categorical()
    assert [transform(each) for each in "abac"] == [0, 1, 0, 2]
    transform.reset()
    assert transform("c") == 0


def test_rotations_and_flips():
    pixels = np.arange(9, dtype=np.uint8).reshape(3, 3)
    image = Image.fromarray(pixels)
    for angle in (90, 180, 270):
        np.testing.assert_array_equal(np.asarray(Rotation(angle)(image)), np.rot90(pixels, angle // 90))
    np.testing.assert_array_equal(np.asarray(HorizontalFlip()(image)), pixels[:, ::-1])
    np.testing.assert_array_equal(np.asarray(VerticalFlip()(image)), pixels[::-1])
    several = Rotation([90, 450, 180])
    assert [repr(each) for each in several] == ["Rotation(90)", "Rotation(90)", "Rotation(180)"]
    assert len({*several, *HorizontalFlip()}) == 3
    with pytest.raises(ValueError, match="has several angles"):
        several(image)
    color = Rotation(45)(Image.new("RGB", (9, 9), (200, 100, 50)))
    assert color.getpixel((0, 0)) == (0, 0, 0)
    assert color.getpixel((4, 4)) == (200, 100, 50)


# --- loaders


def test_batches_hold_all_tasks_and_make_episodes():
    data = ClassSplitter(numbers(), num_train_per_class=1, num_test_per_class=2)
    random.seed(3)
    expected = [tuple(random.sample(range(6), 3)) for _ in range(4)]
    random.seed(3)
    batch = next(iter(BatchMetaDataLoader(data, batch_size=4)))
    x, y = batch["train"]
    assert [tuple(each) for each in (x // 10).int().tolist()] == expected
    assert sorted(y[0].tolist()) == [0, 1, 2]
    episodes = mf.Episodes.from_tasks(batch)
    assert [list(part.shape) for part in episodes] == [[4, 3], [4, 3], [4, 6], [4, 6]]
    assert torch.equal(episodes.y_qry, batch["test"][1])


def test_tasks_in_order_and_as_they_are():
    loader = MetaDataLoader(numbers(), batch_size=8, shuffle=False)
    indices = [task.index for tasks in loader for task in tasks]
    assert len(indices) == 20
    assert indices[:2] == [(0, 1, 2), (0, 1, 3)]
    assert len(next(iter(BatchMetaDataLoader(numbers(), batch_size=2, shuffle=False)))) == 2


def test_a_seeds_random_tasks_end_after_as_many_as_there_are():
    assert len(list(MetaDataLoader(numbers(), batch_size=1))) == 20


# --- sine waves


def test_sine_waves_are_the_originals():
    data = toy.Sinusoid(4, num_tasks=9, noise_std=0.5)
    data.seed(2)
    generator = np.random.RandomState(2)
    task = data[5]
    amplitude = generator.uniform(0.1, 5.0, size=9)[5]
    phase = generator.uniform(0, np.pi, size=9)[5]
    x = generator.uniform(-5.0, 5.0, size=(4, 1))
    y = amplitude * np.sin(x - phase) + 0.5 * generator.randn(4, 1)
    np.testing.assert_array_equal(np.stack([task[i][0] for i in range(4)]), x)
    np.testing.assert_allclose(np.stack([task[i][1] for i in range(4)]), y, rtol=1e-14)
    assert len(data) == 9
    assert isinstance(data, MetaDataset)


def test_sine_waves_in_batches():
    data = toy.helpers.sinusoid(5, test_shots=3, seed=1, num_tasks=10, target_transform=torch.from_numpy)
    batch = next(iter(BatchMetaDataLoader(data, batch_size=4)))
    assert [list(each.shape) for each in (*batch["train"], *batch["test"])] == [[4, 5, 1]] * 2 + [[4, 3, 1]] * 2
    assert batch["train"][1].dtype == torch.float64


# --- images


@pytest.fixture
def hdf5(tmp_path):
    """A folder with files that torchmeta makes; a pixel says the class of an image."""
    h5py = pytest.importorskip("h5py")
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "miniimagenet").mkdir()
    names = [["images_background", "Greek", f"character{i:02d}"] for i in range(1, 5)]
    with h5py.File(tmp_path / "omniglot" / "data.hdf5", "w") as file:
        for i, name in enumerate(names):
            file.create_dataset("/".join(name), data=np.full((20, 105, 105), 40 * i, np.uint8))
    with h5py.File(tmp_path / "miniimagenet" / "val_data.hdf5", "w") as file:
        for i in range(4):
            file.create_dataset(f"datasets/n{i}", data=np.full((6, 84, 84, 3), 40 * i, np.uint8))
    (tmp_path / "omniglot" / "vinyals_train_labels.json").write_text(json.dumps(names))
    (tmp_path / "miniimagenet" / "val_labels.json").write_text(json.dumps([f"n{i}" for i in range(4)]))
    return tmp_path


def test_images_come_from_torchmetas_own_files(hdf5):
    letters = omniglot(hdf5, shots=2, ways=3, test_shots=4, seed=0, meta_train=True)
    assert len(letters.dataset) == 16
    for data, shape in ((letters, (1, 28, 28)), (miniimagenet(hdf5, 2, 3, test_shots=4, meta_val=True), (3, 84, 84))):
        batch = next(iter(BatchMetaDataLoader(data, batch_size=2)))
        assert batch["train"][0].shape == (2, 6, *shape)
        assert batch["test"][0].shape == (2, 12, *shape)
        assert ((batch["test"][0] * 255) % 40 < 1e-3).all()
        assert mf.Episodes.from_tasks(batch).y_spt.max() == 2


def test_files_of_hdf5_are_opened_anew_in_other_processes(hdf5):
    data = omniglot(hdf5, shots=1, ways=2, meta_train=True)
    next(iter(BatchMetaDataLoader(data, batch_size=1)))
    batch = next(iter(BatchMetaDataLoader(data, batch_size=2, num_workers=1)))
    assert batch["train"][0].shape == (2, 2, 1, 28, 28)


@pytest.fixture
def omniglot_folder(tmp_path):
    """All of Omniglot as maml_fast prepares it, blank but for some drawings of the 13th character."""
    path = tmp_path / "omniglot_105.npy"
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (1623, 20, 1, 105, 105))  # a sparse file
    pixels[12, :3] = 255
    pixels.flush()
    return tmp_path


def test_omniglot_comes_from_maml_fasts_data(omniglot_folder):
    kept = {"transform": np.asarray, "num_classes_per_task": 2}
    data = Omniglot(omniglot_folder, meta_train=True, **kept)
    sizes = [len(Omniglot(omniglot_folder, meta_split=split, **kept).dataset) for split in ("train", "val", "test")]
    assert sizes == [1028, 172, 423]
    assert len(Omniglot(omniglot_folder, meta_train=True, use_vinyals_split=False, **kept).dataset) == 964
    image, (name, augmentation) = data.dataset[12][0]
    assert name == "images_background/Alphabet_of_the_Magi/character13"
    assert augmentation is None
    assert image.shape == (105, 105)
    assert (image == 0).all()  # white paper is black there
    assert (data.dataset[12][3][0] == 255).all()
    with pytest.raises(ValueError, match="without use_vinyals_split there is no split val"):
        Omniglot(omniglot_folder, 2, meta_val=True, use_vinyals_split=False)


def test_missing_images_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="images_background"):
        Omniglot(tmp_path, 2, meta_train=True)
    with pytest.raises(FileNotFoundError):
        MiniImagenet(tmp_path, 2, meta_train=True)


def test_mini_imagenet_comes_from_maml_fasts_data(tmp_path, cache_folder):
    for part in ("train", "val", "test"):
        for label in range(3):
            folder = tmp_path / "miniimagenet" / part / f"{part}{label}"
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (84, 84), (50 * label, 90 * i, 7)).save(folder / f"{i}.png")
    data = MiniImagenet(tmp_path, 2, meta_test=True)
    image, (name, _) = data.dataset[2][1]
    assert name == "test2"
    assert image.getpixel((3, 5)) == (100, 90, 7)
