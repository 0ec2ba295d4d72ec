"""Bases and targets on the rehearsal Hub, read by ranges with the real client, with faults put between the two."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from pruner.build import build
from pruner.checkpoint import Checkpoint, open_checkpoint
from pruner.drop_map import DropMap
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.hub_source import HubSource, hub_source
from pruner.materialize import materialize
from pruner.plan import Plan, plan_build
from pruner.proof import Proof, prove
from pruner.sources import TEMPLATES, LocalSource, open_source, read_source_header
from pruner.spot import spot_check
from release.hub.local import LocalHub
from release.references import compare, read_reference
from tests.conftest import ROOT, CheckpointFactory
from tests.digests import digests
from tests.pruner.test_proof import sparse_checkpoint
from tests.release.hub.remote.repositories import BASE, CARD, NO_PAUSES, TARGET, Faults, remote, run_cli, upload

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DROP = {"0": (1, 2, 7), "1": (0, 3, 4), "2": (5, 6, 7)}
SHARD = "model-00001-of-00002.safetensors"


def plan_of(checkpoint: Checkpoint) -> Plan:
    return plan_build(checkpoint, DropMap(DROP), base_name={"name": BASE}, max_shard_size=400)


@pytest.fixture
def built(base: Path, tmp_path: Path) -> Path:
    build(plan_of(open_checkpoint(base)), base, tmp_path / "built")
    return tmp_path / "built"


def build_remote(source: HubSource, out: Path, **options: object) -> dict[str, str]:
    build(plan_of(open_checkpoint(source)), source, out, **options)  # type: ignore[arg-type]
    return digests(out)


def test_a_remote_base_gives_the_bytes_of_the_local_one(
    hub: LocalHub, api: HfApi, base: Path, built: Path, tmp_path: Path, faults: Faults
) -> None:
    commit = upload(api, BASE, base)
    source = remote(hub)
    assert source.label == f"{BASE}@{commit[:12]}"
    assert source.files[SHARD].sha256 == digests(base)[SHARD]
    for workers in (1, 3):
        assert build_remote(source, tmp_path / f"out-{workers}", workers=workers) == digests(built)
    with ProcessPoolExecutor(2) as executor:
        assert build_remote(source, tmp_path / "processes", executor=executor) == digests(built)
    assert faults.downloads()
    assert faults.tokens_at_storage == 0


def test_chat_templates_in_their_folder_are_of_a_remote_base_too(hub: LocalHub, api: HfApi, base: Path, tmp_path: Path) -> None:
    for name in (f"{TEMPLATES}/tool_use.jinja", f"{TEMPLATES}/notes.md", "original/params.json"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(name)
    built = build_local(base, tmp_path / "built")
    upload(api, BASE, base)
    upload(api, TARGET, tmp_path / "built")
    source = remote(hub)
    assert f"{TEMPLATES}/tool_use.jinja" in built
    assert build_remote(source, tmp_path / "out") == built
    assert open_checkpoint(source).left == open_checkpoint(base).left == (f"{TEMPLATES}/notes.md", "original/")
    assert proof_of(hub, TARGET, BASE).good
    materialize(remote(hub, TARGET), source, tmp_path / "again")
    assert digests(tmp_path / "again") == built
    reference = read_reference(f"hf://{TARGET}", endpoint=hub.endpoint, token=hub.token)
    assert {each.status for each in compare(LocalSource(tmp_path / "out"), reference)} == {"equal"}


def build_local(base: Path, out: Path) -> dict[str, str]:
    build(plan_of(open_checkpoint(base)), base, out)
    return digests(out)


def test_a_snapshot_whose_first_file_is_in_a_folder_is_found_in_the_cache(
    hub: LocalHub, api: HfApi, base: Path, tmp_path: Path
) -> None:
    (base / TEMPLATES).mkdir()
    (base / TEMPLATES / "tool_use.jinja").write_text("{{ tools }}")
    commit = upload(api, BASE, base)
    words = [sys.executable, "-c", CACHED, BASE, commit]
    environment = {**os.environ, **hub.environment(), "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["HubSource", "LocalSource", f"{BASE}@{commit[:12]}", "tokenizer.json"]


CACHED = """
import sys
from huggingface_hub import snapshot_download
from release.base import cached_or_remote
repo, commit = sys.argv[1:]
print(type(cached_or_remote(repo, commit)).__name__)
snapshot_download(repo, revision=commit)
source = cached_or_remote(repo, commit)
print(type(source).__name__, source.label, max(source.files))
"""


def test_headers_are_read_by_range_and_shards_never_whole(hub: LocalHub, api: HfApi, tmp_path: Path, faults: Faults) -> None:
    upload(api, BASE, sparse_checkpoint(tmp_path / "sparse", rows=1024))
    faults.seen.clear()
    faults.sent = 0
    open_checkpoint(remote(hub))
    assert faults.downloads() == ["bytes=0-262143"]
    assert faults.sent < 300_000


def test_neighbouring_ranges_are_one_request(hub: LocalHub, api: HfApi, base: Path, tmp_path: Path, faults: Faults) -> None:
    upload(api, BASE, base)
    source = remote(hub)
    plan = plan_of(open_checkpoint(source))
    faults.seen.clear()
    build(plan, source, tmp_path / "out", workers=1)
    ranges = sum(len(tensor.ranges) for shard in plan.shards for tensor in shard.tensors)
    assert len(faults.downloads()) < ranges / 2


def test_a_source_survives_pickling_and_shows_no_token(hub: LocalHub, api: HfApi, base: Path) -> None:
    upload(api, BASE, base)
    source = remote(hub)
    again = pickle.loads(pickle.dumps(source))  # noqa: S301  # our own bytes
    assert again == source
    assert again.read(SHARD, 8, 100) == (base / SHARD).read_bytes()[8:108]
    assert hub.token not in f"{source!r} {source}"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again(
    hub: LocalHub, api: HfApi, base: Path, built: Path, tmp_path: Path, faults: Faults, status: int
) -> None:
    upload(api, BASE, base)
    count = [0]

    def every_third() -> int | None:
        count[0] += 1
        return status if count[0] % 3 == 0 else None

    faults.status = every_third
    assert build_remote(remote(hub), tmp_path / "out", workers=1) == digests(built)
    assert count[0] > 10


def test_a_cut_connection_goes_on_at_the_missing_byte(hub: LocalHub, api: HfApi, base: Path, faults: Faults) -> None:
    upload(api, BASE, base)
    source = remote(hub)
    data = (base / SHARD).read_bytes()
    faults.cut_after = 100
    faults.seen.clear()
    assert source.read(SHARD, 1000, 450) == data[1000:1450]
    assert faults.downloads() == [f"bytes={start}-1449" for start in (1000, 1100, 1200, 1300, 1400)]


def test_cuts_in_every_shard_change_no_byte(
    hub: LocalHub, api: HfApi, base: Path, built: Path, tmp_path: Path, faults: Faults
) -> None:
    upload(api, BASE, base)
    source = remote(hub)
    plan = plan_of(open_checkpoint(source))
    faults.cut_after = 150
    build(plan, source, tmp_path / "out", workers=3)
    assert digests(tmp_path / "out") == digests(built)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: setattr(f, "ranges", lambda _wanted: None), "the server answered 200 to a range of bytes; download"),
        (lambda f: setattr(f, "ranges", lambda _wanted: b"bytes=11-49"), "was asked for bytes 10-49/.* and sent 'bytes 11-49"),
        (lambda f: setattr(f, "ranges", lambda _wanted: b"bytes=10-59"), "was asked for bytes 10-49/.* and sent 'bytes 10-59"),
        (lambda f: setattr(f, "status", lambda: 503), r"the Hub does not give it \(503: no explanation\); run again later"),
        (lambda f: setattr(f, "status", lambda: 403), "403: .*set HF_TOKEN"),
        (lambda f: setattr(f, "cut_after", 0), "the connection to http:.* failed or broke off again and again"),
    ],
)
def test_what_does_not_pass_is_one_line(
    hub: LocalHub, api: HfApi, base: Path, faults: Faults, change: Callable[[Faults], None], message: str
) -> None:
    upload(api, BASE, base)
    source = remote(hub)
    change(faults)
    with pytest.raises(UnavailableError, match=message) as caught:
        source.read(SHARD, 10, 40)
    assert "\n" not in str(caught.value)
    assert hub.token not in str(caught.value)
    assert str(caught.value).startswith(f"{source.label}/{SHARD}")


def test_a_build_that_could_not_end_is_resumed(
    hub: LocalHub, api: HfApi, base: Path, built: Path, tmp_path: Path, faults: Faults
) -> None:
    upload(api, BASE, base)
    source = remote(hub)
    plan = plan_of(open_checkpoint(source))
    budget = [12]

    def then_broken() -> int | None:
        budget[0] -= 1
        return None if budget[0] > 0 else 503

    faults.status = then_broken
    with pytest.raises(UnavailableError):
        build(plan, source, tmp_path / "out", workers=1)
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".out.partial").glob("*.safetensors")}
    assert finished
    assert not (tmp_path / "out").exists()
    faults.status = lambda: None
    build(plan, source, tmp_path / "out", workers=1)
    assert digests(tmp_path / "out") == digests(built)
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in finished.items())


def test_a_branch_that_moves_changes_nothing(
    hub: LocalHub, api: HfApi, base: Path, built: Path, make_checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    first = upload(api, BASE, base)
    source = remote(hub, revision="main")
    other = make_checkpoint("other", seed=1)
    (other / "README.md").write_text(CARD)
    second = upload(api, BASE, other)
    assert build_remote(source, tmp_path / "out") == digests(built)
    assert remote(hub, revision="main").commit == second
    assert remote(hub, revision=first) == source


def test_a_private_base_needs_a_token(hub: LocalHub, api: HfApi, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(api, BASE, base, private=True)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with pytest.raises(UnavailableError, match=rf"hf://{BASE}@main: the Hub does not give it .*set HF_TOKEN"):
        hub_source(BASE, endpoint=hub.endpoint, pauses=NO_PAUSES)
    assert remote(hub).files


@pytest.mark.parametrize(("repo", "revision"), [("org/nothing", "main"), (BASE, "nothing"), (BASE, "a" * 40)])
def test_what_is_not_there_is_one_line(hub: LocalHub, api: HfApi, base: Path, repo: str, revision: str) -> None:
    upload(api, BASE, base)
    with pytest.raises(UnavailableError, match=f"hf://{repo}@{revision}: the Hub does not give it .404"):
        open_source(f"hf://{repo}@{revision}", endpoint=hub.endpoint, token=hub.token)


def test_names_that_lead_out_of_the_folder_are_not_listed(
    hub: LocalHub, api: HfApi, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi as Client
    from huggingface_hub import RepoFile

    upload(api, BASE, base)
    names = ("../../x.json", "/x.json", "..", "deep/x.json", "a\x1b[2J", "ok.json")
    rows = [RepoFile(path=name, size=1, oid="0" * 40) for name in names]
    monkeypatch.setattr(Client, "list_repo_tree", lambda *_words, **_options: iter(rows))
    assert list(remote(hub).files) == ["ok.json"]


def test_a_hub_that_is_not_there_is_one_line() -> None:
    with pytest.raises(UnavailableError, match=r"the connection to http://127\.0\.0\.1:9 failed"):
        hub_source(BASE, endpoint="http://127.0.0.1:9", token="hf_x", pauses=NO_PAUSES)


def test_a_file_or_range_that_is_not_there_is_refused(hub: LocalHub, api: HfApi, base: Path) -> None:
    upload(api, BASE, base)
    source = remote(hub)
    with pytest.raises(InputError, match="there is no such file"):
        source.read("more.safetensors", 0, 1)
    with pytest.raises(InputError, match="truncated: 1 bytes are missing"):
        source.read(SHARD, 0, source.files[SHARD].size + 1)
    assert read_source_header(source, SHARD) == read_source_header(LocalSource(base), SHARD)


def test_pins_of_a_remote_base_are_compared_with_its_listing(
    hub: LocalHub, api: HfApi, base: Path, built: Path, tmp_path: Path, faults: Faults
) -> None:
    upload(api, BASE, base)
    source = remote(hub)
    pins = {name: digest for name, digest in digests(base).items() if name != "README.md"}
    assert build_remote(source, tmp_path / "out", verify_base=pins) == digests(built)
    plan = plan_of(open_checkpoint(source))
    faults.seen.clear()
    with pytest.raises(CheckFailedError, match=f"{SHARD}: has SHA-256"):
        build(plan, source, tmp_path / "bad", verify_base={**pins, SHARD: "0" * 64})
    assert faults.seen == []
    with pytest.raises(CheckFailedError, match=r"tokenizer\.json: has SHA-256"):
        build(plan, source, tmp_path / "bad", verify_base={**pins, "tokenizer.json": "0" * 64})
    assert not (tmp_path / "bad").exists()
    assert not (tmp_path / ".bad.partial").exists()


def proof_of(hub: LocalHub, target: object, base: object, **options: object) -> Proof:
    sources = [remote(hub, words) if isinstance(words, str) else LocalSource(words) for words in (target, base)]
    return prove(*sources, **options)  # type: ignore[arg-type]


def test_target_and_base_may_both_be_remote(hub: LocalHub, api: HfApi, base: Path, built: Path, faults: Faults) -> None:
    upload(api, BASE, base)
    upload(api, TARGET, built)
    faults.seen.clear()
    proofs = [proof_of(hub, target, where) for target in (TARGET, built) for where in (BASE, base)]
    assert all(proof.good for proof in proofs)
    assert {verdict for proof in proofs for verdict in proof.verdicts} == set(proofs[0].verdicts)
    assert ".gitattributes" in proofs[0].unplanned


def test_of_a_remote_target_only_headers_are_read(hub: LocalHub, api: HfApi, tmp_path: Path, faults: Faults) -> None:
    base = sparse_checkpoint(tmp_path / "sparse", rows=1024)
    plan = plan_build(open_checkpoint(base), DropMap({"0": (1, 2, 7)}), base_name={"name": "b"})
    build(plan, base, tmp_path / "out")
    upload(api, TARGET, tmp_path / "out")
    faults.sent = 0
    assert proof_of(hub, TARGET, base, workers=3).good
    assert faults.sent < 400_000 < plan.total_bytes / 20


def test_a_tampered_remote_shard_is_bad_and_found(hub: LocalHub, api: HfApi, base: Path, built: Path) -> None:
    stored = open_checkpoint(built).tensors["model.language_model.layers.1.experts.down_proj"]
    data = bytearray((built / stored.shard).read_bytes())
    row = stored.info.size // 5
    data[stored.info.start : stored.info.start + row] = data[stored.info.start + row : stored.info.start + 2 * row]
    (built / stored.shard).write_bytes(data)
    upload(api, TARGET, built)
    (bad,) = [verdict for verdict in proof_of(hub, TARGET, base).verdicts if not verdict.good]
    assert (bad.name, bad.reason) == (stored.shard, "the header is right, the tensor data are not")
    (bad,) = [verdict for verdict in proof_of(hub, TARGET, base, locate=True).verdicts if not verdict.good]
    assert str(bad.reason).endswith("layer 1, expert 0 (expert 1 of the base) holds expert 2 of the base")
    check = spot_check(remote(hub, TARGET), LocalSource(base), 200, seed=1)
    assert [verdict.reason for verdict in check.proof.verdicts if not verdict.good] == [bad.reason]


def test_a_remote_variant_is_materialized_with_the_small_files_that_it_has(
    hub: LocalHub, api: HfApi, base: Path, built: Path, tmp_path: Path
) -> None:
    (built / "config.json").write_text(json.dumps(json.loads((built / "config.json").read_text())))
    (built / "chat_template.jinja").write_text("added later")
    upload(api, TARGET, built)
    result = materialize(remote(hub, TARGET), LocalSource(base), tmp_path / "out", take=True)
    assert result.taken == ("chat_template.jinja", "config.json")
    assert digests(tmp_path / "out") == digests(built)
    with pytest.raises(CheckFailedError, match=r"1 rebuilt file not as published: config\.json"):
        materialize(remote(hub, TARGET), LocalSource(base), tmp_path / "exact")


def test_a_spot_check_of_a_repository_knows_its_small_files_by_their_listed_digests(
    hub: LocalHub, api: HfApi, base: Path, built: Path
) -> None:
    (built / "tokenizer.json").write_text("{}")
    upload(api, TARGET, built)
    check = spot_check(remote(hub, TARGET), LocalSource(base), 3, seed=1)
    assert [verdict.name for verdict in check.proof.verdicts if not verdict.good] == ["tokenizer.json"]


def test_verify_against_a_repository_reads_nothing(
    hub: LocalHub, api: HfApi, built: Path, tmp_path: Path, faults: Faults
) -> None:
    (built / "README.md").write_text(CARD)
    upload(api, TARGET, built)
    (built / "README.md").write_text("another card")
    reference = read_reference(f"hf://{TARGET}", endpoint=hub.endpoint, token=hub.token)
    faults.seen.clear()
    found = compare(LocalSource(built), reference)
    assert {each.status for each in found} == {"equal"}
    assert {each.name for each in found} == {path.name for path in built.iterdir()} - {"README.md"}
    (built / "config.json").write_text("{}")
    (built / "new.json").write_text("{}")
    (built / "tokenizer.json").unlink()
    wrong = {each.name: each.status for each in compare(LocalSource(built), reference) if each.status != "equal"}
    assert wrong == {"config.json": "changed", "new.json": "new", "tokenizer.json": "missing"}
    assert {each.status for each in compare(remote(hub, TARGET), reference)} == {"equal"}
    assert faults.seen[-1][1].startswith("/api/")


def test_the_commands_take_addresses(hub: LocalHub, api: HfApi, base: Path, built: Path, tmp_path: Path) -> None:
    commit = upload(api, BASE, base)
    upload(api, TARGET, built)
    (tmp_path / "map.json").write_text(json.dumps({layer: list(ids) for layer, ids in DROP.items()}))
    done = run_cli(hub, "prune", f"hf://{BASE}", tmp_path / "map.json", tmp_path / "out", "--max-shard-size", "400")
    assert done.returncode == 0, done.stderr
    shards = {name: digest for name, digest in digests(built).items() if name.endswith(".safetensors")}
    assert shards.items() <= digests(tmp_path / "out").items()
    metadata = json.loads((tmp_path / "out" / "expert_drop_metadata.json").read_text())
    assert metadata["base_model"] == {"name": BASE, "revision": commit}
    done = run_cli(hub, "prove", f"hf://{TARGET}@main", "--base", f"hf://{BASE}@{commit}", "--json", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert {file["verdict"] for file in json.loads(done.stdout)["files"]} == {"GOOD"}
    done = run_cli(hub, "verify", built, "--against", f"hf://{TARGET}")
    assert done.returncode == 0, done.stderr
    (built / "config.json").write_text("{}")
    assert run_cli(hub, "verify", built, "--against", f"hf://{TARGET}").returncode == 1
    assert run_cli(hub, "prove", built, "--base", base).returncode == 1


@pytest.mark.parametrize(
    ("asked", "answered", "words"),
    [
        ("1" * 40, "2" * 40, f"answered with another commit, {'2' * 40}"),
        ("main", "main", "named no commit of 40 hexadecimal digits"),
        ("main", None, "named no commit of 40 hexadecimal digits"),
    ],
)
def test_a_hub_that_resolves_a_revision_to_something_else_is_not_believed(asked: str, answered: str | None, words: str) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"id": BASE, "sha": answered}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(UnavailableError, match=words):
                hub_source(BASE, asked, endpoint=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
