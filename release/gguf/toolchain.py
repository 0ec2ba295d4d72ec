"""The llama.cpp toolchain as a value: where it is, what it was built from, and the digest of each binary."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pruner.errors import InputError, UnavailableError
from pruner.files import digest_of, read_json, sha256_file
from release.processes import environment_without_secrets

TOOLS = ("llama-quantize", "llama-imatrix", "llama-perplexity", "llama-gguf-split", "llama-server")
CONVERTER = "convert_hf_to_gguf.py"
RECORD = "toolchain.json"
CURRENT = "current"
PINNED_COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
REMEDY = "run `moe-release toolchain install`, or name a llama.cpp build with --llama-cpp DIR"
VARIABLE = "MOE_RELEASE_LLAMA_CPP"
SOURCE_VARIABLE = "MOE_RELEASE_LLAMA_CPP_SOURCE"
CACHE_VARIABLE = "MOE_RELEASE_CACHE"
UNKNOWN = "unknown"
_ABLE_TO_TELL = ("llama-imatrix", "llama-perplexity", "llama-server", "llama-quantize")

Origin = Literal["option", "environment", "cache", "path"]
_LIBRARY = re.compile(r"lib(ggml|llama|mtmd)[\w.-]*\.(so[\d.]*|dylib|dll)|(ggml|llama|mtmd)[\w.-]*\.dll")
_COMMIT = re.compile(r"^version: .*?\b([0-9a-f]{7,40})\)", re.MULTILINE)
_COMPILER = re.compile(r"^built with (.+?)(?: for .*)?$", re.MULTILINE)
_FLAG = re.compile(
    r"^(CMAKE_BUILD_TYPE|BUILD_SHARED_LIBS|GGML_(?:NATIVE|OPENMP|BLAS|LLAMAFILE|CPU_REPACK|CPU_ALL_VARIANTS|SSE42|AVX|AVX2|AVX512|FMA|F16C|BMI2"
    r"|CUDA|HIP|METAL|MUSA|SYCL|VULKAN)):\w+=([\w.+-]+)$",
    re.MULTILINE,
)
"""The switches of CMakeCache.txt that decide which code computes the numbers."""


@dataclass(frozen=True)
class Toolchain:
    """A llama.cpp build that may be used as it is.

    `folder` holds the binaries; `source` is the tree that the converter and its gguf-py stand in, or None; `binaries` gives the
    SHA-256 of every tool, and of every shared library of llama.cpp beside them, by file name.
    """

    folder: Path
    source: Path | None
    commit: str
    compiler: str
    flags: tuple[str, ...]
    binaries: Mapping[str, str]
    origin: Origin

    def binary(self, name: str) -> Path:
        """Path of a tool.

        Raises:
            UnavailableError: this toolchain does not have it.
        """
        if name not in self.binaries:
            raise UnavailableError(f"{name}: not among the llama.cpp binaries in {self.folder}; {REMEDY}")
        return self.folder / name

    def converter(self) -> Path:
        """Path of convert_hf_to_gguf.py, with gguf-py of the same tree beside it.

        Raises:
            UnavailableError: the toolchain has binaries only.
        """
        if self.source is None:
            raise UnavailableError(
                f"{CONVERTER}: missing beside the llama.cpp binaries in {self.folder}; set {SOURCE_VARIABLE} to the "
                f"source tree that they were built from, or run `moe-release toolchain install`"
            )
        return self.source / CONVERTER

    @cached_property
    def converter_code(self) -> str | None:
        """Digest of all Python code that converts: the script is a front end of `conversion/` and gguf-py.  None without it."""
        if self.source is None:
            return None
        folders = (self.source / "conversion", self.source / "gguf-py" / "gguf")
        files = [self.source / CONVERTER, *(path for folder in folders for path in folder.rglob("*.py"))]
        return digest_of({path.relative_to(self.source).as_posix(): sha256_file(path) for path in sorted(files)})

    def identity(self) -> dict[str, Any]:
        """What determines the toolchain's output, without paths or machine-dependent digests: for fingerprints and locks."""
        return {"commit": self.commit, "flags": list(self.flags)}


