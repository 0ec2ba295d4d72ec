"""Quants that were cut from the base's GGUF: proved from the Hub by streaming, without llama.cpp."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pruner.files import sha256_bytes, sha256_file
from release.hub.local import LocalHub
from release.hub.remote import hub_api
from release.verdict import Verdict
from tests.conftest import MANIFESTS, ROOT
from tests.end_to_end.conftest import run_command
from tests.release.gguf.moe_gguf import BASE_NAMES, arrays_of, write_moe, write_split_moe
from tests.release.verification.releases import DROPPED, PublishedRelease, Stage, part

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

REPO, GGUFS, BASE = "moe-release/cut-4e", "moe-release/cut-4e-GGUF", "somebody/base-GGUF"
PROJECTOR = "mmproj-base-F16.gguf"
QUANT = "cut-4e-Q8_0.gguf"
MANIFEST = """schema: moe-release/v1
name: cut-4e
base: {{path: model, name: tiny-16e}}
prune: {{experts: 4, drop_map: {{path: map.json}}}}
weights: {{max_shard_size: 1MiB}}
gguf: {{{more}quants: [{{name: Q8_0, from: {{repo: {base},{at} file: {file}, sha256: {sha256}}}}}]}}
card: {{license: apache-2.0}}
publish: {{weights: {repo}, gguf: {ggufs}, private: false}}
"""


def publish_cut(folder: Path, *, pinned: bool, parts: bool = False) -> PublishedRelease:
    """A release whose quant is cut from a GGUF on the Hub, at its commit or by its digest alone; or in shards, from parts.

    That in shards has a projector too.
    """
    shutil.copytree(MANIFESTS / "tiny" / "model", folder / "model")
    (folder / "map.json").write_text(json.dumps(DROPPED))
    arrays = arrays_of("gemma4", (0, 1, 2, 3), experts=16)
    bases = [folder / "base-Q8_0.gguf"]
    said = {"general.source.url": "/ho" + "me/somebody/model"}  # it is public like this, and nobody here can change it
    projector = write_moe(folder / PROJECTOR, "clip", {}, experts=1, names=said) if parts else None
    if parts:
        for layer in range(4):
            arrays[f"blk.{layer}.attn_q.weight"] = (np.full((100, 1000), layer, dtype=np.float32), None)
        bases = write_split_moe(bases[0], arrays, experts=16, blocks=4, tensors=20)
    else:
        write_moe(bases[0], "gemma4", arrays, experts=16, names=BASE_NAMES, blocks=4)
    with LocalHub(folder / "hub") as hub:
        api = hub_api(hub.endpoint, hub.token)
        api.create_repo(BASE)
        for each in [*bases, *([projector] if projector else [])]:
            commit = api.upload_file(path_or_fileobj=each, path_in_repo=each.name, repo_id=BASE).oid
        manifest = folder / "cut-4e.yaml"
        at = f" revision: {commit}," if pinned else ""
        digests, more = ", ".join(map(sha256_file, bases)), ""
        if projector:
            source = f"repo: {BASE}, revision: {commit}, file: {PROJECTOR}, sha256: {sha256_file(projector)}"
            more = f"max_shard_size: 1MB, mmproj: [{{{source}}}], "
        words = {
            "file": bases[0].name,
            "sha256": f"[{digests}]" if parts else digests,
            "more": more,
        }
        manifest.write_text(MANIFEST.format(base=BASE, at=at, repo=REPO, ggufs=GGUFS, **words))
        environment = {**hub.environment(), "PYTHONPATH": str(ROOT), "MOE_RELEASE_LLAMA_CPP": str(folder / "nowhere")}
        where = ("--work", folder / "work", "--hub", hub.endpoint)
        run_command("cut", manifest, *where, "--skip", "readback", **environment)
    return PublishedRelease(REPO, folder / "model", folder / "hub", manifest)


@pytest.fixture(scope="session")
def cut_release(tmp_path_factory: pytest.TempPathFactory) -> PublishedRelease:
    return publish_cut(tmp_path_factory.mktemp("cut"), pinned=True)


@pytest.fixture
def cut(cut_release: PublishedRelease, tmp_path: Path) -> Iterator[Stage]:
    with cut_release.staged(tmp_path) as stage:
        yield stage


def test_a_cut_quant_is_proved_and_its_card_rendered_again(cut: Stage) -> None:
    found = cut.verify()
    quants = part(found, "ggufs")
    assert quants.verdict is Verdict.GOOD
    assert quants.items[0][0] == "Q8_0"
    assert "cut from hf://somebody/base-GGUF@" in quants.items[0][2]
    assert part(found, "card").verdict is Verdict.GOOD
    assert found.verdict is Verdict.GOOD, found.text()


class Sent:
    """Stands before the Hub and counts the bytes of large files that it sends."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def count(message: Message) -> None:
                self.bytes += len(message.get("body", b"")) if scope.get("path", "").startswith("/objects/") else 0
                await send(message)

            await app(scope, receive, count)

        return counted


def test_a_quant_that_was_proved_is_not_streamed_again(cut_release: PublishedRelease, tmp_path: Path) -> None:
    cache, sent = tmp_path / "cache", Sent()
    with cut_release.staged(tmp_path, sent) as stage:

        def verified() -> int:
            sent.bytes = 0
            assert part(stage.verify(cache=cache), "ggufs").verdict is Verdict.GOOD
            return sent.bytes

        whole = verified()
        kept = next(path for path in cache.iterdir() if path.read_text() == sha256_bytes(stage.read(QUANT, GGUFS)))
        size = len(stage.read(QUANT, GGUFS))
        assert verified() < whole - size / 2
        kept.write_text("0" * 64)
        assert verified() == whole, "a digest that was damaged accuses nobody"
        assert verified() < whole - size / 2


