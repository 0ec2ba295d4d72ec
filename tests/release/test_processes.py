from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest

from pruner.errors import UnavailableError
from release.processes import NETWORK_VARIABLES, environment_without_secrets, inherited, run_tool, stop_tools

SHOW = "import json, os; print(json.dumps(dict(os.environ)))"

SHELL = {
    "HF_TOKEN": "1",
    "AWS_ACCESS_KEY_ID": "1",
    "GITHUB_TOKEN": "1",
    "GGML_SECRET": "1",
    "SSH_AUTH_SOCK": "1",
    "LLAMA_ARG_CTX_SIZE": "64",
    "NO_LOCAL_GGUF": "1",
    "HTTPS_PROXY": "http://user:word@127.0.0.1",
    "PIP_INDEX_URL": "https://user:word@127.0.0.1/simple",
    "UNHEARD_OF": "1",
    "CUDA_VISIBLE_DEVICES": "0",
    "GGML_VK_VISIBLE_DEVICES": "0",
    "OMP_NUM_THREADS": "1",
    "LC_ALL": "C",
    "TMPDIR": "/tmp",
}


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)


def test_a_tool_sees_what_is_allowed_and_nothing_else(tmp_path: Path):
    lines: list[str] = []
    run_tool([sys.executable, "-c", SHOW], log=tmp_path / "log", on_line=lines.append, environment={"GIVEN": "by us"})
    seen = json.loads("".join(lines))
    assert {"CUDA_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LC_ALL", "TMPDIR", "PATH"} <= seen.keys()
    assert seen["GIVEN"] == "by us"
    assert not {name for name in SHELL if name in seen} - {
        *("CUDA_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LC_ALL", "TMPDIR")
    }


def test_only_what_a_network_tool_asks_for_is_added(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_TOKEN", "1")
    assert inherited(NETWORK_VARIABLES).keys() >= {"HTTPS_PROXY", "PIP_INDEX_URL"}
    assert not {"PIP_TOKEN", "HF_TOKEN", "UNHEARD_OF", "PATH"} & inherited(NETWORK_VARIABLES).keys()
    assert "HTTPS_PROXY" not in environment_without_secrets()


def test_tools_in_other_threads_can_be_stopped(tmp_path: Path):
    started, errors = threading.Event(), []

    def work() -> None:
        try:
            command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
            run_tool(command, log=tmp_path / "log", on_line=lambda _line: started.set())
        except UnavailableError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(300)
    stop_tools()
    thread.join(300)
    assert not thread.is_alive()
    assert "was killed by signal 15: up" in errors[0]
