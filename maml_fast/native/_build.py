"""Finds the compiled library in the cache, or compiles it: one per torch, compiler, sources and flags.

A killed process leaves nothing behind that breaks a later one:

- only one builder works at a time, under a file lock that the operating system releases when its holder dies;
- it compiles in a private ``partial-*`` folder, which the next builder deletes;
- a finished library appears in the cache by one atomic rename, together with its digest.

A library is loaded only if it matches its digest and no other user could have written it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from maml_fast.native._cuda_toolkit import CudaToolkit, find_cuda_toolkit
from maml_fast.native._toolchain import (
    BuildError,
    Compiler,
    find_compiler,
    find_ninja,
    find_python_headers,
    instruction_set,
    instruction_sets,
    job_count,
    runtime_of_torch,
)

__all__ = ["NAME", "BuildError", "BuildReport", "cache_folder", "ensure", "find_csrc", "is_ours", "sha256_of"]

NAME = "maml_fast_native"
# In csrc. The files that take longest come first, so that they do not run alone on one core at the end.
SOURCES = ("cpu/kernels_*.cpp", "cpu/operations_*.cpp", "bindings/*.cpp", "cpu/**/*.cpp", "sampler/*.cpp")
GPU_SOURCES = ("cuda/**/*.cu", "bindings/*_cuda.cpp")  # only with CUDA, before all others
# The same flags for every file: kernels select their instruction set in the file, by pragma, and are dispatched at run
# time. -O3 would take 1.5 times as long and make nothing faster: the kernels are unrolled by hand, and request
# vectorization from GCC where it pays off.
FLAGS = ("-O2", "-DNDEBUG", "-fvisibility=hidden", "-fno-math-errno", "-pthread")
LINK_FLAGS = ("-pthread",)
GPU_FLAGS = ("-O3", "-DNDEBUG")
_PARTIAL = "partial-"
_MARKER = "complete"


@dataclass(frozen=True)
class BuildReport:
    """Where the compiled library is, and how long compiling took.

    Attributes:
        path: the library.
        seconds: time to compile it; 0 if it was in the cache.
        cached: whether it was in the cache.
        no_gpu: why the library has no GPU kernels although there is a CUDA toolkit; None otherwise.
    """

    path: Path
    seconds: float
    cached: bool
    no_gpu: str | None = None


class _CompileError(BuildError):
    """The compiler failed although everything that it needs was found."""


def find_csrc() -> Path:
    """Return the folder of the C++ sources: inside an installed package, next to the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "bindings" / "module.cpp").is_file():
            return folder
    raise BuildError(f"the C++ sources are missing from {package / 'csrc'}: install maml_fast again")


def cache_folder() -> Path:
    """Return the cache folder: ``MAML_FAST_CACHE``, else the user's cache folder; it may not exist yet."""
    if asked := os.environ.get("MAML_FAST_CACHE"):
        return Path(asked).expanduser().absolute()
    import platformdirs

    folder = platformdirs.user_cache_path("maml_fast")
    if not folder.is_absolute():  # a user without a home folder
        raise BuildError("there is no home folder to keep a cache in; set MAML_FAST_CACHE to a folder")
    return folder


def ensure(csrc: Path, cache: Path, *, fresh: bool = False, verbose: bool = False) -> BuildReport:
    """Return the library of these sources; compile it if it is not in the cache, or if ``fresh`` is set.

    If only the GPU kernels fail to compile, the library is built without them, and the failure is recorded, so that
    later processes do not try again unless ``fresh`` is set. A build is reported on stderr, with the time it takes.
    Raises BuildError if the library can't be built.
    """
    cuda = _cuda_toolkit()
    if cuda is None:
        return _ensure(csrc, cache, None, fresh, verbose)
    failure = _failure(_family(csrc, cache, cuda))
    if fresh or not failure.is_file():
        try:
            return _ensure(csrc, cache, cuda, fresh, verbose)
        except _CompileError as error:
            report = _ensure(csrc, cache, None, fresh, verbose)  # raises if the GPU kernels were not the cause
            failure.parent.mkdir(parents=True, exist_ok=True)
            failure.write_text(str(error), encoding="utf8")
            _say(f"maml_fast: there are no kernels for GPUs: {error}; `maml-fast build --force` tries again\n")
    else:
        report = _ensure(csrc, cache, None, fresh, verbose)
    return replace(report, no_gpu=failure.read_text(encoding="utf8"))