class ToolchainRecord(BaseModel):
    """The file `toolchain.json` of a toolchain in the managed cache."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit: str
    sdist_sha256: str
    flags: tuple[str, ...]
    compiler: str
    binaries: dict[str, str]


def cache_folder() -> Path:
    """The user's cache folder of moe-release; MOE_RELEASE_CACHE names another."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("moe-release")


def find_toolchain(option: Path | None = None) -> Toolchain:
    """Find a llama.cpp toolchain: the option, MOE_RELEASE_LLAMA_CPP, the managed cache, then PATH.

    A folder may be a llama.cpp checkout with build/bin, a build folder with bin, or a folder of binaries.  The first place that
    is named must work: a wrong option or variable is an error and not a reason to look further.

    Args:
        option: what `--llama-cpp` named, or None.

    Raises:
        InputError: the named folder has no llama.cpp binaries.
        UnavailableError: none was found anywhere, or the cached one is damaged.
    """
    if option is not None:
        return _from_folder(option, "option", "--llama-cpp")
    if named := os.environ.get(VARIABLE):
        return _from_folder(Path(named), "environment", VARIABLE)
    cached = cached_toolchain(cache_folder() / "toolchains")
    if cached is not None:
        return load_managed(cached)
    for name in TOOLS:
        if found := shutil.which(name):
            return _inspect(Path(found).resolve().parent, "path")
    raise UnavailableError(f"llama.cpp: no toolchain found ({VARIABLE}, cache, PATH); {REMEDY}")


def cached_toolchain(toolchains: Path) -> Path | None:
    """The folder of the toolchain that was installed last, or None."""
    try:
        name = (toolchains / CURRENT).read_text(encoding="utf-8").strip()
    except OSError:
        name = ""
    complete = sorted(path.parent for path in toolchains.glob(f"*/{RECORD}"))
    named = [path for path in complete if path.name == name]
    return next(iter(named or complete), None)


def load_managed(folder: Path) -> Toolchain:
    """A toolchain of the managed cache, checked against its own record.

    Raises:
        UnavailableError: a file changed or is missing since it was installed.
    """
    remedy = f"remove {folder} and run `moe-release toolchain install`"
    try:
        record = ToolchainRecord.model_validate(read_json(folder / RECORD, "toolchain record"))
    except (InputError, ValidationError):
        raise UnavailableError(f"{folder / RECORD}: the toolchain's record cannot be read; {remedy}") from None
    binaries = digest_binaries(folder / "bin")
    if binaries != record.binaries:
        changed = sorted(name for name in {*binaries, *record.binaries} if binaries.get(name) != record.binaries.get(name))
        raise UnavailableError(f"{folder}: {', '.join(changed)} changed since the installation; {remedy}")
    source = folder / "source"
    return Toolchain(
        folder=folder / "bin",
        source=source if is_source(source) else None,
        commit=record.commit,
        compiler=record.compiler,
        flags=record.flags,
        binaries=binaries,
        origin="cache",
    )


def _from_folder(folder: Path, origin: Origin, how: str) -> Toolchain:
    for candidate in (folder, folder / "bin", folder / "build" / "bin", folder / "build" / "bin" / "Release"):
        if any((candidate / name).is_file() for name in TOOLS):
            if (candidate.parent / RECORD).is_file():
                return replace(load_managed(candidate.parent.absolute()), origin=origin)
            return _inspect(candidate.absolute(), origin)
    what = "no llama.cpp binaries in it, its bin/ or its build/bin/" if folder.is_dir() else "no such folder"
    raise InputError(f"{folder} (from {how}): {what}; build llama.cpp there, or run `moe-release toolchain install`")


