"""What nvcc makes of the GPU's kernels, on a machine without a GPU: registers, instructions, and how they link."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from build_folder import MadeOnce
from checkout import CSRC, TESTS
from torch.utils import cpp_extension

from maml_fast.native._cuda_toolkit import find_home

# On the reference there is nothing else to see than on the native kernels: once is enough.
pytestmark = pytest.mark.native

# Virtual architectures, which take most of the time, each with the real ones. No source asks for more than 9.0.
ARCHITECTURES = {"75": ["75"], "80": ["80"], "90": ["90", "100"]}
BUDGET = json.loads((TESTS / "csrc" / "cuda" / "budget.json").read_text())
SOURCES = sorted(CSRC.glob("cuda/**/*.cu"))
LOOPING = [
    s for s in SOURCES if s.name.endswith("_product.cu") or s.name in ("thin_forward.cu", "thin_double_backward.cu")
]
GLUE = sorted(CSRC.glob("bindings/*_cuda.cpp"))
COMPILER = os.environ.get("CXX", "c++")
NVCC = shutil.which("nvcc") or "nvcc"


def run_all(commands: Iterable[list[str]]) -> list[subprocess.CompletedProcess[str]]:
    """Run commands side by side."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda c: subprocess.run(c, capture_output=True, text=True, check=False), commands))


@pytest.fixture(scope="module")
def objects(made_once: MadeOnce) -> dict[Path, tuple[Path, str]]:
    """Every kernel file compiled by nvcc for all architectures: its object, and what ptxas told of it."""
    folder = made_once("nvcc", compile_kernels)
    made = {source: folder / f"{source.stem}.o" for source in SOURCES}
    return {source: (to, to.with_suffix(".log").read_text()) for source, to in made.items()}


def compile_kernels(folder: Path) -> None:
    targets = [f"-gencode=arch=compute_{of},code=sm_{sm}" for of, real in ARCHITECTURES.items() for sm in real]
    flags = ["-std=c++17", "-Xptxas", "-v", "-Werror", "all-warnings", "-Xcompiler", "-fPIC", f"-I{CSRC}", *targets]
    done = run_all([NVCC, "-c", str(source), "-o", str(folder / f"{source.stem}.o"), *flags] for source in SOURCES)
    assert all(each.returncode == 0 for each in done), "\n".join(each.stderr for each in done)
    for source, each in zip(SOURCES, done, strict=True):
        (folder / f"{source.stem}.log").write_text(each.stderr)


@pytest.mark.nvcc
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_compiles_within_its_budget(source: Path, objects: dict[Path, tuple[Path, str]]) -> None:
    """Registers of a thread and bytes that it spills, at each architecture: more would cost occupancy, or memory."""
    kernels = resources(objects[source][1])
    assert kernels or source.name.endswith("_block.cu")
    for name, used in kernels.items():
        budget = next(limit for pattern, limit in BUDGET["resources"] if re.search(pattern, name))
        assert used["registers"] <= budget["registers"], f"{name} takes {used['registers']} registers"
        assert used["spills"] <= budget["spills"], f"{name} spills {used['spills']} bytes"


def resources(log: str) -> dict[str, dict[str, int]]:
    """Of each kernel, the most that ``ptxas -v`` tells of it."""
    found: dict[str, dict[str, int]] = {}
    pieces = re.split(r"Compiling entry function '(\w+)' for 'sm_\d+'", log)
    for name, text in zip(pieces[1::2], pieces[2::2], strict=True):
        registers = int(re.search(r"Used (\d+) registers", text)[1])
        spills = int(re.search(r"(\d+) bytes spill stores", text)[1])
        before = found.get(name, {"registers": 0, "spills": 0})
        found[name] = {"registers": max(before["registers"], registers), "spills": max(before["spills"], spills)}
    return found


