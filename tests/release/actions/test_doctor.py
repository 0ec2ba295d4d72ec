from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from release.actions import doctor
from release.actions.doctor import Finding, diagnose
from release.gguf.toolchain import TOOLS


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with no toolchain, no programs and no token."""
    for name in ("MOE_RELEASE_LLAMA_CPP", "MOE_RELEASE_LLAMA_CPP_SOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOE_RELEASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.utils._auth.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "path"))


def put(folder: Path, *names: str, text: str = "#!/bin/sh\necho 'version: 7 (abcdef012)'\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.name for finding in findings}) == len(findings)
    return {finding.name: finding for finding in findings}


def test_a_bare_machine_learns_what_to_run():
    found = by_name(diagnose())
    assert found["Python"].state == "ok"
    assert (found["llama.cpp"].state, found["llama.cpp"].remedy) == ("missing", "moe-release toolchain install")
    assert (found["cmake"].state, found["cmake"].remedy) == ("warning", "pip install cmake ninja")
    assert found["C++ compiler"].state == "warning"
    assert "apt-get install g++" in found["C++ compiler"].remedy
    assert (found["Hugging Face token"].state, found["Hugging Face token"].remedy) == ("warning", "hf auth login")
    assert all(finding.detail and "\n" not in finding.detail for finding in found.values())
    assert all(finding.remedy for finding in found.values() if finding.state == "missing")


def test_a_toolchain_is_told_tool_by_tool(tmp_path: Path):
    put(tmp_path / "llama", *TOOLS[:3])
    put(tmp_path / "llama", "llama-server", text="\x7fELF of another machine")
    found = by_name(diagnose(tmp_path / "llama"))
    assert found["llama.cpp"].state == "ok"
    assert "abcdef012" in found["llama.cpp"].detail
    assert "option" in found["llama.cpp"].detail
    assert {name: found[name].state for name in TOOLS} == {
        "llama-quantize": "ok",
        "llama-imatrix": "ok",
        "llama-perplexity": "ok",
        "llama-gguf-split": "missing",
        "llama-server": "missing",
    }
    assert "does not start" in found["llama-server"].detail
    assert found["convert_hf_to_gguf.py"].state == "missing"
    assert "MOE_RELEASE_LLAMA_CPP_SOURCE" in found["convert_hf_to_gguf.py"].detail


def test_a_build_that_cannot_name_its_commit_is_a_warning(tmp_path: Path):
    put(tmp_path / "llama", "llama-quantize", text="#!/bin/sh\necho hello\n")
    assert by_name(diagnose(tmp_path / "llama"))["llama.cpp"].state == "warning"


def test_a_wrong_option_is_a_finding_and_no_error(tmp_path: Path):
    found = by_name(diagnose(tmp_path / "nowhere"))["llama.cpp"]
    assert found.state == "missing"
    assert "no such folder" in found.detail


def test_programs_that_are_there_are_named_with_their_place(tmp_path: Path):
    put(tmp_path / "path", "cmake", "g++")
    found = by_name(diagnose())
    assert (found["cmake"].state, found["cmake"].detail) == ("ok", str(tmp_path / "path" / "cmake"))
    assert (found["C++ compiler"].state, found["C++ compiler"].detail) == ("ok", str(tmp_path / "path" / "g++"))


def test_the_token_is_noticed_and_never_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "s" * 34)
    findings = diagnose()
    assert by_name(findings)["Hugging Face token"] == Finding("Hugging Face token", "ok", "present")
    assert "sss" not in repr(findings)


@pytest.mark.parametrize(
    ("absent", "extra"),
    [("lm-eval", "eval"), ("sentencepiece", "analysis"), ("model-signing", "attest"), ("torch", "analysis")],
)
def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch, absent: str, extra: str):
    def version(package: str) -> str:
        if package == absent:
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.2.3"

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    found = by_name(diagnose())
    assert (found[absent].state, found[absent].remedy) == ("warning", f"pip install 'moe-release[{extra}]'")
    assert (found["transformers"].state, found["transformers"].detail) == ("ok", "1.2.3")


def test_every_extra_for_users_is_looked_for():
    assert set(doctor.EXTRAS.values()) == {"analysis", "attest", "eval"}


def test_little_space_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 1 << 60)
    found = by_name(diagnose())
    assert found["disk of this folder"].state == "warning"
    assert "GiB free" in found["disk of the cache"].detail


def test_nothing_heavy_is_imported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    code = "import sys; from release.actions.doctor import diagnose; diagnose(); "
    code += "print(sorted({'torch', 'transformers', 'lm_eval'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
