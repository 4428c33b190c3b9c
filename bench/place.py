"""Where all peers compute and with which precision; passed to each process, which keeps to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

DEVICES = ("cpu", "cuda")
PRECISIONS = ("exact", "tf32")  # of the products of float32


@dataclass(frozen=True)
class Place:
    """PyTorch's threads, the device, and the precision of its products."""

    threads: int
    device: str = "cpu"
    precision: str = "exact"

    def __str__(self) -> str:
        return f"{self.device}, {self.threads} threads, precision {self.precision}"

    def keep_to(self) -> None:
        """Apply these settings to this process: to PyTorch and to cuDNN, whose own default is TF32.

        On a GPU cuDNN tries its kernels for every shape, in warm-ups, and takes the fastest: PyTorch at its best.
        """
        tf32 = self.precision == "tf32"
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = self.device == "cuda"
