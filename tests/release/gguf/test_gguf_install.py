from __future__ import annotations

import io
import os
import shutil
import stat
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruner.errors import CheckFailedError, UnavailableError
from pruner.files import read_json
from pruner.workers import usable_cores
from release.gguf import install
from release.gguf.toolchain import PINNED_COMMIT, TOOLS, Toolchain, find_toolchain, load_managed

TOOL = "#!/bin/sh\necho 'version: 1 (0c1e57098)'\necho 'built with cc 1.0 for any'\n"
SOURCE_FILES = {
    "convert_hf_to_gguf.py": "print()",
    "LICENSE": "MIT",
    "conversion/__init__.py": "",
    "gguf-py/gguf/__init__.py": "",
    "models/templates/a.jinja": "",
    "media/picture.svg": "not packed",
}


def put_source(folder: Path) -> Path:
    for name, text in SOURCE_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def put_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put named programs, each a script of the given text, on an otherwise empty PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(install.sys, "executable", str(tmp_path / "python" / "python"))

    def put(**texts: str) -> Path:
        for name, text in texts.items():
            put_program(folder / name.replace("_", "-").replace("cxx", "c++"), text or "#!/bin/sh\n")
        return folder

    return put


CMAKE = f"""#!{sys.executable}
import os, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + " | " + os.environ.get("GIT_CEILING_DIRECTORIES", "") + "\\n")
if "--build" in sys.argv:
    build = pathlib.Path(sys.argv[sys.argv.index("--build") + 1])
    print("[1/4] Building one", flush=True)
    if (here / "fail").exists():
        print("cc1plus: out of memory")
        sys.exit(2)
    (build / "bin").mkdir(parents=True, exist_ok=True)
    for name in {TOOLS!r}:
        (build / "bin" / name).write_text({TOOL!r})
        (build / "bin" / name).chmod(0o755)
    print("[4/4] Linking")
"""


@pytest.fixture
def cache(tmp_path: Path, programs: Callable[..., Path]) -> Path:
    """A cache whose source is already unpacked, and a cmake that notes how it was called and makes scripts for tools."""
    programs(cmake=CMAKE, ninja="", cxx="")
    put_source(tmp_path / "cache" / "build" / install.toolchain_name() / "source")
    return tmp_path / "cache"


def calls(cache: Path) -> list[str]:
    return (cache.parent / "programs" / "calls").read_text().splitlines()


def test_the_whole_command_lines(tmp_path: Path):
    tools = install.BuildTools("/bin/cmake", "Ninja", "/bin/ninja")
    flags = (*install.CMAKE_FLAGS, "-DGGML_CUDA=ON")
    assert install.configure_command(tools, Path("s"), Path("b"), flags) == [
        *(
            "/bin/cmake",
            "-S",
            "s",
            "-B",
            "b",
            "-G",
            "Ninja",
            "-DCMAKE_MAKE_PROGRAM=/bin/ninja",
            "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
        ),
        *(
            "-DCMAKE_BUILD_TYPE=Release",
            "-DBUILD_SHARED_LIBS=OFF",
            "-DGGML_NATIVE=OFF",
            "-DGGML_OPENMP=OFF",
            "-DGGML_CCACHE=OFF",
        ),
        *("-DLLAMA_BUILD_NUMBER=0", "-DLLAMA_BUILD_COMMIT=0c1e57098", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"),
        *("-DLLAMA_BUILD_APP=OFF", "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_UI=OFF"),
        *("-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF", "-DGGML_CUDA=ON"),
    ]
    assert install.build_command(tools, Path("b"), 3) == ["/bin/cmake", "--build", "b", "-j3", "--target", *TOOLS]
    assert install.build_command(tools, Path("b"), None)[3] == f"-j{usable_cores()}"
    download = install.download_command(Path("r.txt"), Path("d"))
    assert download[1:4] == ["-m", "pip", "download"]
    assert download[-8:] == [
        *("--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes", "-r", Path("r.txt"), "-d", Path("d")),
    ]


def test_other_flags_are_another_toolchain():
    names = {install.toolchain_name(), install.toolchain_name(["-DGGML_CUDA=ON"]), install.toolchain_name(["-DGGML_NATIVE=ON"])}
    assert len(names) == 3
    assert all(name.startswith("0c1e57098-") for name in names)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["[1/218] a", "[109/218] b", "noise", "[218/218] c"], [50, 50]),
        (["[  3%] a", "[  3%] b", "[ 40%] c", "[100%] d"], [3, 37, 60]),
        (["[5/0] odd"], [500]),
        ([], []),
    ],
)
def test_progress_comes_from_the_build_itself(lines: list[str], expected: list[int]):
    told: list[int] = []
    on_line = install.percent_of_build(told.append)
    for line in lines:
        on_line(line)
    assert told == expected


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({}, r"cmake: not found, .*run `pip install cmake ninja`"),
        ({"cmake": ""}, r"C\+\+ compiler: not found, .*apt-get install g\+\+"),
        ({"cmake": "", "cxx": ""}, r"ninja: not found, nor make; run `pip install ninja`"),
    ],
)
def test_a_missing_program_is_named_with_its_remedy(
    tmp_path: Path, programs: Callable[..., Path], present: dict[str, str], expected: str
):
    programs(**present)
    with pytest.raises(UnavailableError, match=expected) as caught:
        install.install_toolchain(cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "toolchains").exists()