def _ensure(csrc: Path, cache: Path, cuda: CudaToolkit | None, fresh: bool, verbose: bool) -> BuildReport:
    family = _family(csrc, cache, cuda)
    try:
        compiler = find_compiler()
    except BuildError:
        # A library that was compiled before the compiler was removed (from a slim container, say) is still usable.
        library = None if fresh else next(filter(None, map(_published, sorted(family.glob("*")))), None)
        if library is None:
            raise
        return BuildReport(library, 0.0, cached=True)
    kernels = instruction_set()
    entry = family / f"{_slug(compiler)}-{kernels}"
    if not fresh and (library := _published(entry)):
        return BuildReport(library, 0.0, cached=True)
    order = _order(csrc, compiler, kernels, cuda, verbose)
    try:
        with _only_builder(cache):
            if not fresh and (library := _published(entry)):  # by another process, while this one waited
                return BuildReport(library, 0.0, cached=True)
            return _build(order, cache, entry)
    except (OSError, NotImplementedError) as error:  # NotImplementedError: no file locks on this file system
        raise BuildError(f"the cache folder {cache} can't be used ({error}): set MAML_FAST_CACHE to another") from error


@dataclass(frozen=True)
class _Order:
    csrc: Path
    sources: list[Path]
    compiler: Compiler
    kernels: str  # the instruction set
    environment: dict[str, str]
    verbose: bool
    cuda: CudaToolkit | None

    @property
    def tools(self) -> str:
        return f"{self.compiler} and {self.cuda}" if self.cuda else str(self.compiler)


def _order(csrc: Path, compiler: Compiler, kernels: str, cuda: CudaToolkit | None, verbose: bool) -> _Order:
    """Collect what a build needs, or raise BuildError, before anything is locked or printed."""
    find_python_headers()
    gpu = _sources(csrc, GPU_SOURCES)
    per_instruction_set = [p for p in csrc.glob("cpu/*_*.cpp") if p.stem.startswith(("kernels_", "operations_"))]
    needed = {kernels, instruction_sets()[-1]}
    unused = {path for path in per_instruction_set if path.stem.partition("_")[2] not in needed}
    sources = [path for path in _sources(csrc, SOURCES) if path not in {*gpu, *unused}]
    if cuda:
        sources = [*gpu, *sources]
    environment = {
        **os.environ,
        "CXX": compiler.path,
        "MAX_JOBS": str(job_count(len(sources))),
        "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(find_ninja()).parent)]),
        "LC_ALL": "C",  # error messages that _gist understands
        "PYTHONUTF8": "1",
    }
    if cuda:
        environment |= {"CUDA_HOME": cuda.home, "TORCH_CUDA_ARCH_LIST": cuda.architectures}
    return _Order(csrc, sources, compiler, kernels, environment, verbose, cuda)


