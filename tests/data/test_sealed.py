"""What is kept in the cache is trusted if it is what was written, and nobody else can have written it."""

from __future__ import annotations

import os
import shutil

import pytest

from maml_fast.data._sealed import is_sound, seal

pytestmark = pytest.mark.backendless


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "bank.npy"
    path.write_bytes(os.urandom(1000))
    seal(path)
    return path


def test_what_was_sealed_is_sound_and_so_is_a_copy(file, tmp_path):
    assert is_sound(file)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (file, file.with_name("bank.npy.sha256")):
        shutil.copyfile(path, copy / path.name)  # with another time
    os.utime(copy / file.name, (1, 1))
    assert is_sound(copy / file.name)


@pytest.mark.parametrize("content", [b"", os.urandom(999), os.urandom(1000)], ids=["empty", "short", "other"])
def test_other_content_is_not(file, content):
    file.write_bytes(content)
    os.utime(file, (1, 1))
    assert not is_sound(file)


@pytest.mark.parametrize("name", ["bank.npy", "bank.npy.sha256"])
def test_what_everybody_may_write_is_not(file, name):
    file.with_name(name).chmod(0o666)
    assert not is_sound(file)


@pytest.mark.parametrize("name", ["bank.npy", "bank.npy.sha256"])
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_another_users_is_not(file, name):
    os.chown(file.with_name(name), 65534, 65534)
    assert not is_sound(file)


@pytest.mark.parametrize("content", ["", "x", "1000 5", "\xff"])
def test_a_damaged_seal_is_none(file, content):
    file.with_name("bank.npy.sha256").write_text(content, encoding="latin-1")
    assert not is_sound(file)


def test_without_a_seal_or_a_file_there_is_nothing_to_trust(file):
    file.with_name("bank.npy.sha256").unlink()
    assert not is_sound(file)
    file.unlink()
    assert not is_sound(file)
