"""The llama-server process: proved before use, stopped on every way out."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from pruner.errors import CheckFailedError, UnavailableError
from release.evaluation.protocol import load_protocol
from release.evaluation.server import LlamaServer
from release.evaluation.settings import OFF, SAMPLING_FLAGS, differing_settings
from tests.ports import unasked_port

from .conftest import Bench, MakeProtocol
from .runs import running_servers

pytestmark = pytest.mark.llama


@pytest.fixture
def make_server(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    def make(protocol: Any = None, **changes: Any) -> LlamaServer:
        arguments: dict[str, Any] = {
            "binary": bench.server_binary,
            "model": bench.model,
            "alias": "tiny",
            "protocol": protocol or make_protocol(),
            "log": tmp_path / "server.log",
        }
        return LlamaServer(**(arguments | changes))

    return make


def test_the_running_server_has_the_protocols_settings(make_server: Any, make_protocol: MakeProtocol):
    changes = {"temperature": 0.7, "min_p": 0.05, "top_k": 20, "dry_multiplier": 0.5, "seed": 7, "xtc_probability": 0.25}
    protocol = make_protocol(**{f"sampling__{name}": value for name, value in changes.items()})
    with make_server(protocol) as server:
        params = server.props["default_generation_settings"]["params"]
        assert {name: pytest.approx(params[name]) for name in changes} == changes
        assert server.props["total_slots"] == 1
        assert server.props["default_generation_settings"]["n_ctx"] == protocol.server.context
    assert not running_servers()


@pytest.mark.parametrize("name", ["gpqa-diamond-v1", "gpqa-diamond-card-v3"])
def test_the_real_exams_protocols_are_what_a_server_can_be(make_server: Any, manifests: Path, name: str):
    """All but their context, of which the tiny model was trained for a sixteenth; llama-server caps it.

    Of threads no server tells; as many as on a publisher's machine would take half a minute to warm up here.
    """
    protocol = load_protocol(manifests / "protocols" / f"{name}.yaml", manifests)
    protocol = protocol.model_copy(update={"server": protocol.server.model_copy(update={"threads": 1})})
    with pytest.raises(CheckFailedError, match=rf"{name}: context per slot: the server has 2048, the protocol 32768$"):
        make_server(protocol).__enter__()


def test_the_environment_cannot_change_settings(make_server: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LLAMA_ARG_N_PARALLEL", "4")
    monkeypatch.setenv("LLAMA_ARG_TEMP", "0.9")
    with make_server() as server:
        assert server.props["total_slots"] == 1


def test_every_difference_is_told_with_both_values(make_server: Any, make_protocol: MakeProtocol):
    protocol = make_protocol()
    with make_server(protocol) as server:
        props = server.props
    assert differing_settings(protocol, props) == []
    others = make_protocol(
        sampling__min_p=0.25, server__context=2048, chat__template_sha256="0" * 64, server__llama_cpp_commit="1" * 40
    )
    found = "\n".join(differing_settings(others, props))
    assert "min_p: the server has 0.0, the protocol 0.25" in found
    assert "context per slot: the server has 1024, the protocol 2048" in found
    assert "chat template's sha256: the server has" in found
    assert "llama.cpp: the server is build" in found
    assert differing_settings(protocol, {})[0].startswith("seed: the server has None")


def test_a_pinned_build_and_template_are_accepted(make_server: Any, make_protocol: MakeProtocol, bench: Bench):
    from release.evaluation.settings import template_digest

    with make_server() as server:
        template = template_digest(server.props)
    pinned = make_protocol(chat__template_sha256=template, server__llama_cpp_commit=bench.toolchain_commit)
    with make_server(pinned) as server:
        assert template_digest(server.props) == template


def test_a_server_that_differs_is_stopped_before_the_first_question(make_server: Any, make_protocol: MakeProtocol):
    with pytest.raises(CheckFailedError, match=r"does not run protocol tiny-exam: chat template's sha256"):
        make_server(make_protocol(chat__template_sha256="0" * 64)).__enter__()
    assert not running_servers()


def test_an_occupied_port_is_named(make_server: Any):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=rf"port {port} cannot be used: Address already in use"):
            make_server(port=port).__enter__()
    assert not running_servers()


def test_a_chosen_port_is_used(make_server: Any):
    port = unasked_port()
    with make_server(port=port) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200


def test_a_port_that_somebody_else_took_meanwhile_is_left_to_them(make_server: Any, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", 0))
        ports = [theirs.getsockname()[1], unasked_port()]
        monkeypatch.setattr("release.llama_server.free_port", iter(ports).__next__)
        with make_server() as server:
            assert server.url == f"http://127.0.0.1:{ports[1]}"
            assert server.restarts == 0
        monkeypatch.setattr("release.llama_server.free_port", lambda: ports[0])
        with pytest.raises(UnavailableError, match=r"llama-server ended with exit code 1: .*couldn't bind"):
            make_server().__enter__()
    assert not running_servers()


def test_a_damaged_model_gives_the_servers_last_words(make_server: Any, tmp_path: Path, bench: Bench):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(bench.model.read_bytes()[:10_000])
    with pytest.raises(
        UnavailableError, match=r"llama-server ended with exit code \d+: .*damaged\.gguf.*\(log: .*server\.log\)"
    ):
        make_server(model=damaged).__enter__()


def test_a_missing_or_unfit_binary_is_named(make_server: Any, tmp_path: Path):
    with pytest.raises(UnavailableError, match=r"none: cannot be started: No such file"):
        make_server(binary=tmp_path / "none").__enter__()
    with pytest.raises(UnavailableError, match="cannot be started: Permission denied"):
        make_server(binary=tmp_path).__enter__()


def test_a_server_that_never_gets_ready_is_given_up(
    make_server: Any, make_protocol: MakeProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def monotonic() -> float:
        """A second has passed when the server has said something, be that sooner or later."""
        return float(bool((tmp_path / "server.log").read_bytes()))

    binary = tmp_path / "sleeper"
    binary.write_text(f"#!{sys.executable}\nimport time\nprint('still loading', flush=True)\ntime.sleep(60)\n")
    binary.chmod(0o755)
    monkeypatch.setattr("release.llama_server.time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    with pytest.raises(UnavailableError, match=r"not ready after 1 s: still loading"):
        make_server(make_protocol(limits__start_seconds=1), binary=binary).__enter__()
    assert not [child for child in psutil.Process().children() if "sleeper" in " ".join(child.cmdline())]


def test_the_server_is_stopped_when_the_block_raises(make_server: Any):
    def interrupted() -> None:
        with make_server():
            assert len(running_servers()) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not running_servers()


def test_too_many_deaths_are_an_error(make_server: Any, make_protocol: MakeProtocol):
    with make_server(make_protocol(limits__server_restarts=1)) as server:
        for _ in range(1):
            running_servers()[0].kill()
            assert server.revive(5)
            assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200
        assert not server.revive()
        running_servers()[0].kill()
        with pytest.raises(UnavailableError, match="llama-server died 2 times"):
            server.revive(5)


def test_secrets_do_not_reach_the_server(make_server: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with make_server():
        (process,) = running_servers()
        assert "HF_TOKEN" not in process.environ()


def test_what_a_protocol_has_no_word_for_must_be_off(make_server: Any, make_protocol: MakeProtocol):
    protocol = make_protocol()
    with make_server(protocol) as server:
        props = server.props
    params = props["default_generation_settings"]["params"]
    assert set(OFF) <= set(params), "the real server reports each of them"
    changes = {"lora": [{"id": 0}], "ignore_eos": True, "adaptive_target": 0.5, "speculative.types": "draft"}
    params |= changes
    assert [each.partition(":")[0] for each in differing_settings(protocol, props)] == [each for each in OFF if each in changes]
    del params["lora"]
    assert not [each for each in differing_settings(protocol, props) if each.startswith("lora")]


@pytest.mark.parametrize("field", [*SAMPLING_FLAGS, "samplers"])
def test_each_field_of_the_sampling_that_the_server_tells_is_compared(make_protocol: MakeProtocol, field: str):
    protocol = make_protocol()
    params = protocol.sampling.model_dump(mode="json")
    props = {"default_generation_settings": {"params": params, "n_ctx": protocol.server.context}, "total_slots": 1}
    assert differing_settings(protocol, props) == []
    params[field] = ["other"] if field == "samplers" else 3
    (found,) = differing_settings(protocol, props)
    expected = getattr(protocol.sampling, field)
    assert (
        found
        == f"{field}: the server has {params[field]!r}, the protocol {list(expected) if field == 'samplers' else expected!r}"
    )