def _inspect(folder: Path, origin: Origin) -> Toolchain:
    binaries = digest_binaries(folder)
    commit, compiler = version_of(folder, [name for name in TOOLS if name in binaries])
    return Toolchain(folder, _source_for(folder, origin), commit, compiler, _flags(folder), binaries, origin)


def digest_binaries(folder: Path) -> dict[str, str]:
    """SHA-256 of every llama.cpp tool and shared library in `folder`, by name."""
    found = [folder / name for name in TOOLS if os.access(folder / name, os.X_OK) and (folder / name).is_file()]
    if folder.is_dir():
        found += [
            path for path in folder.iterdir() if _LIBRARY.fullmatch(path.name) and path.is_file() and not path.is_symlink()
        ]
    return {path.name: sha256_file(path) for path in sorted(found)}


def version_of(folder: Path, names: Sequence[str]) -> tuple[str, str]:
    """Commit and compiler that the first tool able to tell names; "unknown" when none does.

    llama-quantize knows no --version, but prints the same lines before it opens its input, so it is given a missing file.
    """
    with tempfile.TemporaryDirectory(prefix="moe-release-") as empty:
        for name in (each for each in _ABLE_TO_TELL if each in names):
            arguments = ["missing.gguf", "none.gguf", "Q8_0"] if name == "llama-quantize" else ["--version"]
            text = output_of([folder / name, *arguments], folder=Path(empty))
            if found := _COMMIT.search(text):
                compiler = _COMPILER.search(text)
                return _full(found[1]), compiler[1] if compiler else UNKNOWN
    return UNKNOWN, UNKNOWN


def _full(commit: str) -> str:
    """The full name of the pinned commit when `commit` is a beginning of it: the same code has the same name everywhere."""
    return PINNED_COMMIT if PINNED_COMMIT.startswith(commit) else commit


def output_of(command: Sequence[str | Path], *, folder: Path | None = None, seconds: float = 60.0) -> str:
    """What a short command prints, on both streams, whatever its exit code; empty when it cannot be started or hangs."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env=environment_without_secrets(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace")


def _cmake_cache(folder: Path) -> str:
    """CMakeCache.txt of the build that `folder` (its bin/ or the build folder itself) belongs to, or nothing."""
    for place in (folder, folder.parent, folder.parent.parent):
        try:
            return (place / "CMakeCache.txt").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
    return ""


def _flags(folder: Path) -> tuple[str, ...]:
    """The build's own switches as -DNAME=VALUE; values with a path in them are left out."""
    return tuple(sorted(f"-D{name}={value}" for name, value in _FLAG.findall(_cmake_cache(folder))))


def is_source(folder: Path) -> bool:
    """Whether a folder has the converter and the gguf package of the same tree."""
    return (folder / CONVERTER).is_file() and (folder / "gguf-py" / "gguf" / "__init__.py").is_file()


def _source_for(folder: Path, origin: Origin) -> Path | None:
    """The source tree of the binaries in `folder`.

    The tree beside the binaries, or that CMake names, belongs to them for certain; the variable names one for binaries that
    were moved.  With MOE_RELEASE_LLAMA_CPP or PATH the variable goes first, because the user set the pair.

    Raises:
        InputError: the variable names a folder that is no source tree.
    """
    beside = [path for path in _places(folder) if is_source(path)]
    named = os.environ.get(SOURCE_VARIABLE)
    if named and (origin != "option" or not beside):
        if not is_source(Path(named)):
            raise InputError(f"{named} (from {SOURCE_VARIABLE}): no llama.cpp source tree: {CONVERTER} or gguf-py is missing")
        return Path(named).absolute()
    return next(iter(beside), None)


def _places(folder: Path) -> Iterator[Path]:
    yield from (folder, folder / "source", folder.parent / "source", folder.parent, folder.parent.parent)
    yield folder.parent.parent.parent
    home = re.search(r"^CMAKE_HOME_DIRECTORY:INTERNAL=(.+)$", _cmake_cache(folder), re.MULTILINE)
    if home:
        yield Path(home[1])
