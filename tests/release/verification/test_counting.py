"""A card that counts rebuilds: only those that verify, and only when the release is published again."""

from __future__ import annotations

import shutil
from pathlib import Path

from release.hub.remote import hub_api
from release.verdict import Verdict
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
    assert "Rebuilt by 3 independent parties: their signed statements stand in `attestations/`." in card
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
    assert "the card counts 2 independent rebuilds, 1 are verified" in card.reason


def test_rebuilds_that_join_later_leave_the_card_good(small: Stage, small_release: PublishedRelease) -> None:
    for who in ("alice", "bob"):
        small.attest(who)
    publish_again(small, small_release)
    small.attest("publisher")
    found = small.verify()
    assert part(found, "card").verdict is Verdict.GOOD
    assert part(found, "attestations").reason.startswith("rebuilt by 3 independent parties")
