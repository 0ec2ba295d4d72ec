"""`model.sig`: made by publishing, checked by the library without reading the weights."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from release.attestation.model_signature import NAME, PUBLIC_KEY, sign_repository
from release.hub.remote import hub_api
from release.verdict import Verdict
from tests.conftest import ROOT
from tests.end_to_end.conftest import run_command
from tests.release.verification.releases import PublishedRelease, Stage, part


def publish_again(stage: Stage, release: PublishedRelease, *words: str | Path, check: bool = True) -> str:
    """Publish from a copy of the release's folder to the test's own Hub."""
    copy = stage.work / "release"
    if not copy.exists():
        shutil.copytree(release.manifest.parent, copy, ignore=shutil.ignore_patterns("hub"))
    environment = {**stage.hub.environment(), "PYTHONPATH": str(ROOT)}
    command = ("publish", copy / release.manifest.name, "--work", copy / "build/small", "--hub", stage.hub.endpoint)
    done = run_command(*command, *words, check=check, **environment)
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def signed_release(small_release: PublishedRelease, tmp_path_factory: pytest.TempPathFactory) -> PublishedRelease:
    folder = tmp_path_factory.mktemp("signed")
    with small_release.staged(folder) as stage:
        hub_api(stage.hub.endpoint, stage.hub.token).delete_tag(stage.repo, tag="v1")
        publish_again(stage, small_release, "--sign", stage.keys / "publisher.pem")
    return PublishedRelease(small_release.repo, small_release.base, folder / "hub", small_release.manifest)


@pytest.fixture
def signed(signed_release: PublishedRelease, tmp_path: Path) -> Iterator[Stage]:
    with signed_release.staged(tmp_path) as stage:
        yield stage


def test_a_signed_release_is_good(signed: Stage) -> None:
    found = signed.verify()
    signature = part(found, "signature")
    assert signature.verdict is Verdict.GOOD
    assert "whose it is you must know" in signature.reason
    assert found.verdict is Verdict.GOOD
    assert signed.read(PUBLIC_KEY) == (signed.keys / "publisher.pub").read_bytes()


def test_the_weights_are_not_read_for_it(signed: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from pruner.hub_source import HubSource

    whole = HubSource.blocks
    read: list[str] = []

    def watched(self: HubSource, name: str, start: int, length: int) -> Iterator[bytes]:
        if length == self.files[name].size:
            read.append(name)
        return whole(self, name, start, length)

    monkeypatch.setattr(HubSource, "blocks", watched)
    assert part(signed.verify(base=None), "signature").verdict is Verdict.GOOD
    assert NAME in read
    assert not [name for name in read if name.endswith(".safetensors")]


def test_the_publishers_key_from_elsewhere_settles_whose_it_is(signed: Stage) -> None:
    good = part(signed.verify(signer=signed.keys / "publisher.pub"), "signature")
    assert good.verdict is Verdict.GOOD
    assert "the given key" in good.reason
    other = part(signed.verify(signer=signed.keys / "bob.pub"), "signature")
    assert other.verdict is Verdict.BAD
    assert "does not hold" in other.reason


def test_the_library_itself_accepts_a_download(signed: Stage, tmp_path: Path) -> None:
    api = hub_api(signed.hub.endpoint, signed.hub.token)
    folder = tmp_path / "copy"
    api.snapshot_download(signed.repo, local_dir=folder)
    shutil.rmtree(folder / ".cache")
    command = [sys.executable, "-m", "model_signing", "verify", "key", folder, "--signature", folder / NAME]
    words = [*map(str, command), "--public_key", str(signed.keys / "publisher.pub")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    config = folder / "config.json"
    config.write_bytes(config.read_bytes() + b" ")
    assert subprocess.run(words, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("name", ["config.json", "README.md", "reproduce/lock.json", PUBLIC_KEY])
def test_a_changed_file_is_bad_and_named(signed: Stage, name: str) -> None:
    signed.change(name, lambda data: data + b"\n")
    signature = part(signed.verify(), "signature")
    assert signature.verdict is Verdict.BAD
    assert signature.reason.startswith(f"{name}: has SHA-256")


def test_a_missing_and_an_unsigned_file_are_named(signed: Stage) -> None:
    signed.write("extra.bin", b"x")
    assert part(signed.verify(), "signature").reason == "extra.bin: is not signed"
    signed.remove("generation_config.json")
    assert part(signed.verify(), "signature").reason.startswith("generation_config.json: is missing")


def test_a_changed_statement_does_not_hold(signed: Stage) -> None:
    def forged(data: bytes) -> bytes:
        bundle = json.loads(data)
        payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(b"small-4e", b"large-4e")).decode()
        return json.dumps(bundle).encode()

    signed.change(NAME, forged)
    signature = part(signed.verify(), "signature")
    assert signature.verdict is Verdict.BAD
    assert signature.reason.startswith("model.sig: the signature does not hold")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"[" * 100_000, b'{"dsseEnvelope": {"payload": "e30="}}', b"\xff"])
def test_what_is_no_signature_is_bad_with_one_line(signed: Stage, data: bytes) -> None:
    signed.write(NAME, data)
    signature = part(signed.verify(), "signature")
    assert signature.verdict is Verdict.BAD
    assert NAME in signature.reason
    assert "\n" not in signature.reason


def test_without_its_key_a_signature_is_unknown(signed: Stage) -> None:
    signed.remove(PUBLIC_KEY)
    signature = part(signed.verify(), "signature")
    assert signature.verdict is Verdict.UNKNOWN
    assert "--signer" in signature.reason


def test_a_key_is_given_for_something(small: Stage) -> None:
    unsigned = small.verify()
    assert unsigned.verdict is Verdict.GOOD
    assert "signature: none" in unsigned.text()
    found = small.verify(signer=small.keys / "publisher.pub")
    signature = part(found, "signature")
    assert signature.verdict is Verdict.BAD
    assert signature.reason == "model.sig is missing: nothing here is signed with the given key"
    assert found.exit_code == 1


def test_attestations_join_a_signed_repository(signed: Stage) -> None:
    signed.attest("alice")
    signed.attest("publisher")
    found = signed.verify()
    assert part(found, "signature").verdict is Verdict.GOOD
    votes = part(found, "attestations")
    assert votes.reason == "rebuilt by 1 independent party, 0 report BAD; 1 not counted"
    assert any("the publisher's own key" in reason for _, _, reason in votes.items)


def test_publishing_again_signs_nothing_new(small: Stage, small_release: PublishedRelease) -> None:
    hub_api(small.hub.endpoint, small.hub.token).delete_tag(small.repo, tag="v1")
    publish_again(small, small_release, "--sign", small.keys / "publisher.pem")
    first = small.read(NAME)
    commits = len(hub_api(small.hub.endpoint, small.hub.token).list_repo_commits(small.repo))
    (small.work / "release/build/small/published.json").unlink()
    shutil.rmtree(small.work / "release/build/small/signed")  # as from another machine, which takes the published one
    publish_again(small, small_release, "--sign", small.keys / "publisher.pem")
    assert small.read(NAME) == first
    assert len(hub_api(small.hub.endpoint, small.hub.token).list_repo_commits(small.repo)) == commits


@pytest.mark.parametrize("planted", [b"", b"{}", b"another release's"])
def test_a_signature_that_does_not_hold_is_replaced(signed: Stage, small_release: PublishedRelease, planted: bytes) -> None:
    if planted.startswith(b"another"):
        planted = sign_repository(signed.repo, {"config.json": "0" * 64}, signed.keys / "publisher.pem", signed.work)[
            NAME
        ].read_bytes()
    hub_api(signed.hub.endpoint, signed.hub.token).delete_tag(signed.repo, tag="v1")
    signed.write(NAME, planted)
    publish_again(signed, small_release, "--sign", signed.keys / "publisher.pem")
    assert signed.read(NAME) != planted
    assert part(signed.verify(), "signature").verdict is Verdict.GOOD


def test_a_proposal_keeps_the_signature_of_the_one_that_waits(small: Stage, small_release: PublishedRelease) -> None:
    api = hub_api(small.hub.endpoint, small.hub.token)
    for folder in (small.work / "release/build/small/signed", None):
        publish_again(small, small_release, "--pr", "--sign", small.keys / "publisher.pem")
        if folder:
            shutil.rmtree(folder)
    assert [each.num for each in api.get_repo_discussions(small.repo)] == [1]


def test_an_unsuitable_key_stops_before_anything_is_published(small: Stage, small_release: PublishedRelease) -> None:
    said = publish_again(small, small_release, "--sign", small.keys / "alice.pem", check=False)
    assert "model.sig needs an ECDSA key" in said
    assert NAME not in hub_api(small.hub.endpoint, small.hub.token).list_repo_files(small.repo)
