from __future__ import annotations

import copy
import multiprocessing
import operator
import os
import pickle
import re
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_fast.data import ImageBank

pytestmark = pytest.mark.backendless


def pixels(n_classes=4, n_images=3, channels=1, height=5, width=6) -> np.ndarray:
    shape = (n_classes, n_images, channels, height, width)
    return np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def npy(tmp_path):
    path = tmp_path / "omniglot.npy"
    np.save(path, pixels())
    return path


def test_from_array_is_a_view():
    array = pixels()
    bank = ImageBank.from_array(array, class_names=["a", "b", "c", "d"], name="letters")
    assert np.shares_memory(bank.images, array)
    assert bank.images.shape == (12, 1, 5, 6)
    assert (bank.n_classes, len(bank), bank.image_shape) == (4, 4, (1, 5, 6))
    assert (bank.class_names, bank.name) == (("a", "b", "c", "d"), "letters")
    assert bank.starts.dtype == bank.counts.dtype == np.int64
    for i in range(4):
        np.testing.assert_array_equal(bank[i], array[i])


def test_from_array_copies_what_is_not_contiguous():
    array = pixels()
    for view in (array[:, :, :, ::-1], array.transpose(1, 0, 2, 3, 4), array[::2, :, :, :, :3]):
        bank = ImageBank.from_array(view)
        assert bank.images.flags.c_contiguous
        np.testing.assert_array_equal(np.stack(list(bank)), view)


def test_classes_of_unequal_size():
    images = pixels(1, 10)[0]
    bank = ImageBank(images, np.array([0, 7]), np.array([7, 3]), ("many", "few"), "two")
    np.testing.assert_array_equal(bank[1], images[7:])
    np.testing.assert_array_equal(bank[-2], images[:7])
    assert repr(bank) == "<ImageBank 'two': 2 classes x 3-7 images of (1, 5, 6)>"


