"""For processes that tests start: torch says that there is a GPU, on which nothing could run."""

from __future__ import annotations

import torch

CALLS = {
    "is_available": True,
    "get_device_capability": (9, 0),
    "get_device_name": "Slide Rule 7",
    "mem_get_info": (80 * 2**30, 80 * 2**30),
}

for name, answer in CALLS.items():
    setattr(torch.cuda, name, lambda *_, answer=answer: answer)
