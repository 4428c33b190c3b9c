"""How thorough a run is to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import blocks
import pytest
import workloads


@dataclass(frozen=True)
class Settings:
    """From the command line. Every measurement is made ``sweeps`` times, each for about ``seconds``."""

    quick: bool
    sweeps: int
    seconds: float
    out: Path | None  # where the record goes

    @classmethod
    def of(cls, config: pytest.Config) -> Settings:
        """Read the options; in quick mode the defaults are smaller."""
        quick = config.getoption("--quick")
        sweeps, seconds = config.getoption("--sweeps"), config.getoption("--seconds")
        for name, value in (("--sweeps", sweeps), ("--seconds", seconds)):
            if value is not None and not value > 0:
                raise pytest.UsageError(f"{name} must be positive, got {value}")
        out = config.getoption("--out")
        default_sweeps, default_seconds = (1, 0.05) if quick else (3, 2.0)
        return cls(quick, sweeps or default_sweeps, seconds or default_seconds, None if out is None else Path(out))

    @property
    def workloads(self) -> tuple[workloads.Workload, ...]:
        """What to train on."""
        return workloads.QUICK if self.quick else workloads.WORKLOADS

    @property
    def blocks(self) -> tuple[blocks.Block, ...]:
        """Which conv blocks to time alone."""
        return blocks.QUICK if self.quick else blocks.BLOCKS


KEY = pytest.StashKey[Settings]()


def of(metafunc: pytest.Metafunc) -> Settings:
    """The settings, for a bench that makes its cases from them."""
    return metafunc.config.stash[KEY]
