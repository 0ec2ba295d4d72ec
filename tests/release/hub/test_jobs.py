"""Jobs through the real client: what a machine on the Hub would be told to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pruner.errors import InputError, UnavailableError
from release import __version__
from release.hub.endpoint import HubTarget
from release.hub.jobs import SCRIPTS, Task, job_request, submit
from release.hub.local import LocalHub
from tests.conftest import ROOT
from tests.end_to_end.conftest import run_command

TARGET = "hf://org/variant@v1"


@pytest.mark.parametrize("task", ["verify", "eval"])
def test_the_target_is_an_argument_of_a_constant_program(task: str) -> None:
    request = job_request(task, TARGET, flavor="cpu-basic", timeout="1h")  # type: ignore[arg-type]
    assert request.command == ("bash", "-c", SCRIPTS[task], "moe-release-job", TARGET, __version__)  # type: ignore[index]
    assert "org/variant" not in request.command[2]


@pytest.mark.parametrize("target", ["build/weights", "hf://org", "hf://org/name;rm", "hf://org/na me@v1"])
def test_what_is_no_address_is_refused(target: str) -> None:
    with pytest.raises(InputError):
        job_request("verify", target, flavor="cpu-basic", timeout="1h")


def test_what_is_sent_is_what_was_asked_for(hub: LocalHub) -> None:
    job = submit(job_request("eval", TARGET, flavor="a10g-large", timeout="2h"), HubTarget(hub.endpoint, hub.token), "org")
    sent = json.loads((hub.folder / "jobs" / "org" / f"{job.id}.json").read_text())
    assert sent["command"] == ["bash", "-c", SCRIPTS["eval"], "moe-release-job", TARGET, __version__]
    assert (sent["flavor"], sent["timeoutSeconds"], sent["secrets"]) == ("a10g-large", 7200, {"HF_TOKEN": None})
    assert hub.token not in json.dumps(sent)


@pytest.mark.parametrize("timeout", ["banana", "", "0", "0h", "-1h", "1w", "1h30m", "h", "nan", "1e3"])
@pytest.mark.parametrize("dry", [True, False])
def test_what_is_no_time_is_bad_input(timeout: str, dry: bool, hub: LocalHub) -> None:
    words = ["jobs", "submit", "verify", TARGET, f"--timeout={timeout}", *(["--dry-run"] if dry else [])]
    done = run_command(*words, check=False, **hub.environment(), PYTHONPATH=str(ROOT))
    assert done.returncode == 2
    assert f"--timeout {timeout}: is no time; give a number and s, m, h or d" in done.stderr
    assert not (hub.folder / "jobs").exists()


@pytest.mark.parametrize(("timeout", "seconds"), [("90m", 5400), ("6h", 21600), ("1.5d", 129600), ("300", 300), ("45s", 45)])
def test_times_are_those_of_the_client(timeout: str, seconds: int, hub: LocalHub) -> None:
    request = job_request("verify", TARGET, flavor="cpu-basic", timeout=timeout)
    job = submit(request, HubTarget(hub.endpoint, hub.token), "org")
    sent = json.loads((hub.folder / "jobs" / "org" / f"{job.id}.json").read_text())
    assert sent["timeoutSeconds"] == seconds


QUESTIONS = "hf://datasets/org/exam@main/data/held_out.jsonl"


@pytest.mark.parametrize(
    ("task", "data", "asked"),
    [
        ("verify", None, [f"verify {TARGET} --requantize"]),
        ("eval", None, [f"verify {TARGET} --requantize --exam"]),
        (
            "eval",
            QUESTIONS,
            [
                "download --repo-type dataset --revision main --local-dir exam-data org/exam data/held_out.jsonl",
                f"verify {TARGET} --requantize --exam --exam-data exam-data/data/held_out.jsonl",
            ],
        ),
    ],
)
def test_the_programs_run(task: Task, data: str | None, asked: list[str], tmp_path: Path) -> None:
    """With what they install replaced by commands that write down their words; a package index is not to be asked here."""
    log = tmp_path / "log"
    for name in ("pip", "moe-release", "hf"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> "{log}"\n')
        (tmp_path / name).chmod(0o755)
    request = job_request(task, TARGET, flavor="cpu-basic", timeout="1h", exam_data=data)
    subprocess.run(request.command, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    installed, built, *rest = log.read_text().splitlines()
    assert installed == f"pip install --quiet moe-release[analysis,attest,eval]=={__version__} cmake ninja"
    assert built == "moe-release toolchain install"
    assert [line.partition(" ")[2] for line in rest] == asked
    assert [line.partition(" ")[0] for line in rest] == ["hf", "moe-release"][-len(rest) :]


def test_the_commands_of_the_programs_exist() -> None:
    known = run_command("verify", "--help", COLUMNS="200", PYTHONPATH=str(ROOT)).stdout
    assert all(option in known for option in ("--requantize", "--exam", "--exam-data"))


@pytest.mark.parametrize(
    ("task", "data"), [("verify", QUESTIONS), ("eval", "held_out.jsonl"), ("eval", "hf://datasets/org/exam@main/../x")]
)
def test_data_that_no_job_can_read_is_refused(task: Task, data: str) -> None:
    with pytest.raises(InputError, match="--exam-data"):
        job_request(task, TARGET, flavor="cpu-basic", timeout="1h", exam_data=data)


def test_without_a_token_nothing_is_sent(hub: LocalHub) -> None:
    with pytest.raises(UnavailableError, match="HF_TOKEN"):
        submit(job_request("verify", TARGET, flavor="cpu-basic", timeout="1h"), HubTarget(hub.endpoint))
    assert not (hub.folder / "jobs").exists()


def test_the_script_and_the_command_send_the_same(hub: LocalHub) -> None:
    environment = {**os.environ, **hub.environment(), "TASK": "verify", "TARGET": TARGET, "DRY_RUN": "1"}
    command = f"{sys.executable} -m release"
    script = subprocess.run(
        [ROOT / ".github/scripts/hf-job.sh"],
        env={**environment, "MOE_RELEASE": str(_launcher(hub, command))},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(script.stdout) == json.loads(
        json.dumps(job_request("verify", TARGET, flavor="cpu-upgrade", timeout="6h").to_json())
    )


def _launcher(hub: LocalHub, command: str) -> object:
    path = hub.folder / "moe-release"
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)
    return path
