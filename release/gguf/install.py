"""`moe-release toolchain install`: build the pinned llama.cpp once into the user's cache.

The source is the llama.cpp that llama-cpp-python's sdist on PyPI carries, pinned by digest, so that a machine that reaches
nothing but PyPI can build it.  An interrupted build continues where it stopped; a finished toolchain appears by one rename.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pruner.errors import CheckFailedError, UnavailableError
from pruner.exclusive import exclusive
from pruner.files import atomic_folder, canonical_json, digest_of, require_space, sha256_file, write_atomic, write_errors
from pruner.progress import SILENT, Advance, Progress
from pruner.workers import usable_cores
from release.gguf.toolchain import (
    CONVERTER,
    CURRENT,
    PINNED_COMMIT,
    RECORD,
    TOOLS,
    Toolchain,
    ToolchainRecord,
    cache_folder,
    digest_binaries,
    is_source,
    load_managed,
    version_of,
)
from release.processes import BUILD_VARIABLES, NETWORK_VARIABLES, inherited, run_tool

REQUIREMENT = "llama-cpp-python==0.3.36"
SDIST = "llama_cpp_python-0.3.36.tar.gz"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
TREE = "llama_cpp_python-0.3.36/vendor/llama.cpp"
CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_NUMBER=0",
    f"-DLLAMA_BUILD_COMMIT={PINNED_COMMIT[:9]}",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
"""Both UI flags are off because either one alone lets the build download something; NATIVE and OPENMP are off because they make
imatrix and answers differ from machine to machine."""
SPACE = 1 << 30
"""Bytes that download, source and build take together; measured 0.42 GB for a build without CUDA."""
PACKED = (CONVERTER, "conversion", "gguf-py", "models/templates", "LICENSE")
CMAKE_REMEDY = "run `pip install cmake ninja`"
COMPILER_REMEDY = (
    "run `apt-get install g++` (Debian, Ubuntu), `dnf install gcc-c++` (Fedora) or `xcode-select --install` (macOS)"
)
_NINJA = re.compile(r"^\[\s*(\d+)/(\d+)\]")
_MAKE = re.compile(r"^\[\s*(\d+)%\]")


@dataclass(frozen=True)
class BuildTools:
    """The programs that a build needs: cmake, a generator's name, and its program."""

    cmake: str
    generator: str
    make: str


