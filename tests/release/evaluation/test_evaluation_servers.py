"""Several servers, here or elsewhere: the same replies whichever gave them, and no orphan whatever happens."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pruner.errors import CheckFailedError, InputError, UnavailableError
from release.evaluation.evidence import evidence_bytes, read_evidence
from release.evaluation.gpus import gpu_shares, nvidia_gpus
from release.evaluation.pool import ServerPool, StoppedError
from release.evaluation.remote import UNSEEN, RemoteServer, check_url
from release.evaluation.server import LlamaServer

from .conftest import QUESTIONS, Bench, Faults, MakeProtocol, Steps
from .runs import ledger_lines, running_servers, said, wait_until

pytestmark = pytest.mark.llama

Elsewhere = Callable[..., list[str]]


@pytest.fixture
def elsewhere(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path) -> Iterator[Elsewhere]:
    """Servers that someone else runs, under the protocol that is given."""
    with ExitStack() as exits:

        def start(protocol: Any, count: int = 1, model: Path | None = None, **environment: str) -> list[str]:
            servers = [
                LlamaServer(
                    binary=bench.server_binary,
                    model=model or bench.model,
                    alias=f"theirs-{number}",
                    protocol=protocol,
                    log=tmp_path / f"theirs-{number}.log",
                    environment=environment,
                )
                for number in range(count)
            ]
            return [exits.enter_context(server).url for server in servers]

        yield start


def test_one_and_three_servers_have_the_same_replies(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol()
    bench.run(protocol, tmp_path / "one")
    bench.run(protocol, tmp_path / "three", servers=3)
    assert said(tmp_path / "one") == said(tmp_path / "three")
    assert (tmp_path / "one" / "evidence.json").read_bytes() == (tmp_path / "three" / "evidence.json").read_bytes()
    assert {line["server"] for line in ledger_lines(tmp_path / "three")} == {0, 1, 2}
    record = json.loads((tmp_path / "three" / "run.json").read_text())
    assert [each["server"] for each in record["servers"]] == [0, 1, 2]
    assert sum(each["replies"] for each in record["servers"]) == record["replies"] == len(ledger_lines(tmp_path / "three"))
    assert {path.name for path in (tmp_path / "three").glob("server*.log")} == {"server.log", "server-2.log", "server-3.log"}
    assert not running_servers()


def test_the_number_of_threads_changes_nothing(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol(questions=8)
    expected = evidence_bytes(bench.run(protocol, tmp_path / "plain"))
    for workers in (1, 5):
        with ThreadPoolExecutor(workers) as executor:
            found = bench.run(protocol, tmp_path / str(workers), servers=2, executor=executor)
        assert evidence_bytes(found) == expected


def test_killed_servers_come_back_each_for_itself(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol()

    def kill_all_at_six(done: int) -> None:
        if done == 6:
            for server in running_servers():
                server.kill()
        if done == 9:  # the others have questions left, and come back too before this one may take those
            wait_until(lambda: len(running_servers()) == 3)

    disturbed = bench.run(protocol, tmp_path / "disturbed", Steps(kill_all_at_six), servers=3)
    assert evidence_bytes(disturbed) == evidence_bytes(bench.run(protocol, tmp_path / "quiet"))
    record = json.loads((tmp_path / "disturbed" / "run.json").read_text())
    assert [each["restarts"] for each in record["servers"]] == [1, 1, 1]
    assert record["server_restarts"] == 3
    assert all(each["error"].startswith("connection") for each in record["failed_attempts"])
    assert not running_servers()


def test_a_run_of_three_is_finished_by_one(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol()

    def interrupt_at_nine(done: int) -> None:
        if done >= 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(protocol, tmp_path / "run", Steps(interrupt_at_nine), servers=3)
    assert not running_servers()
    before = ledger_lines(tmp_path / "run")
    assert 9 <= len(before) <= 11
    assert not [line for line in before if line["error"]]  # what we broke off ourselves is no failure
    finished = bench.run(protocol, tmp_path / "run")
    assert ledger_lines(tmp_path / "run")[: len(before)] == before
    assert len({line["question"] for line in ledger_lines(tmp_path / "run")}) == QUESTIONS
    assert evidence_bytes(finished) == evidence_bytes(bench.run(protocol, tmp_path / "quiet"))


def test_an_error_ends_the_slow_requests_of_the_others(
    bench: Bench, faults: Faults, make_protocol: MakeProtocol, tmp_path: Path
):
    """Every proxy is slow from its second question on; without a break the run would last two minutes."""
    protocol = make_protocol(questions=8, limits__retries=0, limits__request_seconds=120)
    faults.set(**{f"q{number}": ["slow"] for number in range(1, 8)})

    def fail_at_two(done: int) -> None:
        if done == 2:
            raise CheckFailedError("enough")

    with pytest.raises(CheckFailedError, match="enough"):
        bench.run(protocol, tmp_path / "run", Steps(fail_at_two), servers=2, server_binary=faults.binary)
    assert not running_servers()
    assert len(ledger_lines(tmp_path / "run")) == 2


def test_one_server_that_cannot_start_ends_the_others(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol()
    arguments = {"binary": bench.server_binary, "alias": "a", "protocol": protocol}
    good = LlamaServer(model=bench.model, log=tmp_path / "good.log", **arguments)
    bad = LlamaServer(model=tmp_path / "none.gguf", log=tmp_path / "bad.log", **arguments)
    with pytest.raises(UnavailableError, match="llama-server ended with exit code"):
        ServerPool([good, bad]).__enter__()
    assert not running_servers()


def test_servers_elsewhere_give_the_same_replies_and_what_is_unseen_is_told(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path, elsewhere: Elsewhere
):
    protocol = make_protocol()
    urls = elsewhere(protocol, 3)
    ours = bench.run(protocol, tmp_path / "ours")
    one = bench.run(protocol, tmp_path / "one", urls=urls[:1])
    three = bench.run(protocol, tmp_path / "three", urls=urls)
    assert said(tmp_path / "ours") == said(tmp_path / "one") == said(tmp_path / "three")
    assert evidence_bytes(one) == evidence_bytes(three)
    assert (ours.unverified, one.unverified) == ((), UNSEEN)
    assert "model_sha256" in one.unverified
    assert evidence_bytes(one.model_copy(update={"unverified": ()})) == evidence_bytes(ours)
    assert read_evidence(tmp_path / "three" / "evidence.json") == three
    assert len(running_servers()) == 3  # they are not ours to stop
    for name in ("evidence.json", "run.json", "ledger.jsonl"):
        assert "127.0.0.1" not in (tmp_path / "three" / name).read_text()


def test_a_server_elsewhere_cannot_shorten_thoughts_or_speak_in_them(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path, elsewhere: Elsewhere
):
    """Nobody sees how it was started; what each request says holds."""
    free, bound = make_protocol(questions=4), make_protocol(questions=4, server__reasoning_budget=6)
    (url,) = elsewhere(bound, LLAMA_ARG_THINK_BUDGET_MESSAGE="so (B) it is")
    for name, protocol in (("free", free), ("bound", bound)):
        bench.run(protocol, tmp_path / name / "theirs", urls=[url])
        bench.run(protocol, tmp_path / name / "ours")
        assert said(tmp_path / name / "theirs") == said(tmp_path / name / "ours")
    assert said(tmp_path / "free" / "ours") != said(tmp_path / "bound" / "ours")


def test_what_servers_elsewhere_answered_is_asked_again_here(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path, elsewhere: Elsewhere
):
    protocol = make_protocol(questions=6, max_tokens=14)
    theirs = bench.run(protocol, tmp_path / "run", urls=elsewhere(protocol))
    assert theirs.patched > 0
    notes: list[str] = []
    progress = Steps(lambda _done: None)
    progress.note = notes.append  # type: ignore[method-assign]
    ours = bench.run(protocol, tmp_path / "run", progress)
    assert notes[0].startswith(f"{6 + theirs.patched} answers in the ledger came from servers elsewhere")
    assert evidence_bytes(ours) == evidence_bytes(bench.run(protocol, tmp_path / "quiet"))
    lines = ledger_lines(tmp_path / "run")
    assert [line["elsewhere"] for line in lines] == [True] * (len(lines) // 2) + [False] * (len(lines) // 2)
    assert [line["attempt"] for line in ledger_lines(tmp_path / "run", "raw")] == [1] * 6 + [2] * 6
    assert bench.run(protocol, tmp_path / "run", urls=elsewhere(protocol)) == ours, "what we saw stays good"
    assert ledger_lines(tmp_path / "run") == lines


def test_another_model_elsewhere_is_refused(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path, elsewhere: Elsewhere):
    protocol = make_protocol()
    (url,) = elsewhere(protocol, model=bench.model.with_name("tiny-BF16.gguf"))
    with pytest.raises(CheckFailedError, match=rf"{url} runs another model: size is \d+, of the quant \d+"):
        bench.run(protocol, tmp_path / "run", urls=[url])
    assert not (tmp_path / "run" / "ledger.jsonl").exists()


def test_another_setting_elsewhere_is_told_with_both_values(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path, elsewhere: Elsewhere
):
    (url,) = elsewhere(make_protocol(sampling__min_p=0.05))
    with pytest.raises(CheckFailedError, match=rf"{url} does not run protocol tiny-exam: min_p: the server has 0\.05.* 0\.0"):
        bench.run(make_protocol(), tmp_path / "run", urls=[url])


def test_a_server_elsewhere_may_come_back(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever runs it starts it again while the run waits; the question in flight is asked again."""
    protocol = make_protocol(questions=6)
    arguments = {"binary": bench.server_binary, "model": bench.model, "alias": "theirs", "protocol": protocol}
    with LlamaServer(log=tmp_path / "theirs.log", **arguments) as theirs:

        def replace(done: int) -> None:
            if done == 3:
                running_servers()[0].kill()
                keeper.submit(theirs.revive, 10)

        monkeypatch.setattr("release.llama_server.free_port", lambda: int(theirs.url.rpartition(":")[2]))
        with ThreadPoolExecutor(1) as keeper:  # a server ends with the thread that started it
            found = bench.run(protocol, tmp_path / "run", Steps(replace), urls=[theirs.url])
    monkeypatch.undo()
    quiet = bench.run(protocol, tmp_path / "quiet")
    assert evidence_bytes(found.model_copy(update={"unverified": ()})) == evidence_bytes(quiet)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["server_restarts"] <= 1


