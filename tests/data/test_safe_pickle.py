"""Pickled arrays of every Python, protocol and NumPy are read; whatever else a pickle asks for is refused, unrun."""

from __future__ import annotations

import base64
import collections
import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest

from maml_fast.data._safe_pickle import read_pickle

pytestmark = pytest.mark.backendless

# Written by Python 2.7.18 and NumPy 1.16.6: {'image_data': array, 'class_dict': {'n02': [0, 2], 'n01': array([1, 3])}}.
PYTHON_2 = {
    0: "KGRwMQpTJ2ltYWdlX2RhdGEnCnAyCmNudW1weS5jb3JlLm11bHRpYXJyYXkKX3JlY29uc3RydWN0CnAzCihjbnVtcHkKbmRhcnJheQpwN"
    "AooSTAKdFMnYicKdFJwNQooSTEKKEk0CkkyCkkyCkkzCnRjbnVtcHkKZHR5cGUKcDYKKFMndTEnCkkwCkkxCnRScDcKKEkzClMnfCcKTk"
    "5OSS0xCkktMQpJMAp0YkkwMApTJ3h5ent8fX5ceDdmXHg4MFx4ODFceDgyXHg4M1x4ODRceDg1XHg4Nlx4ODdceDg4XHg4OVx4OGFceDh"
    "iXHg4Y1x4OGRceDhlXHg4Zlx4OTBceDkxXHg5Mlx4OTNceDk0XHg5NVx4OTZceDk3XHg5OFx4OTlceDlhXHg5Ylx4OWNceDlkXHg5ZVx4"
    "OWZceGEwXHhhMVx4YTJceGEzXHhhNFx4YTVceGE2XHhhNycKdGJzUydjbGFzc19kaWN0JwpwOAooZHA5ClMnbjAxJwpwMTAKZzMKKGc0C"
    "ihJMAp0UydiJwp0UnAxMQooSTEKKEkyCnRnNgooUydpOCcKSTAKSTEKdFJwMTIKKEkzClMnPCcKTk5OSS0xCkktMQpJMAp0YkkwMApTJ1"
    "x4MDFceDAwXHgwMFx4MDBceDAwXHgwMFx4MDBceDAwXHgwM1x4MDBceDAwXHgwMFx4MDBceDAwXHgwMFx4MDAnCnRic1MnbjAyJwpwMTM"
    "KKGxwMTQKSTAKYUkyCmFzcy4=",
    2: "gAJ9cQEoVQppbWFnZV9kYXRhcQJjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApxA2NudW1weQpuZGFycmF5CnEESwCFV"
    "QFih1JxBShLAShLBEsCSwJLA3RjbnVtcHkKZHR5cGUKcQZVAnUxSwBLAYdScQcoSwNVAXxOTk5K/////0r/////SwB0YolVMHh5ent8fX"
    "5/gIGCg4SFhoeIiYqLjI2Oj5CRkpOUlZaXmJmam5ydnp+goaKjpKWmp3RiVQpjbGFzc19kaWN0cQh9cQkoVQNuMDFxCmgDaARLAIVVAWK"
    "HUnELKEsBSwKFaAZVAmk4SwBLAYdScQwoSwNVATxOTk5K/////0r/////SwB0YolVEAEAAAAAAAAAAwAAAAAAAAB0YlUDbjAycQ1dcQ4o"
    "SwBLAmV1dS4=",
}
IMAGES = (120 + np.arange(48, dtype=np.uint8)).reshape(4, 2, 2, 3)
ARRAYS = {
    "bytes": IMAGES,
    "Fortran order": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i4"),
}


def read(content: bytes, tmp_path: Path):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    return read_pickle(path)