def test_ninja_is_preferred_and_make_will_do(tmp_path: Path, programs: Callable[..., Path]):
    folder = programs(cmake="", cxx="", make="")
    assert install.find_build_tools() == install.BuildTools(str(folder / "cmake"), "Unix Makefiles", str(folder / "make"))
    beside_python = put_program(tmp_path / "python" / "ninja", "#!/bin/sh\n")
    assert install.find_build_tools().make == str(beside_python)


def test_an_installation_is_packed_recorded_found_and_not_repeated(cache: Path, recorder: Any, monkeypatch: pytest.MonkeyPatch):
    toolchain = install.install_toolchain(progress=recorder, cache=cache, jobs=3)
    folder = cache / "toolchains" / install.toolchain_name()
    assert (toolchain.folder, toolchain.origin, toolchain.commit) == (folder / "bin", "cache", PINNED_COMMIT)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == sorted(
        [
            "toolchain.json",
            *(f"bin/{name}" for name in TOOLS),
            *(f"source/{name}" for name in SOURCE_FILES if "media" not in name),
        ]
    )
    record = read_json(folder / "toolchain.json", "record")
    assert record["sdist_sha256"] == install.SDIST_SHA256
    assert record["flags"] == list(install.CMAKE_FLAGS)
    assert record["compiler"] == "cc 1.0"
    assert str(cache.parent) not in (folder / "toolchain.json").read_text()
    assert recorder.done["building llama.cpp"] == 100
    configure, build = calls(cache)
    assert "-DGGML_NATIVE=OFF" in configure
    assert "-j3" in build
    assert build.endswith(f" | {cache / 'build' / install.toolchain_name()}")
    assert not list((cache / "build").iterdir())
    assert "[4/4] Linking" in (cache / "logs" / f"{install.toolchain_name()}.log").read_text()

    assert install.install_toolchain(cache=cache) == toolchain
    assert len(calls(cache)) == 2
    monkeypatch.setenv("MOE_RELEASE_CACHE", str(cache))
    monkeypatch.delenv("MOE_RELEASE_LLAMA_CPP", raising=False)
    assert find_toolchain() == toolchain


def test_a_failed_build_says_why_and_the_next_run_continues_it(cache: Path):
    (cache.parent / "programs" / "fail").touch()
    with pytest.raises(UnavailableError, match=r"cmake failed with exit code 2: .*cc1plus: out of memory \(log: ") as caught:
        install.install_toolchain(cache=cache)
    assert "\n" not in str(caught.value)
    assert not (cache / "toolchains").exists()
    kept = cache / "build" / install.toolchain_name() / "source" / "LICENSE"
    assert kept.is_file()
    (cache.parent / "programs" / "fail").unlink()
    assert install.install_toolchain(cache=cache).commit == PINNED_COMMIT
    assert not kept.exists()


