"""Adapted models for other programs, held against themselves."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maml_fast import MAML, deploy, models
from maml_fast.cli import main
from maml_fast.deployment import Adapted, Preprocessing
from maml_fast.deployment._formats import ENTRY, FORMATS, save_as

pytestmark = [pytest.mark.backendless, pytest.mark.filterwarnings("ignore")]  # PyTorch's exporters warn of their own

MISSING = [each for each in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(each) is None]
X = torch.rand(5, 3, 16, 16)


@pytest.fixture(scope="module")
def model() -> Adapted:
    torch.manual_seed(0)
    net = models.Conv4(5, in_channels=3, hidden=4, image_size=16, strided=True)
    module = deploy(
        MAML(net, inner_lr=0.4, inner_steps=2, head="zero"), torch.rand(6, 3, 16, 16), torch.arange(3).repeat(2)
    )
    return Adapted(module, ("a", "b", "c"), Preprocessing(16, "RGB", "unit"), {"right": 3}, {"run": "r"})


def test_export(model: Adapted, tmp_path: Path) -> None:
    save_as("export", model, tmp_path / "model.pt2")
    inside = {ENTRY: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=inside)
    assert json.loads(inside[ENTRY]) == model.described()
    for images in (X, X[:1]):
        torch.testing.assert_close(program.module()(images), model.module(images), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; pip install 'maml_fast[onnx]'")
def test_onnx(model: Adapted, tmp_path: Path) -> None:
    import onnxruntime

    save_as("onnx", model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["maml_fast"]) == model.described()
    for images in (X, X[:1]):
        (found,) = session.run(["logits"], {"images": images.numpy()})
        np.testing.assert_allclose(found, model.module(images).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_the_command_line_has_them_all() -> None:
    (option,) = (each for each in main.commands["adapt"].params if each.name == "format")
    assert tuple(option.type.choices) == tuple(FORMATS)


def test_what_onnx_needs_is_named(model: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"--format onnx needs onnx and onnxscript: pip install 'maml_fast\[onnx\]'"):
        save_as("onnx", model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