def forge(stage: Stage, data: bytes, quant: str = QUANT) -> None:
    """Replace the quant, and let the publisher's lock and list of digests say so too."""
    before = sha256_bytes(stage.read(quant, GGUFS)).encode()
    stage.write(quant, data, GGUFS)
    stage.change("reproduce/SHA256SUMS", lambda sums: sums.replace(before, sha256_bytes(data).encode()), GGUFS)
    stage.change_json("reproduce/lock.json", lambda lock: lock["outputs"][f"gguf/{quant}"].update(sha256=sha256_bytes(data)))


def test_a_quant_that_is_no_cut_of_the_base_is_bad_even_if_it_is_as_locked(cut: Stage) -> None:
    data = cut.read(QUANT, GGUFS)
    forge(cut, data[:-1] + bytes([data[-1] ^ 1]))
    quants = part(cut.verify(), "ggufs")
    assert quants.verdict is Verdict.BAD
    assert quants.reason == "Q8_0: differs from what cutting the base gives"


@pytest.mark.parametrize("name", ["A-other-Q8_0.gguf", "z-other-Q8_0.gguf"])
def test_a_file_of_others_that_answers_to_a_tag_is_bad(cut: Stage, name: str) -> None:
    cut.write(name, b"GGUF of somebody", GGUFS)
    quants = part(cut.verify(), "ggufs")
    assert quants.verdict is Verdict.BAD
    assert quants.reason.startswith(f"{name}: is not of this release")
    assert "; Q8_0: " in quants.reason, quants.reason


def test_a_gguf_that_the_lock_calls_an_imatrix_is_bad(cut: Stage) -> None:
    data = b"GGUF of somebody"
    cut.write("z-other.gguf", data, GGUFS)
    cut.change("reproduce/SHA256SUMS", lambda sums: sums + f"{sha256_bytes(data)}  z-other.gguf\n".encode(), GGUFS)
    entry = {"sha256": sha256_bytes(data), "size": len(data)}
    cut.change_json("reproduce/lock.json", lambda lock: lock["outputs"].update({"imatrix/z-other.gguf": entry}))
    quants = part(cut.verify(), "ggufs")
    assert quants.verdict is Verdict.BAD
    assert quants.reason == "z-other.gguf: is locked, and not the imatrix of the manifest"


def test_a_base_that_only_its_digest_pins_may_be_gone_and_accuses_nobody(tmp_path: Path) -> None:
    release = publish_cut(tmp_path / "release", pinned=False)
    with release.staged(tmp_path / "stage") as stage:
        assert part(stage.verify(), "ggufs").verdict is Verdict.GOOD
        stage.write("base-Q8_0.gguf", stage.read("base-Q8_0.gguf", BASE)[:-1] + b"?", BASE)
        quants = part(stage.verify(), "ggufs")
    assert quants.verdict is Verdict.UNKNOWN
    assert "was replaced since" in quants.reason


def test_another_base_than_the_pinned_one_is_bad(cut: Stage) -> None:
    def other(data: bytes) -> bytes:
        place = data.index(b"sha256: ") + 8
        return data[:place] + b"a" * 64 + data[place + 64 :]

    cut.change("reproduce/manifest.yaml", other)
    quants = part(cut.verify(), "ggufs")
    assert quants.verdict is Verdict.BAD
    assert "the manifest pins aaaaaa" in quants.reason


def test_a_base_that_is_gone_leaves_the_quant_unknown(cut: Stage) -> None:
    hub_api(cut.hub.endpoint, cut.hub.token).delete_repo(BASE)
    found = cut.verify()
    assert part(found, "ggufs").verdict is Verdict.UNKNOWN
    assert part(found, "ggufs").reason.startswith("Q8_0: ")
    assert part(found, "weights").verdict is Verdict.GOOD


def test_quants_that_are_gone_are_unknown(cut: Stage) -> None:
    hub_api(cut.hub.endpoint, cut.hub.token).delete_repo(GGUFS)
    assert part(cut.verify(), "ggufs").verdict is Verdict.UNKNOWN


def test_a_quant_in_shards_is_proved_against_a_base_in_parts(tmp_path: Path) -> None:
    release = publish_cut(tmp_path / "release", pinned=True, parts=True)
    shards = [f"cut-4e-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]
    with release.staged(tmp_path / "stage") as stage:
        found = stage.verify()
        assert found.verdict is Verdict.GOOD, found.text()
        assert (PROJECTOR, Verdict.GOOD) in [item[:2] for item in part(found, "ggufs").items]
        data = stage.read(PROJECTOR, GGUFS)
        forge(stage, data + b"?", PROJECTOR)
        assert f"{PROJECTOR}: has SHA-256" in part(stage.verify(), "ggufs").reason
        forge(stage, data, PROJECTOR)
        data = stage.read(shards[1], GGUFS)
        stage.write("A-other-Q8_0.gguf", b"GGUF of somebody", GGUFS)
        assert part(stage.verify(), "ggufs").verdict is Verdict.BAD
        hub_api(stage.hub.endpoint, stage.hub.token).delete_file("A-other-Q8_0.gguf", GGUFS)
        forge(stage, data[:-1] + bytes([data[-1] ^ 1]), shards[1])
        quants = part(stage.verify(), "ggufs")
        assert quants.verdict is Verdict.BAD
        assert quants.reason == f"Q8_0: {shards[1]}: differs from what cutting the base gives"
        forge(stage, data, shards[1])
        stage.change("reproduce/manifest.yaml", lambda text: text.replace(b"max_shard_size: 1MB", b"max_shard_size: 9MB"))
        assert "Q8_0: " in part(stage.verify(), "ggufs").reason
        assert "is in 2 files, planned is 1" in part(stage.verify(), "ggufs").reason
