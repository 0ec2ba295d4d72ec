"""A card that counts rebuilds: only those that verify, and only when the release is published again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pruner.errors import CheckFailedError, UnavailableError
from release.hub.published import fetch, open_repository
from release.hub.remote import hub_api
from release.verdict import Verdict
from release.verification.card import _require_votes
from tests.conftest import ROOT
from tests.end_to_end.conftest import run_command
from tests.release.verification.releases import PublishedRelease, Stage, part

SENTENCE = "Rebuilt by 2 independent parties"


def publish_again(stage: Stage, release: PublishedRelease) -> None:
    copy = stage.work / "release"
    shutil.copytree(release.manifest.parent, copy, ignore=shutil.ignore_patterns("hub"))
    hub_api(stage.hub.endpoint, stage.hub.token).delete_tag(stage.repo, tag="v1")
    environment = {**stage.hub.environment(), "PYTHONPATH": str(ROOT)}
    manifest: Path = copy / release.manifest.name
    where = ("--work", copy / "build/small", "--hub", stage.hub.endpoint)
    run_command("cut", manifest, *where, "--update-lock", **environment)


def test_the_card_counts_what_verifies(small: Stage, small_release: PublishedRelease) -> None:
    assert "independent parties" not in small.read("README.md").decode()
    for who in ("alice", "bob", "mallory", "publisher"):
        small.attest(who)
    publish_again(small, small_release)
    card = small.read("README.md").decode()
    assert "Rebuilt by 3 independent parties: the signed statements stand in `attestations/`." in card
    found = small.verify()
    assert found.verdict is Verdict.GOOD, found.text()
    assert part(found, "attestations").reason.startswith("rebuilt by 3 independent parties")


def test_a_card_that_counts_more_than_verify_is_bad(small: Stage, small_release: PublishedRelease) -> None:
    made = [small.attest(who) for who in ("alice", "bob")]
    publish_again(small, small_release)
    assert SENTENCE in small.read("README.md").decode()
    assert small.verify().verdict is Verdict.GOOD
    small.remove(made[0].path)
    card = part(small.verify(), "card")
    assert card.verdict is Verdict.BAD
    assert "independent rebuilds: the card counts 2, 1 verified" in card.reason


def test_rebuilds_that_join_later_leave_the_card_good(small: Stage, small_release: PublishedRelease) -> None:
    for who in ("alice", "bob"):
        small.attest(who)
    publish_again(small, small_release)
    small.attest("publisher")
    found = small.verify()
    assert part(found, "card").verdict is Verdict.GOOD
    assert part(found, "attestations").reason.startswith("rebuilt by 3 independent parties")


def test_a_card_cannot_hide_who_reports_other_bytes(small: Stage, tmp_path: Path) -> None:
    small.change("model-00001-of-00003.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert small.attest("alice").verdict == "BAD"
    published = fetch(
        open_repository(small.repo, "main", endpoint=small.hub.endpoint, token=small.hub.token), tmp_path / "read"
    )

    def votes(good: int, bad: int) -> None:
        counts = {"good": good, "bad": bad}
        _require_votes(published, {f"rebuilds.{kind}": {"value": value} for kind, value in counts.items()})

    votes(0, 1)
    with pytest.raises(UnavailableError, match="the card counts 0, 1 verified: they joined after it was written, or it hides"):
        votes(0, 0)
    with pytest.raises(CheckFailedError, match="reports of other bytes: the card counts 2, 1 verified"):
        votes(0, 2)