@pytest.mark.nvcc
@pytest.mark.cuobjdump
@pytest.mark.parametrize("source", LOOPING, ids=lambda s: s.name)
def test_inner_loops_keep_their_mix(source: Path, objects: dict[Path, tuple[Path, str]]) -> None:
    """Instructions, and reads of shared memory, for each multiplication: what a GPU's rate comes down to."""
    met = 0
    for name, code in disassembled(objects[source][0]):
        budget = next((limit for pattern, limit in BUDGET["inner_loops"] if re.search(pattern, name)), None)
        if budget is None:
            continue
        met += 1
        kinds = Counter(inner_loop(code, budget["does"]))
        multiplied, reads = kinds[budget["does"]], kinds["LDS"] + kinds["LDSM"]
        local = kinds["LDL"] + kinds["STL"]
        assert local <= budget.get("local", 0) * multiplied, f"{name} keeps numbers in local memory"
        assert kinds.total() <= budget["instructions"] * multiplied, f"{name}: {kinds}"
        assert reads <= budget["reads"] * multiplied, f"{name}: {kinds}"
    assert met, f"no kernel of {source.name} has a budget"


def disassembled(made: Path) -> Iterator[tuple[str, str]]:
    """Every kernel for sm_90: its name and its instructions' text."""
    done = subprocess.run(
        ["cuobjdump", "-sass", "-arch", "sm_90", str(made)], capture_output=True, text=True, check=True
    )
    parts = re.split(r"\n\s*Function : (\w+)", done.stdout)
    assert len(parts) > 1, done.stdout + done.stderr
    yield from zip(parts[1::2], parts[2::2], strict=True)


def inner_loop(code: str, does: str) -> list[str]:
    """Return the kinds of the instructions of the inner loop that does most of this, but for what is off (``@!PT``)."""
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]+?)\s*;", code)]
    jumps = [(at, re.search(r"\bBRA\b.* 0x([0-9a-f]+)", text)) for at, text in lines]
    loops = [(int(to[1], 16), at) for at, to in jumps if to and int(to[1], 16) < at]
    inner = [
        (begin, end)
        for begin, end in loops
        if not any(begin <= b and e <= end for b, e in loops if (b, e) != (begin, end))
    ]
    bodies = [[text for at, text in lines if begin <= at <= end and "@!PT" not in text] for begin, end in inner]
    kinds = [[re.match(r"(?:@\S+\s+)?(\w+)", text)[1] for text in body] for body in bodies]
    return max(kinds, key=lambda body: (body.count(does), -len(body)))


@pytest.mark.nvcc
def test_glue_compiles_and_links(objects: dict[Path, tuple[Path, str]], tmp_path: Path) -> None:
    """With CUDA's headers, nvcc's objects and this torch; what only torch for CUDA has is all that may be missing."""
    folders = [CSRC, Path(find_home(NVCC)) / "include"]
    includes = [f"-I{folder}" for folder in (*folders, *cpp_extension.include_paths())]
    libraries = [f"-L{folder}" for folder in cpp_extension.library_paths()]
    made = [tmp_path / f"{source.stem}.o" for source in GLUE]
    done = run_all(
        [COMPILER, "-std=c++17", "-fPIC", "-Wall", "-c", str(source), "-o", str(to), *includes]
        for source, to in zip(GLUE, made, strict=True)
    )
    assert all(each.returncode == 0 for each in done), "\n".join(each.stderr for each in done)
    parts = [str(path) for path in (*made, *(to for to, _ in objects.values()))]
    link = [
        NVCC,
        "-shared",
        *parts,
        "-o",
        str(tmp_path / "glue.so"),
        *libraries,
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
    ]
    linked = subprocess.run([*link, "-Xlinker", "--no-undefined"], capture_output=True, text=True, check=False)
    missing = set(re.findall(r"undefined reference to `(\w+)", linked.stderr))
    assert missing == {"aoti_torch_get_current_cuda_stream"}, linked.stderr
