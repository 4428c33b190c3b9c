"""The file format of adapted models: tensors and plain values only, so that opening a file can't run code from it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maml_fast._arguments import instance, location, many, takes, text
from maml_fast.data._files import write_atomically
from maml_fast.deployment._adapted import Adapted
from maml_fast.deployment._layers import build, describe
from maml_fast.deployment._preprocessing import Preprocessing
from maml_fast.train._record import load_tensors

__all__ = ["open_adapted", "save_adapted"]

FORMAT = 1
_KIND = "maml_fast adapted model"
_ENTRIES = {"kind", "format", "layers", "tensors", "class_names", "preprocessing", "estimate", "provenance"}


@takes(adapted=instance(Adapted), path=location)
def save_adapted(adapted: Adapted, path: Path | str) -> None:
    """Write an adapted model to one file, atomically; :func:`open_adapted` reads it.

    Raises:
        ValueError: if its module has a layer that the file format can't store.
        RuntimeError: if the file can't be written.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in adapted.module.state_dict().items()}
    content = {"layers": describe(adapted.module), "tensors": tensors, **adapted.described()}
    buffer = io.BytesIO()
    torch.save({"kind": _KIND, "format": FORMAT, **content}, buffer)
    write_atomically(Path(path), buffer.getvalue(), make_folders=False)


@takes(path=location)
def open_adapted(path: Path | str) -> Adapted:
    """Read a model that :func:`save_adapted` wrote, onto the CPU; no code from the file is run.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is damaged, is not an adapted model, or has another format version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; maml-fast adapt writes one")
    try:
        content = load_tensors(path)
    except ValueError as error:
        raise ValueError(f"{path} can't be read: truncated, damaged or not an adapted model ({error})") from error
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise ValueError(f"{path} holds no adapted model; give a file that maml-fast adapt wrote")
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} is of format {content.get('format')!r}, and this maml_fast reads {FORMAT}")
    try:
        return _adapted(content)
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged ({reason}); adapt again") from error


def _adapted(content: dict[str, Any]) -> Adapted:
    if content.keys() != _ENTRIES:
        raise ValueError(f"it holds {', '.join(map(str, content))}")
    module = _module(content["layers"], content["tensors"])
    preprocessing = Preprocessing.read(content["preprocessing"])
    names = many(text)("class_names", content["class_names"])
    found = Adapted(module, names, preprocessing, content["estimate"], content["provenance"])
    outputs = found.probabilities(torch.zeros(1, *preprocessing.image_shape))
    if outputs.shape != (1, len(names)):
        raise ValueError(f"{len(names)} classes, but outputs {list(outputs.shape)}")
    return found


def _module(layers: Any, tensors: Any) -> nn.Module:
    module = build(layers)
    if not isinstance(tensors, dict):
        raise ValueError("it holds no tensors")
    for name, wanted in module.state_dict().items():
        tensor = tensors.get(name)
        if not isinstance(tensor, Tensor) or tensor.dtype != wanted.dtype or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} is missing, of another type or not finite")
    module.load_state_dict(tensors, assign=True)
    return module.eval()
