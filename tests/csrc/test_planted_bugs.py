"""Whether the tests of the GPU's kernels, which the host runs, would notice a bug in them."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from checkout import CSRC, TESTS

from maml_fast.native._toolchain import find_compiler

# On the reference there is nothing else to see than on the native kernels: once is enough.
pytestmark = pytest.mark.native

CPP, CUDA = TESTS / "csrc" / "cpp", TESTS / "csrc" / "cuda"
PLAYED = sorted(CUDA.glob("test_*.cpp"))
BLOCKS, ROUNDING = CUDA / "test_conv_block.cpp", CUDA / "test_rounding.cpp"
THIN, LOSSES = CUDA / "test_thin.cpp", CUDA / "test_class_losses.cpp"

# Each is a bug that a reader could make: a file, what it says, and what it is made to say. PLANTED is whether this bug
# was chosen. They are planted in this order.
BUGS = {
    "off by one in the padding": (
        "convolution/operands.cuh",
        "to * stride - padding;",
        "to * stride - padding + PLANTED;",
    ),
    "the wrong tap in the data gradient": (
        "convolution/gradient_operands.cuh",
        "of.from_row + row,",
        "of.from_row + row - PLANTED,",
    ),
    "a slab fetched before all have left its place": (
        "convolution/multiply.cuh",
        "__syncthreads();  // this slab is whole, and all have left the one before, whose place is free\n"
        "    fetch(slab + kStages - 1, last);",
        "if (PLANTED) fetch(slab + kStages - 1, last);\n"
        "    __syncthreads();  // this slab is whole\n"
        "    if (!PLANTED) fetch(slab + kStages - 1, last);",
    ),
    "no barrier between slabs": (
        "convolution/multiply.cuh",
        "__syncthreads();  // this slab is whole",
        "if (!PLANTED) __syncthreads();",
    ),
    "too short a wait for the copies": (
        "convolution/multiply.cuh",
        "WaitForCopies<kStages - 2>();",
        "PLANTED ? WaitForCopies<kStages - 1>() : WaitForCopies<kStages - 2>();",
    ),
    "no barrier before the tile takes the slabs' place": (
        "convolution/multiply.cuh",
        "WaitForCopies<0>();\n  __syncthreads();",
        "WaitForCopies<0>();\n  if (!PLANTED) __syncthreads();",
    ),
    "lanes mistaken in the plain sums": (
        "convolution/plain_math.cuh",
        "return Lane() % 16 / 2;",
        "return PLANTED ? Lane() % 8 : Lane() % 16 / 2;",
    ),
    "halves of a tensor core's rows swapped": (
        "convolution/tensor_math.cuh",
        "half * 8 + Group() :",
        "(PLANTED ? 1 - half : half) * 8 + Group() :",
    ),
    "a tensor core's rows from the wrong quarter": (
        "convolution/tensor_math.cuh",
        "q + Lane() / 16",
        "q + (PLANTED ? 1 - Lane() / 16 : Lane() / 16)",
    ),
    "remainders of a stride left out": (
        "convolution/gradient_operands.cuh",
        "= row + grid.padding - from_row * grid.stride;",
        "= PLANTED ? 0 : row + grid.padding - from_row * grid.stride;",
    ),
    "the taps of another class": (
        "convolution/gradient_operands.cuh",
        "has_most = across == grid.most_taps;",
        "has_most = across == grid.most_taps || PLANTED;",
    ),
    "a class's pixels stored past the image's end": (
        "convolution/data_gradient_product.cu",
        "to_row >= grid.to_height ||",
        "(to_row >= grid.to_height && !PLANTED) ||",
    ),
    "no barrier before sums are joined": ("reduce.cuh", "__syncthreads();", "if (!PLANTED) __syncthreads();"),
    "a tile's last row left out": (
        "convolution/multiply.cuh",
        "left = rows - job.row;",
        "left = rows - job.row - PLANTED;",
    ),
    "a tile stored past its end": (
        "convolution/multiply.cuh",
        "end = left < TileType::kRows ?",
        "end = left < TileType::kRows && !PLANTED ?",
    ),
    "a thread's last image left out": (
        "passes/norm_pool.cuh",
        "return end < of.batch ? end :",
        "return end < of.batch ? end - PLANTED :",
    ),
    "a thin block's pixels read before they lie there": (
        "thin/pixels.cuh",
        "    }\n    __syncthreads();",
        "    }\n    if (!PLANTED) __syncthreads();",
    ),
    "a thin block's taps from the row beside": (
        "thin/pixels.cuh",
        "tap / run * pitch",
        "tap / run * (pitch - PLANTED)",
    ),
    "a thin block's sums joined too early": (
        "thin/sums.cuh",
        "= sums[t];\n    __syncthreads();",
        "= sums[t];\n    if (!PLANTED) __syncthreads();",
    ),
    "more shared memory than a launch may have": (
        "thin/pixels.cuh",
        "while (thin.Pixels() + kPlySums > kMostShared)",
        "while (thin.Pixels() + kPlySums > (PLANTED ? 2 : 1) * kMostShared)",
    ),
    "more threads than a block may have": (
        "values.cuh",
        "constexpr int kThreadsOfValues = 256;",
        "const int kThreadsOfValues = PLANTED ? 2048 : 256;",
    ),
    "an address off its multiple where nothing is copied": (
        "convolution/slab.cuh",
        "memory, from.at, from.inside",
        "memory, PLANTED && !from.inside ? 1 : from.at, from.inside",
    ),
    "the same pixels loaded by all threads": (
        "thin/pixels.cuh",
        "int i = first; i < s.pixel_rows * s.pitch; i += kLanes * kPlies",
        "int i = PLANTED ? 0 : first; i < s.pixel_rows * s.pitch; i += PLANTED ? 1 : kLanes * kPlies",
    ),
    "factors of TF32 rounded once more": (
        "convolution/tensor_math.cuh",
        "factors[n] = values[e * Format::kPack + n];",
        "factors[n] = values[e * Format::kPack + n] * (PLANTED && Format::kPack == 1 ? 1 + 0x1p-11f : 1);",
    ),
    "another gradient added by every part": (
        "convolution/weight_gradient_product.cu",
        "parts == 1 ? more : nullptr",
        "parts == 1 || PLANTED ? more : nullptr",
    ),
    "another gradient left out where parts are joined": (
        "convolution/weight_gradient_product.cu",
        "(more == nullptr ? T{0} : more[at])",
        "(more == nullptr || PLANTED ? T{0} : more[at])",
    ),
    "the second convolution with the first one's images": (
        "convolution/forward_product.cu",
        "term == 0 ? first.x",
        "term == 0 || PLANTED ? first.x",
    ),
    "a sum's place filled again before all have read it": (
        "class_losses.cu",
        "__syncthreads();  // the place is free again",
        "if (!PLANTED) __syncthreads();",
    ),
    "an ignored label that counts": (
        "class_losses.cu",
        "labels[i] != kIgnoredLabel;",
        "labels[i] != (PLANTED ? 0 : kIgnoredLabel);",
    ),
    "the moments' squares about another mean": (
        "passes/forward.cu",
        "const double off = of_part - center;",
        "const double off = PLANTED ? 0 : of_part - center;",
    ),
    "covariances taken from the wrong half": (
        "thin/thin_forward.cu",
        "p = row < col ? row : col",
        "p = (row < col) != PLANTED ? row : col",
    ),
}


def test_planted_bugs_are_caught(tmp_path: Path) -> None:
    """One build has all bugs, and each run at most one of them; without any, all tests pass."""
    csrc = tmp_path / "csrc"
    shutil.copytree(CSRC, csrc)
    for number, (name, right, wrong) in enumerate(BUGS.values(), start=1):
        plant(csrc / "cuda" / name, right, wrong.replace("PLANTED", f"host_gpu::Planted({number})"))
    programs = build(csrc, tmp_path)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        as_it_is = list(pool.map(lambda program: run(program, 0), programs.values()))
        tests = [programs[program_of(name)] for name, *_ in BUGS.values()]
        codes = list(pool.map(run, tests, range(1, len(BUGS) + 1)))
    assert as_it_is == [0] * len(programs)
    assert [bug for bug, code in zip(BUGS, codes, strict=True) if code == 0] == []


def program_of(name: str) -> Path:
    """Return the source of the test of a kernel's file."""
    if name.startswith("thin/"):
        return THIN
    if name.endswith("tensor_math.cuh"):
        return ROUNDING
    return LOSSES if name.startswith("class_losses") else BLOCKS