def test_ranges_cannot_be_moved_after_the_check():
    starts = np.array([0, 3])
    bank = ImageBank(pixels(1, 6)[0], starts, np.array([3, 3]), ("a", "b"))
    starts[0] = 100
    assert bank.starts[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        bank.counts[0] = 100


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_select(data):
    n_classes = data.draw(st.integers(1, 8))
    bank = ImageBank.from_array(pixels(n_classes, 2))
    chosen = data.draw(st.lists(st.integers(0, n_classes - 1), min_size=1, unique=True))
    signed = [i - n_classes * data.draw(st.booleans()) for i in chosen]
    for classes in (signed, np.array(signed), tuple(signed)):
        selected = bank.select(classes, "some")
        assert selected.class_names == tuple(bank.class_names[i] for i in chosen)
        assert selected.images is bank.images
        assert selected.name == "some"
        for i, j in enumerate(chosen):
            np.testing.assert_array_equal(selected[i], bank[j])


def test_select_by_slice_and_again():
    bank = ImageBank.from_array(pixels())
    assert bank.select(slice(1, None, 2)).class_names == ("class 1", "class 3")
    assert bank.select(slice(1, 4)).select([2, 0]).class_names == ("class 3", "class 1")


BAD_SELECTIONS = {
    "beyond": ([0, 4], ValueError, "class 4 is not in bank 'array', which has classes 0 to 3"),
    "before": ([-5], ValueError, "class -5"),
    "twice": ([1, -3], ValueError, "class 1 is selected more than once"),
    "none": ([], ValueError, "no class"),
    "empty slice": (slice(4, None), ValueError, "no class"),
    "mask": (np.array([True, False, True, False]), TypeError, "class numbers"),
    "floats": ([0.0, 1.0], TypeError, "class numbers"),
    "a number": (2, TypeError, "class numbers"),
    "names": (["class 1"], TypeError, "class numbers"),
}


@pytest.mark.parametrize(("classes", "error", "message"), BAD_SELECTIONS.values(), ids=BAD_SELECTIONS)
def test_bad_selection(classes, error, message):
    with pytest.raises(error, match=message):
        ImageBank.from_array(pixels()).select(classes)


@pytest.mark.parametrize(("i", "error"), [(4, IndexError), (-5, IndexError), (1.0, TypeError), (slice(2), TypeError)])
def test_bad_index(i, error):
    with pytest.raises(error):
        ImageBank.from_array(pixels())[i]


IMAGES = pixels(1, 6)[0]
BAD_BANKS = {
    "list": ({"images": IMAGES.tolist()}, TypeError, r"images must be a NumPy array, got \[\[\[\["),
    "float in 0-1": ({"images": IMAGES / 255}, TypeError, r"float64 from .*; save \(array \* 255.0\).round"),
    "float in 0-255": ({"images": IMAGES.astype(np.float32)}, TypeError, r"float32 from .*; save array.round"),
    "int64": ({"images": IMAGES.astype(np.int64)}, TypeError, "must be uint8, got int64"),
    "three axes": ({"images": IMAGES[:, 0]}, ValueError, r"\[M, C, H, W\].* got shape \(6, 5, 6\)"),
    "no pixels": ({"images": IMAGES[:, :, :0]}, ValueError, r"got shape \(6, 1, 0, 6\)"),
    "strided": ({"images": IMAGES[:, :, :, ::2]}, ValueError, "ascontiguousarray"),
    "float starts": ({"starts": np.array([0.0, 3.0])}, TypeError, "starts must be .* integers, got float64"),
    "starts in two axes": ({"starts": np.array([[0, 3]])}, TypeError, r"of shape \(1, 2\)"),
    "too few counts": ({"counts": np.array([3])}, ValueError, "equally long, got 2, 1 and 2"),
    "count 0": ({"counts": np.array([3, 0])}, ValueError, r"class 1 \('b'\) has 0 images"),
    "count below 0": ({"counts": np.array([3, -1])}, ValueError, "has -1 images"),
    "start below 0": ({"starts": np.array([-1, 3])}, ValueError, r"class 0 \('a'\) .* from image -1"),
    "beyond the end": ({"starts": np.array([0, 4])}, ValueError, "class 1 .* bank 'x' has only 6 images"),
    "overflow": ({"starts": np.array([0, 2**63 - 1])}, ValueError, "class 1"),
    "same name twice": ({"class_names": ("a", "a")}, ValueError, "'a' occurs more than once"),
    "names in one string": ({"class_names": "ab"}, TypeError, "class_names must be a sequence, got 'ab'"),
    "number as name": ({"class_names": ("a", 1)}, TypeError, r"class_names\[1\] must be a string, got 1"),
    "no classes": (
        {"starts": np.array([], np.int64), "counts": np.array([], np.int64), "class_names": ()},
        ValueError,
        "has no classes",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD_BANKS.values(), ids=BAD_BANKS)
def test_bad_bank(changes, error, message):
    good = {
        "images": IMAGES,
        "starts": np.array([0, 3]),
        "counts": np.array([3, 3]),
        "class_names": ("a", "b"),
        "name": "x",
    }
    ImageBank(**good)
    with pytest.raises(error, match=message):
        ImageBank(**{**good, **changes})


BAD_ARRAYS = {
    "list": ([[1]], TypeError, r"array must be a NumPy array, got \[\[1\]\]; use np.asarray"),
    "four axes": (pixels()[0], ValueError, r"\[n_classes, n_images, C, H, W\].*\(3, 1, 5, 6\)"),
    "no classes": (pixels()[:0], ValueError, "none of them 0"),
    "float": (pixels() / 255, TypeError, "float64"),
    "bool": (pixels() > 3, TypeError, "got bool"),
}


@pytest.mark.parametrize(("array", "error", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_array(array, error, message):
    with pytest.raises(error, match=message):
        ImageBank.from_array(array)


def test_bad_number_of_names():
    with pytest.raises(ValueError, match="equally long, got 4, 4 and 3"):
        ImageBank.from_array(pixels(), class_names=["a", "b", "c"])


def test_from_npy_maps_the_file(npy):
    bank = ImageBank.from_npy(npy)
    assert isinstance(bank.images, np.memmap)
    assert not bank.images.flags.writeable
    assert bank.name == "omniglot"
    np.testing.assert_array_equal(np.stack(list(bank)), pixels())
    assert bank.select([1, 2]).images is bank.images


def write(content: bytes):
    return lambda path: path.write_bytes(content)


def save(array, **options):
    return lambda path: np.save(path, array, **options)


def save_cut(path):
    np.save(path, pixels())
    os.truncate(path, path.stat().st_size - 1)


def save_with_header(text: bytes):
    return write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)


def save_npz(path):
    with path.open("wb") as file:
        np.savez(file, pixels())


BAD_FILES = {
    "missing": (lambda path: None, FileNotFoundError, "there is no file .*x.npy"),
    "folder": (lambda path: path.mkdir(), ValueError, "x.npy cannot be mapped .*Is a directory"),
    "empty": (write(b""), ValueError, "x.npy cannot be mapped as a .npy file"),
    "text": (write(b"hello there"), ValueError, "x.npy cannot be mapped .*magic string .*got b'hello '"),
    "npz": (save_npz, ValueError, "x.npy cannot be mapped .*magic string .*np.save"),
    "cut in the pixels": (save_cut, ValueError, "x.npy cannot be mapped"),
    "cut in the header": (write(b"\x93NUMPY\x01\x00\x76\x00{'descr'"), ValueError, "x.npy cannot be mapped"),
    "version of the future": (write(b"\x93NUMPY\x09\x00\x76\x00"), ValueError, "x.npy cannot be mapped"),
    "code as header": (save_with_header(b"__import__('os').getcwd()\n"), ValueError, "x.npy cannot be mapped"),
    "negative shape": (
        save_with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 2, 1, 5, 5)}\n"),
        ValueError,
        "x.npy cannot be mapped",
    ),
    "absurd shape": (
        save_with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999, 9999999999, 1, 5, 5)}\n"),
        ValueError,
        "x.npy cannot be mapped",
    ),
    "objects": (save(np.array([[None]]), allow_pickle=True), ValueError, "x.npy cannot be mapped .*Python objects"),
    "no images": (save(pixels()[:, :0]), ValueError, "holds an empty array"),
    "Fortran order": (save(np.asfortranarray(pixels())), ValueError, "Fortran order"),
    "float in 0-1": (
        save(pixels() / 255),
        TypeError,
        r"x.npy: pixels must be uint8, got float64 .*; save \(array \* 255",
    ),
    "four axes": (save(pixels()[0]), ValueError, r"x.npy: array must be \[n_classes, n_images, C, H, W\]"),
    "scalar": (save(np.uint8(3)), ValueError, "x.npy: array must be"),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_npy(make, error, message, tmp_path):
    path = tmp_path / "x.npy"
    make(path)
    with pytest.raises(error, match=message):
        ImageBank.from_npy(path)


