"""What the verification workflow does with a rebuilder's private key: no runner needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from release.verdict import Finding, Pieces, Verdict, Verification
from release.verification.ggufs import NOT_REBUILT
from tests.conftest import ROOT

SCRIPT = ROOT / ".github" / "scripts" / "verify.sh"
KEY = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----"
RECORDER = f"""#!{sys.executable}
import json, os, pathlib, sys
words = sys.argv[1:]
seen = {{"words": words, "environment": sorted(os.environ)}}
if "--key" in words:
    key = pathlib.Path(words[words.index("--key") + 1])
    seen |= {{"mode": oct(key.stat().st_mode & 0o777), "text": key.read_text(), "path": str(key)}}
with open(os.environ["SEEN"], "a") as file:
    file.write(json.dumps(seen) + "\\n")
print(words[0], "ran")
print(os.environ.get("SAYS", ""), end="")
sys.exit(int(os.environ.get(words[0].upper() + "_CODE", "0")))
"""


def run(folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, object]]]:
    recorder = folder / "moe-release"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    temporary = folder / "tmp"
    temporary.mkdir()
    given = {
        "PATH": os.environ["PATH"],
        "MOE_RELEASE": str(recorder),
        "SEEN": str(folder / "seen"),
        "TMPDIR": str(temporary),
        "REQUANTIZE": "yes",
    }
    done = subprocess.run(
        [SCRIPT], env={**given, "TARGET": "hf://org/m@v1", **environment}, capture_output=True, text=True, check=False
    )
    assert not list(temporary.iterdir()), "the key is gone"
    return done, [json.loads(line) for line in (folder / "seen").read_text().splitlines()]


def test_without_a_key_nothing_is_attested(tmp_path: Path) -> None:
    done, calls = run(tmp_path)
    assert [call["words"] for call in calls] == [["verify", "hf://org/m@v1", "--requantize"]]
    assert done.returncode == 0


def test_the_key_is_a_private_file_for_as_long_as_it_is_used(tmp_path: Path) -> None:
    done, (verify, attest) = run(tmp_path, REBUILDER_KEY=KEY, BASE="/b", BUILDER="a machine")
    assert done.returncode == 0
    assert verify["words"] == ["verify", "hf://org/m@v1", "--requantize", "--base", "/b"]
    words = ["attest", "hf://org/m@v1", "--key", attest["path"], "--builder", "a machine", "--base", "/b"]
    assert attest["words"] == words
    assert (attest["mode"], attest["text"]) == ("0o600", KEY + "\n")
    assert "REBUILDER_KEY" not in verify["environment"]
    assert "REBUILDER_KEY" not in attest["environment"]
    assert "BEGIN PRIVATE KEY" not in done.stdout + done.stderr


@pytest.mark.parametrize("code", [1, 3])
def test_a_bad_or_partly_unknown_release_is_attested_and_its_verdict_stays(tmp_path: Path, code: int) -> None:
    done, calls = run(tmp_path, REBUILDER_KEY=KEY, VERIFY_CODE=str(code))
    assert len(calls) == 2
    assert done.returncode == code


def test_what_cannot_be_verified_at_all_is_not_attested(tmp_path: Path) -> None:
    done, calls = run(tmp_path, REBUILDER_KEY=KEY, VERIFY_CODE="2")
    assert len(calls) == 1
    assert done.returncode == 2


def test_a_failed_attestation_fails_the_run(tmp_path: Path) -> None:
    done, calls = run(tmp_path, REBUILDER_KEY=KEY, ATTEST_CODE="3")
    assert len(calls) == 2
    assert done.returncode == 3


def test_what_it_finds_is_shown_at_once_and_stands_in_the_summary(tmp_path: Path) -> None:
    done, _ = run(tmp_path, REBUILDER_KEY=KEY, GITHUB_STEP_SUMMARY=str(tmp_path / "summary"))
    assert done.stdout == "verify ran\nattest ran\n"
    assert (tmp_path / "summary").read_text() == "## hf://org/m@v1\n```\nverify ran\nattest ran\n```\n"


def text(*findings: Finding) -> str:
    """What `verify` prints of a release with these parts."""
    return Verification("hf://org/m", "c" * 40, (Finding("weights", Verdict.GOOD, "3 files"), *findings)).text() + "\n"


def quants(**reasons: str) -> Finding:
    """The finding on quants that could not be called good."""
    pieces = Pieces("ggufs")
    for name, reason in reasons.items():
        pieces.add(name, Verdict.UNKNOWN, reason)
    return pieces.finding("")


GONE = "the Hub cannot be reached"


@pytest.mark.parametrize(
    ("says", "code"),
    [
        (text(quants(A=NOT_REBUILT)), 0),
        (text(quants(A=NOT_REBUILT, B=NOT_REBUILT)), 0),
        (text(quants(A=NOT_REBUILT, B=GONE)), 3),
        (text(quants(A=GONE, B=NOT_REBUILT)), 3),
        (text(quants(A=NOT_REBUILT), Finding("exam", Verdict.UNKNOWN, GONE)), 3),
        (text(Finding("exam", Verdict.UNKNOWN, GONE)), 3),
        (f"moe-release: {GONE}\n", 3),
    ],
)
def test_quants_that_another_machine_makes_fail_no_leg(tmp_path: Path, says: str, code: int) -> None:
    done, calls = run(tmp_path, REQUANTIZE="no", VERIFY_CODE="3", SAYS=says)
    assert [call["words"] for call in calls] == [["verify", "hf://org/m@v1"]]
    assert done.returncode == code


def test_only_yes_and_no_decide_on_quants(tmp_path: Path) -> None:
    (tmp_path / "seen").touch()
    done, calls = run(tmp_path, REQUANTIZE="maybe")
    assert (done.returncode, calls) == (2, [])
    assert done.stderr == "verify.sh: REQUANTIZE is 'maybe'; it must be yes or no\n"
