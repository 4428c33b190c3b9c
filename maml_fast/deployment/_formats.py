"""Export adapted models to ONNX and ``torch.export``, with their description inside the file."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from maml_fast.data._files import write_atomically
from maml_fast.deployment._adapted import Adapted
from maml_fast.deployment._file import save_adapted

__all__ = ["FORMATS", "check_format", "save_as"]

_NEEDED = ("onnx", "onnxscript")  # packages that the ONNX export needs
ENTRY = "maml_fast.json"  # the description in a torch.export file; in ONNX it is the metadata entry "maml_fast"


def save_onnx(adapted: Adapted, path: Path) -> None:
    """Write an ONNX model: input ``images`` [N, C, H, W], float32, scaled by preprocessing; output ``logits``."""
    import onnx
    import torch.onnx

    with _quiet():
        program = torch.onnx.export(
            adapted.module,
            (_example(adapted),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=_any_batch(),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {"maml_fast": json.dumps(adapted.described())})
    onnx.checker.check_model(model)
    write_atomically(path, model.SerializeToString(), make_folders=False)


def save_exported(adapted: Adapted, path: Path) -> None:
    """Write a ``.pt2`` file for ``torch.export.load``: from images [N, C, H, W], float32 and scaled, to logits."""
    import torch.export  # not at the top: it imports much else

    with _quiet():
        program = torch.export.export(adapted.module, (_example(adapted),), dynamic_shapes=_any_batch())
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={ENTRY: json.dumps(adapted.described())})
    write_atomically(path, buffer.getvalue(), make_folders=False)


FORMATS: Mapping[str, Callable[[Adapted, Path], None]] = {
    "torch": save_adapted,
    "onnx": save_onnx,
    "export": save_exported,
}


def check_format(name: str) -> None:
    """Raise RuntimeError if a package that the format needs is not installed."""
    missing = [each for each in _NEEDED if importlib.util.find_spec(each) is None] if name == "onnx" else []
    if missing:
        raise RuntimeError(f"--format onnx needs {' and '.join(missing)}: pip install 'maml_fast[onnx]'")


def save_as(name: str, adapted: Adapted, path: Path) -> None:
    """Write an adapted model in one of :data:`FORMATS`."""
    check_format(name)
    FORMATS[name](adapted, path)


def _any_batch() -> tuple[Any, ...]:
    import torch.export

    return ({0: torch.export.Dim("batch")},)


def _example(adapted: Adapted) -> torch.Tensor:
    return torch.zeros(2, *adapted.preprocessing.image_shape)


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable gradients, and silence the exporters' warnings and logs: they concern PyTorch's internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