def test_pickling_a_mapped_bank_maps_the_file_again(npy):
    bank = ImageBank.from_npy(npy).select([2, 0], "two")
    pickled = pickle.dumps(bank)
    assert len(pickled) < 1500  # no pixels in it
    for again in (pickle.loads(pickled), copy.deepcopy(bank)):
        assert isinstance(again.images, np.memmap)
        assert (again.class_names, again.name) == (bank.class_names, "two")
        np.testing.assert_array_equal(again[1], bank[1])


def test_pickling_a_bank_in_memory_takes_its_pixels_along():
    bank = ImageBank.from_array(pixels()).select([3])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(bank))[0], pixels()[3])


def test_unpickling_refuses_another_file_of_the_same_name(npy):
    pickled = pickle.dumps(ImageBank.from_npy(npy))
    np.save(npy, 255 - pixels())
    os.utime(npy, ns=(0, 0))
    with pytest.raises(RuntimeError, match="has changed since it was mapped"):
        pickle.loads(pickled)
    npy.unlink()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        pickle.loads(pickled)


def test_a_mapped_bank_reaches_a_spawned_process(npy):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        theirs = pool.submit(operator.getitem, ImageBank.from_npy(npy), 1).result()  # a function a child can import
    np.testing.assert_array_equal(theirs, pixels()[1])


BRIGHTNESS = np.linspace(0, 1, 40).reshape(1, 1, 1, 4, 10)


@pytest.mark.parametrize(
    "array",
    [
        BRIGHTNESS > 0.5,
        BRIGHTNESS.astype(np.float16),
        BRIGHTNESS.astype(np.float32),
        BRIGHTNESS * 2 - 1,
        BRIGHTNESS * 255,
        BRIGHTNESS * 65535,
        (BRIGHTNESS > 0.5).astype(np.int8),
        (BRIGHTNESS * 255).astype(np.int16),
        (BRIGHTNESS * 4095).astype(np.uint16),
        (BRIGHTNESS * 65535).astype(np.uint16),
        (BRIGHTNESS * 65535).astype(np.int64),
        (BRIGHTNESS * 65535 - 32768).astype(np.int16),
        BRIGHTNESS * 4.6 - 2.1,  # normalized by mean and deviation
    ],
    ids=lambda array: f"{array.dtype} {array.min():g} to {array.max():g}",
)
def test_the_advice_for_other_pixels_runs_and_keeps_them(array):
    with pytest.raises(TypeError, match="pixels must be uint8") as refused:
        ImageBank.from_array(array)
    advice = re.search(r"save (.*) instead", str(refused.value))
    assert advice is not None
    done = eval(advice[1], {"array": array, "np": np})
    assert done.dtype == np.uint8
    assert np.abs(done.astype(float) - 255 * BRIGHTNESS).max() < (2 if array.max() > 1 or array.min() < 0 else 128)
    assert np.corrcoef(done.ravel().astype(float), array.ravel().astype(float))[0, 1] > 0.999
    assert (done.min(), done.max()) == (0, 255)
    ImageBank.from_array(done)


@pytest.mark.parametrize("array", [BRIGHTNESS * np.nan, BRIGHTNESS + np.inf, BRIGHTNESS.astype(complex)])
def test_pixels_that_no_advice_is_for(array):
    with pytest.raises(TypeError, match="pixels must be uint8, numbers from 0 to 255; got"):
        ImageBank.from_array(array)