def _sources(csrc: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Return the files that match any of the patterns, in the order of the patterns, without duplicates."""
    return list(dict.fromkeys(path for pattern in patterns for path in sorted(csrc.glob(pattern))))


def _cuda_toolkit() -> CudaToolkit | None:
    found = find_cuda_toolkit()
    return None if isinstance(found, str) else found


def _family(csrc: Path, cache: Path, cuda: CudaToolkit | None) -> Path:
    """Return the cache folder of the libraries that differ only in compiler and instruction set."""
    return cache / f"torch-{torch.__version__}-{_digest(csrc, cuda)}"


def _failure(family: Path) -> Path:
    """Return the file that records why GPU kernels could not be built with the current compiler."""
    try:
        return family / f"failed-{_slug(find_compiler())}"
    except BuildError:
        return family / "failed"


def _digest(csrc: Path, cuda: CudaToolkit | None) -> str:
    """Hash all that the library depends on except the compiler: torch, Python, machine, pybind11, flags, sources."""
    import pybind11

    target = (torch.version.git_version, sysconfig.get_config_var("SOABI"), platform.machine(), _libc())
    flags = (FLAGS, LINK_FLAGS, GPU_FLAGS, str(cuda))
    digest = hashlib.sha256(repr((target, pybind11.__version__, flags)).encode())
    for path in sorted(csrc.rglob("*")):
        if path.suffix in {".cpp", ".h", ".cu", ".cuh"}:
            text = path.read_bytes()
            digest.update(f"{path.relative_to(csrc)} {len(text)} ".encode() + text)
    return digest.hexdigest()[:16]


def _libc() -> str | None:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):  # not glibc
        return None


def _slug(compiler: Compiler) -> str:
    identity = f"{os.path.realpath(compiler.path)} {compiler.version}"
    readable = str(compiler).replace(" ", "-").replace("/", "-")
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _published(entry: Path) -> Path | None:
    """Return the library in a folder of the cache if it is complete, and only this user or root can have written it."""
    library = entry / f"{NAME}.so"
    try:
        complete = sha256_of(library) == (entry / _MARKER).read_text()
        trusted = all(map(is_ours, (entry, library, entry / _MARKER)))
    except (OSError, ValueError):
        return None
    return library if complete and trusted else None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of a file, which may be larger than memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def is_ours(path: Path) -> bool:
    """Return whether a file belongs to this user or to root, and is not writable by everybody."""
    if not hasattr(os, "getuid"):  # not a POSIX system
        return True
    status = path.stat()
    return status.st_uid in (0, os.getuid()) and not status.st_mode & stat.S_IWOTH


@contextlib.contextmanager
def _only_builder(cache: Path) -> Iterator[None]:
    import filelock

    cache.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(cache / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _say("maml_fast: waiting for another process that builds native kernels\n")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(order: _Order, cache: Path, entry: Path) -> BuildReport:
    """Compile in a private folder and publish; the caller holds the lock."""
    for leftover in cache.glob(f"{_PARTIAL}*"):  # from killed builders: a running one would hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    build_folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=cache))
    started = time.monotonic()
    outcome = "failed after"
    _say(f"maml_fast: building native kernels for torch {torch.__version__} with {order.tools} ... ")
    try:
        _compile(order, build_folder)
        _publish(build_folder, entry)
        outcome = "done in"
    finally:
        seconds = time.monotonic() - started
        _say(f"{outcome} {seconds:.1f} s\n")
        shutil.rmtree(build_folder, ignore_errors=True)
    return BuildReport(entry / f"{NAME}.so", seconds, cached=False)


def _compile(order: _Order, build_folder: Path) -> None:
    import pybind11

    arguments = {  # of torch.utils.cpp_extension.load
        "name": NAME,
        "sources": [_stand_in(path, order.csrc, build_folder) for path in order.sources],
        "extra_cflags": [*FLAGS, f"-DMF_{order.kernels.upper()}", *(["-DMF_WITH_CUDA"] if order.cuda else [])],
        "extra_cuda_cflags": GPU_FLAGS,
        "with_cuda": order.cuda is not None,
        "extra_ldflags": [*LINK_FLAGS, *runtime_of_torch(order.compiler)],
        "extra_include_paths": [str(order.csrc), pybind11.get_include()],  # before torch's own, older pybind11
        "build_directory": str(build_folder),
    }
    job = build_folder / "job.json"
    job.write_text(json.dumps({"sys_path": sys.path, "arguments": arguments}), encoding="utf8")
    script = Path(__file__).with_name("_compile.py")
    command = [sys.executable, "-W", "ignore", str(script), str(job)]
    status, log = _run(command, order.environment, order.verbose)
    if status != 0:
        kept = build_folder.parent / "last-failure.log"
        kept.write_text(log, encoding="utf8")
        raise _CompileError(f"compiling failed: {_gist(log) or f'exit status {status}'} (the whole log: {kept})")


def _stand_in(source: Path, csrc: Path, build_folder: Path) -> str:
    """Write a file of unique name that includes the source, because torch names objects after the file name alone."""
    stand_in = build_folder / "-".join(source.relative_to(csrc).parts)
    stand_in.write_text(f'#include "{source}"\n', encoding="utf8")
    return str(stand_in)


def _run(command: list[str], environment: dict[str, str], verbose: bool) -> tuple[int, str]:
    """Return a command's exit status and output, printing it live if ``verbose``; kill the command on an interrupt."""
    log: list[str] = []
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.append(line)
                if verbose:
                    _say(line)
        except BaseException:
            process.kill()
            raise
    return process.returncode, "".join(log)


def _gist(log: str) -> str:
    """Return the most informative line: the compiler's first error, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "")


def _publish(build_folder: Path, entry: Path) -> None:
    staged = build_folder / "staged"
    staged.mkdir()
    library = (build_folder / f"{NAME}.so").rename(staged / f"{NAME}.so")
    marker = staged / _MARKER
    marker.write_text(sha256_of(library))
    for path, mode in ((library, 0o755), (marker, 0o644), (staged, 0o755)):
        path.chmod(mode)
        _sync(path)
    entry.parent.mkdir(exist_ok=True)
    if entry.exists():  # damaged, not trusted, or to be replaced
        entry.rename(build_folder / "replaced")
    staged.rename(entry)
    _sync(entry.parent)


def _sync(path: Path) -> None:
    """Sync a file or folder to disk, so that after a power failure it is complete or absent."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems can't sync folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
