"""From a run and a folder of photos to a file that names others, as the command line does it."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from photos import SHAPES, photo, write_photos
from PIL import Image

from maml_fast.cli import main
from maml_fast.data import read_folder
from maml_fast.data._numpy_sampler import scale_table
from maml_fast.deployment import Preprocessing, adapt_run, open_adapted
from maml_fast.deployment._support import read_support
from maml_fast.train._record import RunFolder

SEEN = Preprocessing(16, "L", "inverted")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_one_line_error(result: Result, text: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith("maml-fast: error: ")
    assert text in result.stderr


@pytest.fixture(scope="module")
def adapted(zero_run, tmp_path_factory) -> tuple[Path, Result]:
    """A file, and what the command printed."""
    folder = tmp_path_factory.mktemp("adapted")
    photos = write_photos(folder / "photos", {"circle": 4, "cross": 3, "box": 1})
    result = call("adapt", zero_run, photos, "--out", folder / "model.pt")
    assert result.exit_code == 0, result.output
    return folder / "model.pt", result


def test_the_command_says_what_it_saw_and_how_good_it_is(adapted: tuple[Path, Result]) -> None:
    path, result = adapted
    model = open_adapted(path)
    right, judged = model.estimate["right"], model.estimate["judged"]
    assert judged == 7
    assert f"{right} of 7 pictures classified correctly by models adapted without them" in result.stdout
    assert "1 not judged, the only picture of its class" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["1", "box", "1", "-"] in rows
    assert any(row[:3] == ["2", "circle", "4"] and row[4:] == ["of", "4"] for row in rows)
    assert str(path) in result.stdout
    with Image.open(path.with_suffix(".png")) as sheet:
        assert min(sheet.size) > 200
    assert result.stderr == ""


def test_the_file_says_what_it_is_of(adapted: tuple[Path, Result], zero_run: Path) -> None:
    model = open_adapted(adapted[0])
    assert model.class_names == ("box", "circle", "cross")
    assert model.preprocessing == SEEN
    provenance = model.provenance
    assert provenance["run"] == "run"
    assert provenance["iteration"] == 2
    assert provenance["arguments"] == RunFolder(zero_run).read_config()["arguments"]
    assert provenance["pictures"] == {
        "box": ["0.png"],
        "circle": ["0.png", "1.png", "2.png", "3.png"],
        "cross": ["0.png", "1.png", "2.png"],
    }
    assert provenance["inner_steps"] == 1  # as in training
    assert {"maml_fast", "torch", "python"} == provenance["versions"].keys()


def test_pictures_are_seen_as_in_training(tmp_path: Path) -> None:
    """By the same pixels as a bank of the same folder, scaled by the sampler's own table."""
    photos = write_photos(tmp_path / "photos", dict.fromkeys(SHAPES, 7))
    for channels in ("L", "RGB"):
        seen = Preprocessing(16, channels, "inverted")
        support, bank = read_support(photos, seen), read_folder(photos, 16, channels)
        assert support.class_names == bank.class_names
        for label in range(3):
            np.testing.assert_array_equal(support.pixels[support.labels == label], bank[label])
        np.testing.assert_array_equal(support.x.numpy(), scale_table("inverted")[support.pixels])
        assert support.labels.tolist() == [0, 1, 2] * 7