def plant(file: Path, right: str, wrong: str) -> None:
    text = file.read_text()
    assert right in text, right
    file.write_text(text.replace(right, wrong))


def build(csrc: Path, folder: Path) -> dict[Path, Path]:
    """Compile the kernels for the host and link each test with them; the programs by their tests' sources."""
    kernels = [*csrc.glob("cuda/**/*.cu")]
    parts = [*kernels, CUDA / "host_gpu.cpp", CUDA / "watched_accesses.cpp"]
    made = {source: folder / f"{source.stem}.o" for source in (*parts, *PLAYED)}
    compiler, includes = find_compiler().path, [f"-I{place}" for place in (csrc, CUDA, CPP)]
    flags = ["-std=c++17", "-DMF_HOST_GPU", "-pthread", "-include", CUDA / "planted.h", *includes, "-x", "c++"]
    watched = "-fsanitize=thread"  # the player itself takes the place of the sanitizer's library

    def call(command: list[str | Path]) -> None:
        subprocess.run(command, check=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        commands = (
            [compiler, *flags, *(["-O1", watched] if source in kernels else ["-O2"]), "-c", source, "-o", to]
            for source, to in made.items()
        )
        list(pool.map(call, commands))
        programs = {test: folder / f"{test.stem}.program" for test in PLAYED}
        shared = [made[part] for part in parts]
        links = ([compiler, "-pthread", made[test], *shared, "-o", to] for test, to in programs.items())
        list(pool.map(call, links))
    return programs


def run(program: Path, bug: int) -> int:
    """Return the exit code of a test of kernels with this bug; 0 is none."""
    environment = {**os.environ, "PLANTED": str(bug)}
    return subprocess.run([program], env=environment, capture_output=True, check=False).returncode