def program(*names: str) -> str | None:
    """Path of the first of these programs, on PATH or beside this Python (where `pip install cmake ninja` puts them)."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return next((found for name in names if (found := shutil.which(name, path=places))), None)


def compiler() -> str | None:
    """The C++ compiler that cmake will choose: $CXX, or the first usual name that is there."""
    chosen = os.environ.get("CXX", "").split()
    return program(*chosen[:1], "c++", "g++", "clang++")


def find_build_tools() -> BuildTools:
    """Find cmake, Ninja (else make) and check that there is a C++ compiler.

    Raises:
        UnavailableError: names the missing one and the command to get it.
    """
    cmake, ninja, make = program("cmake"), program("ninja"), program("make", "gmake")
    if cmake is None:
        raise UnavailableError(f"cmake: not found, llama.cpp is built with it; {CMAKE_REMEDY}")
    if compiler() is None:
        raise UnavailableError(f"C++ compiler: not found, llama.cpp is built with it; {COMPILER_REMEDY}")
    if ninja:
        return BuildTools(cmake, "Ninja", ninja)
    if make is None:
        raise UnavailableError("ninja: not found, nor make; run `pip install ninja`")
    return BuildTools(cmake, "Unix Makefiles", make)


def toolchain_name(cmake_arguments: Sequence[str] = ()) -> str:
    """Folder name in the cache: commit and digest of the flags, so that two builds with other flags stand side by side."""
    return f"{PINNED_COMMIT[:9]}-{digest_of([*CMAKE_FLAGS, *cmake_arguments])[:12]}"


def install_toolchain(
    *,
    progress: Progress = SILENT,
    cache: Path | None = None,
    cmake_arguments: Sequence[str] = (),
    jobs: int | None = None,
) -> Toolchain:
    """Build the pinned llama.cpp into the cache, or return the build that is there.

    Args:
        progress: one task a step; the build counts percent.
        cache: the cache folder; the user's own by default.
        cmake_arguments: such as `-DGGML_CUDA=ON`; they come last, so they win over the defaults.
        jobs: compilers that run at a time; one a usable core by default.

    Raises:
        UnavailableError: a program, the network or space is missing, or the build fails; names the log.
        CheckFailedError: the download has another digest, or the built tools do not tell the pinned commit.
    """
    root = cache or cache_folder()
    name = toolchain_name(cmake_arguments)
    target = root / "toolchains" / name
    root.mkdir(parents=True, exist_ok=True)
    busy = "another installation of the toolchain is running; waiting for it"
    with exclusive(root / "toolchains.lock", busy, wait=progress.note):
        if not (target / RECORD).is_file():
            work = root / "build" / name
            log = root / "logs" / f"{name}.log"
            tools = find_build_tools()
            require_space(work, SPACE, "the llama.cpp build")
            source = fetch_source(work, log=log, progress=progress)
            flags = (*CMAKE_FLAGS, *cmake_arguments)
            build_tools(tools, source, work / "build", flags=flags, jobs=jobs, log=log, progress=progress)
            pack(source, work / "build", target, flags=flags, sdist_sha256=SDIST_SHA256, commit=PINNED_COMMIT)
            shutil.rmtree(work)
        current = root / "toolchains" / CURRENT
        if not current.is_file() or current.read_bytes() != f"{name}\n".encode():
            write_atomic(current, f"{name}\n".encode())
        return load_managed(target)


def fetch_source(work: Path, *, log: Path, progress: Progress) -> Path:
    """The pinned source tree, downloaded and unpacked into `work` unless it is there.

    Raises:
        UnavailableError: pip fails (no network, no pip).
        CheckFailedError: the file has another digest.
    """
    source = work / "source"
    if is_source(source):
        return source
    sdist = work / SDIST
    if not sdist.is_file() or sha256_file(sdist) != SDIST_SHA256:
        with progress.task("downloading llama.cpp (77 MB)", None):
            _download(sdist, log)
    extract(sdist, source)
    sdist.unlink()
    return source


def _download(sdist: Path, log: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise UnavailableError(f"pip: not in this Python, llama.cpp is downloaded with it; run `{sys.executable} -m ensurepip`")
    sdist.parent.mkdir(parents=True, exist_ok=True)
    requirements = sdist.with_name("requirements.txt")
    write_atomic(requirements, f"{REQUIREMENT} --hash=sha256:{SDIST_SHA256}\n".encode())
    with atomic_folder(sdist.with_name("download")) as folder:
        run_tool(download_command(requirements, folder), log=log, environment=inherited(NETWORK_VARIABLES))
        found = folder / SDIST
        if not found.is_file() or sha256_file(found) != SDIST_SHA256:
            raise CheckFailedError(f"{REQUIREMENT}: pip downloaded no {SDIST} with SHA-256 {SDIST_SHA256}; see {log}")
    (sdist.with_name("download") / SDIST).replace(sdist)


def download_command(requirements: Path, folder: Path) -> list[Path | str]:
    """The pip command that fetches the sdist, checked by pip against the digest in `requirements`."""
    return [
        *(sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"),
        *("--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes", "-r", requirements, "-d", folder),
    ]


def extract(sdist: Path, target: Path) -> None:
    """Unpack the llama.cpp tree of the sdist, and nothing else of it, as `target`.

    Raises:
        CheckFailedError: the archive is damaged, holds an unsafe member or no such tree.
    """
    with atomic_folder(target) as folder:
        try:
            with tarfile.open(sdist) as archive:
                members = (member for member in archive if member.name.startswith(f"{TREE}/"))
                archive.extractall(folder, members=members, filter="data")
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CheckFailedError(f"{sdist}: cannot be unpacked: {error}") from None
        tree = folder / TREE
        if not is_source(tree):
            raise CheckFailedError(f"{sdist}: holds no llama.cpp source tree")
        for path in tree.iterdir():
            path.rename(folder / path.name)
        shutil.rmtree(folder / Path(TREE).parts[0])


def configure_command(tools: BuildTools, source: Path, build: Path, flags: Sequence[str]) -> list[str]:
    """The cmake command that prepares the build folder; shared libraries, if any, are looked for beside the tools."""
    layout = [f"-DCMAKE_MAKE_PROGRAM={tools.make}", "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON"]
    return [tools.cmake, "-S", str(source), "-B", str(build), "-G", tools.generator, *layout, *flags]


def build_command(tools: BuildTools, build: Path, jobs: int | None) -> list[str]:
    """The cmake command that builds the five tools."""
    return [tools.cmake, "--build", str(build), f"-j{jobs or usable_cores()}", "--target", *TOOLS]


def build_tools(
    tools: BuildTools, source: Path, build: Path, *, flags: Sequence[str], jobs: int | None, log: Path, progress: Progress
) -> None:
    """Configure and build; a build folder that an interrupted run left is continued.

    Raises:
        UnavailableError: cmake or the compiler fails; with the last lines and the log.
    """
    # git must not look for a repository around the cache folder: its commit would get into the binaries.
    environment = {**inherited(BUILD_VARIABLES), "GIT_CEILING_DIRECTORIES": str(source.absolute().parent)}
    with write_errors(build):
        with progress.task("configuring llama.cpp", None):
            run_tool(configure_command(tools, source, build, flags), log=log, environment=environment)
        with progress.task("building llama.cpp", 100) as advance:
            run_tool(build_command(tools, build, jobs), log=log, environment=environment, on_line=percent_of_build(advance))


def percent_of_build(advance: Advance) -> Callable[[str], None]:
    """Turn lines of Ninja (`[41/218] …`) or make (`[ 12%] …`) into whole percents."""
    done = 0

    def on_line(line: str) -> None:
        nonlocal done
        if found := _NINJA.match(line):
            percent = 100 * int(found[1]) // max(1, int(found[2]))
        elif found := _MAKE.match(line):
            percent = int(found[1])
        else:
            return
        if percent > done:
            advance(percent - done)
            done = percent

    return on_line


def pack(source: Path, build: Path, target: Path, *, flags: Sequence[str], sdist_sha256: str, commit: str) -> None:
    """Make the finished toolchain: the tools, the converter and what it imports, the license and a record; nothing else.

    Raises:
        CheckFailedError: a tool is missing, does not run where it now stands, or tells another commit.
    """
    with atomic_folder(target) as folder:
        (folder / "bin").mkdir()
        for name in TOOLS:
            if not (build / "bin" / name).is_file():
                raise CheckFailedError(f"{build / 'bin' / name}: the build did not make it")
            shutil.copy2(build / "bin" / name, folder / "bin" / name)
        for path in (build / "bin").iterdir():
            if ".so" in path.suffixes or path.suffix in {".dylib", ".dll"}:
                shutil.copy2(path, folder / "bin" / path.name, follow_symlinks=False)
        _pack_source(source, folder / "source")
        found, built_with = version_of(folder / "bin", TOOLS)
        if found != commit:
            raise CheckFailedError(f"{target}: the built tools tell commit {found!r} and not {commit}")
        record = ToolchainRecord(
            commit=commit,
            sdist_sha256=sdist_sha256,
            flags=tuple(flags),
            compiler=built_with,
            binaries=digest_binaries(folder / "bin"),
        )
        (folder / RECORD).write_bytes(canonical_json(record.model_dump(mode="json")))


def _pack_source(source: Path, target: Path) -> None:
    """Copy the converter's part of the source tree: a few megabytes."""
    for name in PACKED:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, place, ignore=shutil.ignore_patterns("__pycache__", "tests", "examples"))
        else:
            shutil.copy2(source / name, place)