@pytest.mark.parametrize("protocol", PYTHON_2)
def test_pickles_of_python_2(protocol, tmp_path):
    content = read(base64.b64decode(PYTHON_2[protocol]), tmp_path)
    np.testing.assert_array_equal(content["image_data"], IMAGES)
    assert content["class_dict"]["n02"] == [0, 2]
    assert content["class_dict"]["n01"].tolist() == [1, 3]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_python_3(protocol, tmp_path):
    plain = {"a": [1, "x", None, 2.5, b"\xff", True], "b": {"c": -1}}
    content = read(pickle.dumps({**ARRAYS, **plain, "number": np.int64(-7)}, protocol), tmp_path)
    assert {name: content[name] for name in plain} == plain
    assert content["number"] == -7
    for name, array in ARRAYS.items():
        assert content[name].dtype == array.dtype
        np.testing.assert_array_equal(content[name], array)


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_old_and_new_numpy(package, tmp_path):
    content = pickle.dumps(IMAGES, 2)
    assert b"cnumpy._core.multiarray\n" in content or b"cnumpy.core.multiarray\n" in content
    for known in (b"numpy._core", b"numpy.core"):
        content = content.replace(b"c%s.multiarray\n" % known, b"c%s.multiarray\n" % package)
    np.testing.assert_array_equal(read(content, tmp_path), IMAGES)


class Run:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_command_is_refused_and_not_run(protocol, tmp_path):
    witness = tmp_path / "witness"
    content = pickle.dumps({"image_data": Run(os.system, f"touch '{witness}'")}, protocol)
    with pytest.raises(ValueError, match=r"x\.pkl cannot be read as a pickle: it asks to run \w+\.system.*nothing was"):
        read(content, tmp_path)
    assert not witness.exists()
    pickle.loads(content)  # the witness is not deaf
    assert witness.exists()


REFUSED = {
    "builtins": (pickle.dumps(Run(eval, "1 + 1"), 4), r"builtins\.eval"),
    "import": (pickle.dumps(Run(__import__, "os"), 4), r"builtins\.__import__"),
    "getattr": (pickle.dumps(Run(getattr, "x", "upper"), 4), r"builtins\.getattr"),
    "other parts of NumPy": (pickle.dumps(Run(np.fromfile, "x"), 4), r"numpy\.fromfile"),
    "a method of what is known": (b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.", r"numpy\.ndarray\.dumps"),
    "other containers": (pickle.dumps(collections.OrderedDict(a=1), 4), r"collections\.OrderedDict"),
    "other encodings": (
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x03\x00\x00\x00hex\x86R.",
        "encode text as 'hex'",
    ),
    "Python objects in an array": (pickle.dumps(np.array([{}], object), 4), "dtype 'O8'"),
    "records": (pickle.dumps(np.zeros(2, [("a", "u1")]), 4), "dtype 'V1'"),
    "floats": (pickle.dumps(np.zeros(2), 4), "dtype 'f8'; only integers"),
    "attributes of a class": (b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00xK\x01sb.", "missing 1 required"),
    "attributes of its instance": (
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R}X\x01\x00\x00\x00xK\x01sb.",
        "cannot be read as a pickle: 1",
    ),
    "too few bytes": (pickle.dumps(IMAGES, 4).replace(b"K\x04K\x02K\x02K\x03", b"K\x04K\x02K\x02K\x04"), "48 bytes"),
    "cut short": (pickle.dumps(IMAGES, 4)[:-20], "exhausted|truncated"),
    "empty": (b"", "EOFError"),
    "no pickle": (b"hello", "cannot be read as a pickle"),
    "an array without content": (b"\x80\x02cnumpy\nndarray\n)R.", "does not fill it"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "contains itself"),
    "another file's object": (b"\x80\x02X\x01\x00\x00\x00xQ.", "persistent"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(content, tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.pkl"):
        read_pickle(tmp_path / "x.pkl")


def test_what_is_shared_is_finished_once(tmp_path):
    """A few lists of lists that share lists are more leaves than a machine has memory for."""
    shared: list = [1, 2]
    for _ in range(60):
        shared = [shared, shared]
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(shared))
    found = read_pickle(tmp_path / "bomb.pkl")
    assert found[0] is found[1]


def test_a_number_of_a_value_takes_no_memory(tmp_path):
    (tmp_path / "bomb.pkl").write_bytes(pickle.PROTO + b"\x02" + b"]" + b"r" + (2**32 - 1).to_bytes(4, "little") + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_pickle(tmp_path / "bomb.pkl") == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
