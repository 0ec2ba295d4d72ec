"""Jobs through the real client: what a machine on the Hub would be told to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pruner.errors import InputError, UnavailableError
from release import __version__
from release.hub.endpoint import HubTarget
from release.hub.jobs import SCRIPTS, job_request, submit
from release.hub.local import LocalHub
from tests.conftest import ROOT

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