@contextmanager
def answering(replies: dict[str, Any]) -> Iterator[str]:
    """A server that says what it likes."""

    class Say(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps(replies.get(self.path, {})).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_words: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Say)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ({}, "a server with exactly one model is needed"),
        ({"/v1/models": {"data": [1]}}, "a server with exactly one model is needed"),
        ({"/v1/models": {"data": [{}]}}, "does not run protocol tiny-exam: seed: the server has None"),
        (
            {"/v1/models": {"data": [{}]}, "/props": {"default_generation_settings": [], "chat_template": 5}},
            "does not run protocol",
        ),
    ],
)
def test_a_stranger_gets_one_line(make_protocol: MakeProtocol, replies: dict[str, Any], message: str):
    with answering(replies) as url, pytest.raises(CheckFailedError, match=message):
        ServerPool([RemoteServer(url, protocol=make_protocol(), identity={})]).__enter__()


def test_a_server_that_nobody_runs_is_told_at_once(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1:9: no llama-server answers: connection"):
        bench.run(make_protocol(), tmp_path, urls=["http://127.0.0.1:9/"])


@pytest.mark.parametrize("url", ["ftp://x", "http://", "10.0.0.5:80", "http://a:b@c", "http://a:99999", "http://a?key=1"])
def test_a_url_that_is_none_is_refused(url: str):
    with pytest.raises(InputError, match="--server") as caught:
        check_url(url)
    assert "a:b" not in str(caught.value)


def test_a_server_that_is_named_twice_is_refused(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    with pytest.raises(InputError, match="named twice"):
        bench.run(make_protocol(), tmp_path, urls=["http://127.0.0.1:9", "http://127.0.0.1:9/"])


class Fake:
    """A server in name only, for what the pool does by itself."""

    def __init__(self, number: int, props: dict[str, Any] | None = None) -> None:
        self.number, self.props, self.url, self.alias, self.restarts = number, props or {}, f"http://{number}", "a", 0
        self.client: Any = None
        self.elsewhere = False
        self.stopped = threading.Event()

    def launch(self) -> None: ...
    def await_ready(self) -> None: ...
    def revive(self, grace: float = 0) -> bool:  # noqa: ARG002  # the pool's interface
        return False

    def abort(self) -> None:
        self.stopped.set()

    def stop(self) -> None:
        self.stopped.set()


def test_results_stand_in_the_items_order_and_each_server_has_one_at_a_time():
    busy: dict[int, int] = {}

    def work(server: Any, item: int) -> int:
        busy[server.number] = busy.get(server.number, 0) + 1
        assert busy[server.number] == 1
        threading.Event().wait(0.002 * (item % 3))
        busy[server.number] -= 1
        return item * item

    with ServerPool([Fake(number) for number in range(3)]) as pool:
        assert pool.map(work, list(range(50))) == [item * item for item in range(50)]
        assert pool.map(work, []) == []


def test_the_first_error_wins_and_ends_the_rest():
    done: list[int] = []

    def work(server: Fake, item: int) -> None:
        if item == 1:
            raise CheckFailedError("this one")
        server.stopped.wait(300)
        done.append(item)
        pool.go_on()

    with ServerPool([Fake(0), Fake(1)]) as pool:
        with pytest.raises(CheckFailedError, match="this one"):
            pool.map(work, list(range(20)))
        assert done == [0]
        with pytest.raises(StoppedError):
            pool.go_on()


@pytest.mark.parametrize(
    ("second", "message"),
    [({"build_info": "b1-bbbbbbb"}, "different llama.cpp builds"), ({"chat_template": "x"}, "different chat templates")],
)
def test_servers_that_would_answer_differently_are_refused(second: dict[str, Any], message: str):
    props = {"build_info": "b1-aaaaaaa", "chat_template": "t"}
    with pytest.raises(CheckFailedError, match=message):
        ServerPool([Fake(0, props), Fake(1, props | second)]).__enter__()


def test_gpus_are_shared_out_evenly():
    name = "CUDA_VISIBLE_DEVICES"
    assert gpu_shares({}, 3) == [{}, {}, {}]
    assert gpu_shares({name: "0,1"}, 1) == [{}]
    assert gpu_shares({name: "0,1"}, 2) == [{name: "0"}, {name: "1"}]
    assert gpu_shares({name: "0,1,2,GPU-7"}, 2) == [{name: "0,1"}, {name: "2,GPU-7"}]
    assert gpu_shares({name: "0,1"}, 4) == [{name: "0"}, {name: "1"}, {name: "0"}, {name: "1"}]
    with pytest.raises(InputError, match="names 2 GPUs for 3 servers"):
        gpu_shares({name: "0,1"}, 3)
    assert gpu_shares({"HIP_VISIBLE_DEVICES": "0,1"}, 2) == [{"HIP_VISIBLE_DEVICES": "0"}, {"HIP_VISIBLE_DEVICES": "1"}]
    assert gpu_shares({}, 2, ["GPU-a", "GPU-b"]) == [{name: "GPU-a"}, {name: "GPU-b"}]
    assert gpu_shares({name: ""}, 2, ["GPU-a", "GPU-b"]) == [{}, {}], "hidden on purpose"
    with pytest.raises(InputError, match="is not set and this machine has 3 GPUs for 2 servers"):
        gpu_shares({}, 2, ["GPU-a", "GPU-b", "GPU-c"])


def test_gpus_that_nobody_named_are_found_by_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stand-in for the tool of machines that have such GPUs."""
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tool.write_text('#!/bin/sh\n[ "$*" = "--query-gpu=uuid --format=csv,noheader" ] && printf "GPU-a\\nGPU-b\\n"\n')
    tool.chmod(0o755)
    assert nvidia_gpus() == ["GPU-a", "GPU-b"]
    tool.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert nvidia_gpus() == []


def test_each_server_sees_its_own_gpus(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    seen: list[str] = []

    def look(done: int) -> None:
        if done == 1:
            seen.extend(sorted(server.environ()["CUDA_VISIBLE_DEVICES"] for server in running_servers()))

    bench.run(make_protocol(questions=2), tmp_path, Steps(look), servers=2)
    assert seen == ["4", "7"]
