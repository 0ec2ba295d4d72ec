"""`moe-release doctor`: what this machine has of all that a release needs, and the command that mends what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pruner.errors import InputError, UnavailableError
from release.gguf.install import CMAKE_REMEDY, COMPILER_REMEDY, compiler, program
from release.gguf.toolchain import CONVERTER, TOOLS, UNKNOWN, Toolchain, cache_folder, find_toolchain, output_of

State = Literal["ok", "missing", "warning"]
MINIMUM_PYTHON = (3, 11)
EXTRAS = {
    "torch": "analysis",
    "transformers": "analysis",
    "sentencepiece": "analysis",
    "lm-eval": "eval",
    "model-signing": "attest",
    "in-toto-attestation": "attest",
}
LITTLE_SPACE = 5 << 30
INSTALL = "moe-release toolchain install"
_GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for; `remedy` is a command, empty when there is nothing to mend."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def diagnose(option: Path | None = None) -> list[Finding]:
    """Look for everything that some stage of a release needs; nothing is changed and no token is read out.

    Args:
        option: the folder that `--llama-cpp` named, or None.
    """
    return [
        _python(),
        *_extras(),
        *_llama_cpp(option),
        _cmake(),
        _compiler(),
        _pip(),
        _space("disk of this folder", Path.cwd()),
        _space("disk of the cache", cache_folder()),
        _token(),
    ]


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info[:2] < MINIMUM_PYTHON:
        return Finding("Python", "missing", f"{version} is too old, 3.11 is needed", "uv python install 3.11")
    return Finding("Python", "ok", version)


def _extras() -> Iterator[Finding]:
    for package, extra in EXTRAS.items():
        try:
            yield Finding(package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            detail = f"not installed; what needs the `{extra}` extra cannot run"
            yield Finding(package, "warning", detail, f"pip install 'moe-release[{extra}]'")


def _llama_cpp(option: Path | None) -> Iterator[Finding]:
    try:
        toolchain = find_toolchain(option)
    except (InputError, UnavailableError) as error:
        yield Finding("llama.cpp", "missing", str(error), INSTALL)
        return
    where = f"commit {toolchain.commit}, {toolchain.compiler}, from {toolchain.origin}: {toolchain.folder}"
    if toolchain.commit == UNKNOWN:
        yield Finding("llama.cpp", "warning", f"{where}; a release cannot name what made its quants", INSTALL)
    else:
        yield Finding("llama.cpp", "ok", where)
    yield from (_tool(toolchain, name) for name in TOOLS)
    yield _converter(toolchain)
    yield _exactness(toolchain)


def _tool(toolchain: Toolchain, name: str) -> Finding:
    if name not in toolchain.binaries:
        return Finding(name, "missing", f"not in {toolchain.folder}", INSTALL)
    if not output_of([toolchain.binary(name), "--help"]).strip():
        return Finding(name, "missing", f"{toolchain.binary(name)} does not start on this machine", INSTALL)
    return Finding(name, "ok", f"sha256 {toolchain.binaries[name]}")


def _converter(toolchain: Toolchain) -> Finding:
    try:
        return Finding(CONVERTER, "ok", str(toolchain.converter().parent))
    except UnavailableError as error:
        return Finding(CONVERTER, "missing", str(error).removeprefix(f"{CONVERTER}: "), INSTALL)


def _exactness(toolchain: Toolchain) -> Finding:
    from release.gguf.golden import self_test

    found = self_test(toolchain)
    if found.bit_exact:
        return Finding("golden self-test", "ok", str(found))
    detail = f"{found}; its quants will not be called bit-identical"
    return Finding("golden self-test", "warning", detail, INSTALL)


def _only_for_install(name: str, found: str | None, remedy: str) -> Finding:
    if found:
        return Finding(name, "ok", found)
    return Finding(name, "warning", f"not found; only `{INSTALL}` needs it", remedy)


def _cmake() -> Finding:
    return _only_for_install("cmake", program("cmake"), CMAKE_REMEDY.removeprefix("run ").strip("`"))


def _compiler() -> Finding:
    return _only_for_install("C++ compiler", compiler(), COMPILER_REMEDY.removeprefix("run "))


def _pip() -> Finding:
    found = f"{sys.executable} -m pip" if importlib.util.find_spec("pip") else None
    return _only_for_install("pip", found, f"{sys.executable} -m ensurepip")


def _space(name: str, folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{free / _GIBIBYTE:.1f} GiB free at {folder}"
    if free < LITTLE_SPACE:
        return Finding(name, "warning", f"{detail}; a build takes 1 GiB, a release several times its checkpoint")
    return Finding(name, "ok", detail)


def _token() -> Finding:
    from huggingface_hub import get_token

    if get_token():
        return Finding("Hugging Face token", "ok", "present")
    detail = "none; gated bases and publishing need one, a local Hub does not"
    return Finding("Hugging Face token", "warning", detail, "hf auth login")
