"""The settings of a run of the benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import blocks
import pytest
import torch
import workloads
from measurements import Measurements
from peers import OURS, Learner, of_use_on
from place import Place
from zoo import workload as zoo_workload
from zoo.workload import ZooWorkload


@dataclass(frozen=True)
class Settings:
    """The options of the command line. Every measurement is made ``sweeps`` times, each for about ``seconds``."""

    quick: bool
    sweeps: int
    seconds: float
    out: Path | None  # where the record goes
    workloads: tuple[workloads.Workload, ...]  # what to train on
    algorithms: tuple[workloads.Workload, ...]  # one for every algorithm
    zoo: tuple[ZooWorkload, ...]  # every net that people write, both orders
    peers: tuple[type[Learner], ...]  # who trains; maml_fast always does
    place: Place

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
        place = _place(config.getoption("--device"), config.getoption("--precision"))
        known = workloads.QUICK if quick else workloads.WORKLOADS
        of_algorithms = workloads.QUICK_OF_ALGORITHMS if quick else workloads.OF_ALGORITHMS
        zoo = zoo_workload.QUICK if quick else zoo_workload.WORKLOADS
        wanted = _workloads((*known, *of_algorithms, *zoo), config.getoption("--workloads"))
        return cls(
            quick,
            sweeps or default_sweeps,
            seconds or default_seconds,
            None if out is None else Path(out),
            tuple(replace(workload, device=place.device) for workload in wanted if workload in known),
            tuple(replace(workload, device=place.device) for workload in wanted if workload in of_algorithms),
            tuple(workload for workload in wanted if workload in zoo),
            _peers(config.getoption("--peers"), place.device),
            place,
        )

    @property
    def kinds_of_episodes(self) -> tuple[workloads.Workload, ...]:
        """One workload of each kind of meta-batch: orders and inner steps make no difference to a sampler."""
        kinds: dict[object, workloads.Workload] = {}
        for workload in self.workloads:
            kinds.setdefault(workload.kind_of_episodes, workload)
        return tuple(kinds.values())

    @property
    def blocks(self) -> tuple[blocks.Block, ...]:
        """Return the conv blocks to time alone."""
        known = blocks.QUICK if self.quick else blocks.BLOCKS
        return tuple(replace(block, device=self.place.device) for block in known)


KEY = pytest.StashKey[Settings]()
FOUND = pytest.StashKey[Measurements]()


def of(metafunc: pytest.Metafunc) -> Settings:
    """The settings, for a bench that makes its cases from them."""
    return metafunc.config.stash[KEY]


def found_by(config: pytest.Config) -> Measurements:
    """Return what this run has measured so far."""
    return config.stash[FOUND]


def _place(device: str, precision: str) -> Place:
    """Raise ``UsageError`` if the device is not available here."""
    if device == "cpu" and precision != "exact":
        raise pytest.UsageError(f"--precision {precision} is for GPUs alone: add --device cuda, or leave it out")
    if device == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError(
            f"--device cuda: torch {torch.__version__} finds no CUDA device; install the GPU's driver and a torch for "
            "CUDA, or use --device cpu"
        )
    if precision == "tf32" and torch.cuda.get_device_capability() < (8, 0):
        raise pytest.UsageError(
            f"--precision tf32: {torch.cuda.get_device_name()} has none, it came with sm_80; use --precision exact"
        )
    return Place(torch.get_num_threads(), device, precision)


def _workloads(known: Sequence[Any], names: str | None) -> Sequence[Any]:
    if names is None:
        return known
    asked = _names("--workloads", names, [name for each in known for name in (each.name, each.family)])
    return tuple(each for each in known if {each.name, each.family} & asked)


def _peers(names: str | None, device: str) -> tuple[type[Learner], ...]:
    there = of_use_on(device)
    if names is None:
        return there
    asked = _names("--peers", names, [peer.name for peer in there])
    return tuple(peer for peer in there if issubclass(peer, OURS) or peer.name in asked)


def _names(option: str, names: str, known: Sequence[str]) -> set[str]:
    asked = set(names.split(","))
    unknown = sorted(asked - set(known))
    if unknown:
        there_are = ", ".join(dict.fromkeys(known))
        raise pytest.UsageError(f"{option}: there is no {', '.join(map(repr, unknown))}; there are {there_are}")
    return asked
