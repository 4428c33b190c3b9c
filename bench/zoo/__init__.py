"""Nets as people write them, each an entry of ``ZOO``. Each family has a file; add a new net there."""

from __future__ import annotations

from zoo import conv4, mlps, resnets, sequences
from zoo.entry import Entry, Size

__all__ = ["ZOO", "Entry", "Size"]

ZOO: dict[str, Entry] = {**conv4.NETS, **resnets.NETS, **mlps.NETS, **sequences.NETS}