def test_a_turned_photo_is_seen_upright(tmp_path: Path) -> None:
    upright = photo("cross", 1).convert("RGB").resize((40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    pixels = [SEEN.conversion().decode(tmp_path / f"{name}.png") for name in ("upright", "turned")]
    np.testing.assert_array_equal(*pixels)


def test_a_picture_gets_the_same_answer_alone_and_among_others(adapted: tuple[Path, Result], tmp_path: Path) -> None:
    write_photos(tmp_path, dict.fromkeys(SHAPES, 9))
    pictures = sorted(tmp_path.rglob("*.*"))
    model = open_adapted(adapted[0])
    together = model.predict(pictures)
    assert together == [model.predict([picture])[0] for picture in pictures]
    for each in together:
        assert sum(each.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert each.probability == max(each.probabilities.values()) == each.probabilities[each.class_name]


def test_predictions_as_table_csv_and_json(adapted: tuple[Path, Result], tmp_path: Path) -> None:
    write_photos(tmp_path / "new", {"circle": 2})
    pictures = [tmp_path / "new" / "circle" / f"{number}.png" for number in (1, 0)]
    expected = open_adapted(adapted[0]).predict(pictures)

    result = call("predict", adapted[0], *pictures, "--format", "csv")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["picture"] for row in rows] == list(map(str, pictures))
    for row, each in zip(rows, expected, strict=True):
        assert (row["class"], float(row["probability"])) == (each.class_name, each.probability)
        assert {name: float(row[name]) for name in each.probabilities} == dict(each.probabilities)

    found = json.loads(call("predict", adapted[0], *pictures, "--format", "json").stdout)
    assert [each["probabilities"] for each in found] == [dict(each.probabilities) for each in expected]

    result = call("predict", adapted[0], tmp_path / "new" / "circle", "--sheet", tmp_path / "sheet.png")
    assert all(each.class_name in result.stdout and f"{each.probability:.1%}" in result.stdout for each in expected)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 200


def test_a_run_with_learned_rows_serves_other_numbers_and_says_how(whole, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", {"circle": 2, "cross": 2})
    lines: list[str] = []
    done = adapt_run(whole.path, photos, out=tmp_path / "model.pt", say=lines.append)
    assert done.model.class_names == ("circle", "cross")
    assert any("for each of 3 classes, and the 2 classes here start from these rows" in line for line in lines)


def test_names_of_any_kind_are_shown_as_they_are(zero_run: Path, photos: Path, tmp_path: Path) -> None:
    names = {"circle": "[red]circle", "cross": "$x_{", "box": "数据"}
    for shape, name in names.items():
        (photos / shape).rename(photos / name)
    result = call("adapt", zero_run, photos, "--out", tmp_path / "model.pt")
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in names.values())
    result = call("predict", tmp_path / "model.pt", photos / "数据", "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 0, result.output
    assert open_adapted(tmp_path / "model.pt").class_names == tuple(sorted(names.values()))


def test_copies_are_left_out_and_contradictions_refused(zero_run: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "circle" / "0.png", photos / "circle" / "copy.png")
    lines: list[str] = []
    done = adapt_run(zero_run, photos, out=tmp_path / "a.pt", judged=False, say=lines.append)
    assert done.support.counts == [1, 4, 3]
    assert any("copy.png, which is the same picture as 0.png" in line for line in lines)
    assert done.model.estimate == {}
    shutil.copy(photos / "circle" / "0.png", photos / "cross" / "copy.png")
    with pytest.raises(ValueError, match=r"circle/0\.png and .*cross/copy\.png are the same picture in two classes"):
        adapt_run(zero_run, photos, out=tmp_path / "b.pt")


def broken(folder: Path) -> None:
    (folder / "circle" / "broken.png").write_bytes((folder / "circle" / "0.png").read_bytes()[:60])


def emptied(folder: Path) -> None:
    shutil.rmtree(folder / "box")
    (folder / "box").mkdir()


def one_class(folder: Path) -> None:
    for name in ("box", "cross"):
        shutil.rmtree(folder / name)


def flat(folder: Path) -> None:
    for picture in list(folder.rglob("*.*")):
        picture.rename(folder / f"{picture.parent.name}{picture.name}")
    for name in SHAPES:
        (folder / name).rmdir()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (broken, "circle/broken.png cannot be used"),
        (emptied, "box holds no pictures; remove it, or put some there"),
        (one_class, "holds only one class, circle; at least two are needed"),
        (flat, "holds no class folders; put the pictures of every class into a folder of its own"),
        (shutil.rmtree, "there is no folder"),
    ],
)
def test_bad_folders_are_one_error_and_leave_nothing(zero_run: Path, photos: Path, damage, text: str) -> None:
    damage(photos)
    out = photos.parent / "model.pt"
    assert_one_line_error(call("adapt", zero_run, photos, "--out", out), text)
    assert list(photos.parent.glob("model*")) == []


def test_bad_calls(zero_run: Path, photos: Path, adapted: tuple[Path, Result], tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    assert_one_line_error(call("adapt", tmp_path, photos, "--out", out), "is not a run folder")
    assert_one_line_error(call("adapt", zero_run, photos), "--out")
    assert_one_line_error(call("adapt", zero_run, photos, "--out", adapted[0]), "exists already; choose another")
    assert_one_line_error(call("adapt", zero_run, photos, "--out", tmp_path / "no" / "m.pt"), "there is no folder")
    assert_one_line_error(call("adapt", zero_run, photos, "--out", out, "--inner-steps", -1), "inner_steps must be")
    assert_one_line_error(call("predict", adapted[0], tmp_path / "no.png"), "there is no picture")
    assert_one_line_error(call("predict", adapted[0], adapted[0]), "is not a picture that Pillow can read")
    assert_one_line_error(call("predict", photos / "box" / "0.png", photos / "box" / "0.png"), "can't be read")
    assert_one_line_error(call("predict", adapted[0]), "Missing argument 'PICTURES...'")
    assert_one_line_error(call("predict", adapted[0], photos), "holds no pictures")
    assert list(tmp_path.glob("*.pt")) == []


def test_a_damaged_checkpoint_is_one_error(zero_run: Path, photos: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(zero_run, tmp_path / "copy"))
    content = (run / "checkpoint.pt").read_bytes()
    (run / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    assert_one_line_error(call("adapt", run, photos, "--out", tmp_path / "m.pt"), "checkpoint.pt cannot be read")


def test_training_data_are_not_needed_nor_a_gpu(zero_run: Path, photos: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(zero_run, tmp_path / "copy"))
    config = json.loads((run / "config.json").read_text())
    config["arguments"] |= {"root": "/nowhere", "device": "cuda", "cuda_graph": True}
    config["arguments"]["dataset"] = "folder"
    (run / "config.json").write_text(json.dumps(config))
    state = RunFolder(run).load_checkpoint()
    RunFolder(run).save_checkpoint({name: each for name, each in state.items() if name != "arguments_sha256"})
    done = adapt_run(run, photos, out=tmp_path / "m.pt", judged=False)
    found, x = open_adapted(tmp_path / "m.pt"), done.support.x
    assert torch.equal(found.probabilities(x), done.model.probabilities(x))