def test_two_installations_at_once_build_once(cache: Path, recorder: Any):
    results: list[Toolchain] = []
    threads = [
        threading.Thread(target=lambda: results.append(install.install_toolchain(progress=recorder, cache=cache)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert results[0] == results[1] == results[2]
    assert sum("--build" in call for call in calls(cache)) == 1


def test_the_toolchain_that_was_installed_last_becomes_current(cache: Path):
    install.install_toolchain(cache=cache)
    put_source(cache / "build" / install.toolchain_name(["-DX=1"]) / "source")
    other = install.install_toolchain(cache=cache, cmake_arguments=["-DX=1"])
    assert (cache / "toolchains" / "current").read_text().strip() == other.folder.parent.name
    assert other.flags[-1] == "-DX=1"
    first = install.install_toolchain(cache=cache)
    assert (cache / "toolchains" / "current").read_text().strip() == first.folder.parent.name


def test_tools_of_another_commit_are_not_packed(tmp_path: Path):
    for name in TOOLS:
        put_program(tmp_path / "build" / "bin" / name, TOOL.replace("0c1e57098", "ffffffff"))
    with pytest.raises(CheckFailedError, match=f"tell commit 'ffffffff' and not {PINNED_COMMIT}"):
        install.pack(
            *(put_source(tmp_path / "source"), tmp_path / "build", tmp_path / "out" / "t"),
            flags=(),
            sdist_sha256="",
            commit=PINNED_COMMIT,
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_a_build_that_lacks_a_tool_is_not_packed(tmp_path: Path):
    put_program(tmp_path / "build" / "bin" / "llama-quantize", TOOL)
    with pytest.raises(CheckFailedError, match="llama-imatrix: the build did not make it"):
        install.pack(
            *(put_source(tmp_path / "source"), tmp_path / "build", tmp_path / "out" / "t"),
            flags=(),
            sdist_sha256="",
            commit=PINNED_COMMIT,
        )
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.llama
def test_a_real_build_is_packed_into_a_toolchain_that_works(toolchain: Toolchain, tmp_path: Path):
    if toolchain.source is None or toolchain.commit != PINNED_COMMIT or set(toolchain.binaries) != set(TOOLS):
        pytest.skip("the toolchain at hand is not a static build of the pinned commit")
    target = tmp_path / "toolchains" / "t"
    install.pack(
        toolchain.source, toolchain.folder.parent, target, flags=("-DX=1",), sdist_sha256="0" * 64, commit=PINNED_COMMIT
    )
    packed = load_managed(target)
    assert packed.binaries == toolchain.binaries
    assert packed.converter().is_file()
    assert packed.compiler == toolchain.compiler
    source_size = sum(path.stat().st_size for path in (target / "source").rglob("*") if path.is_file())
    assert source_size < 5 << 20


def write_sdist(path: Path, *extra: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {
            **{f"{install.TREE}/{key}": text for key, text in SOURCE_FILES.items()},
            "llama_cpp_python-0.3.36/setup.py": "x",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
        for info in extra:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def test_only_the_llama_cpp_tree_is_unpacked(tmp_path: Path):
    install.extract(write_sdist(tmp_path / "s.tar.gz"), tmp_path / "source")
    found = {path.relative_to(tmp_path / "source").as_posix() for path in (tmp_path / "source").rglob("*") if path.is_file()}
    assert found == set(SOURCE_FILES)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(f"{install.TREE}/{name}")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "evil",
    [
        member("../../../../outside"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("link", tarfile.SYMTYPE, "../../../../outside"),
        member("device", tarfile.CHRTYPE),
    ],
)
def test_an_unsafe_member_is_refused_and_leaves_nothing(tmp_path: Path, evil: tarfile.TarInfo):
    with pytest.raises(CheckFailedError, match=r"s\.tar\.gz: cannot be unpacked"):
        install.extract(write_sdist(tmp_path / "s.tar.gz", evil), tmp_path / "in" / "source")
    assert list((tmp_path / "in").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "s.tar.gz"]


def test_a_damaged_archive_and_one_without_the_tree_are_refused(tmp_path: Path):
    whole = write_sdist(tmp_path / "s.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckFailedError, match=r"cut\.tar\.gz: cannot be unpacked"):
        install.extract(tmp_path / "cut.tar.gz", tmp_path / "in" / "source")
    (tmp_path / "text.tar.gz").write_text("no archive")
    with pytest.raises(CheckFailedError, match=r"text\.tar\.gz: cannot be unpacked"):
        install.extract(tmp_path / "text.tar.gz", tmp_path / "in" / "source")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("other/file"))
    with pytest.raises(CheckFailedError, match=r"holds no llama\.cpp source tree"):
        install.extract(tmp_path / "other.tar.gz", tmp_path / "in" / "source")
    assert list((tmp_path / "in").iterdir()) == []


def test_a_download_that_fails_is_one_line_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any):
    empty = tmp_path / "index"
    empty.mkdir()
    for name in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty))
    with pytest.raises(UnavailableError, match=r"No matching distribution found for llama-cpp-python==0\.3\.36") as caught:
        install.fetch_source(tmp_path / "work", log=tmp_path / "log", progress=recorder)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)


def test_a_source_of_another_digest_is_refused_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any):
    (tmp_path / "index").mkdir()
    write_sdist(tmp_path / "index" / install.SDIST)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(UnavailableError, match="failed with exit code 1: "):
        install.fetch_source(tmp_path / "work", log=tmp_path / "log", progress=recorder)
    assert "DO NOT MATCH THE HASHES" in (tmp_path / "log").read_text()
    assert not (tmp_path / "work" / "source").exists()
    shutil.rmtree(tmp_path / "work")


def test_a_python_without_pip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any):
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UnavailableError, match=r"pip: not in this Python, .* -m ensurepip"):
        install.fetch_source(tmp_path / "work", log=tmp_path / "log", progress=recorder)
