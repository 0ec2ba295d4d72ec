"""The seconds of a release that stands on the Hub: kept when they are ours but for the clock, and never otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from pruner.errors import InputError
from pruner.files import canonical_json, sha256_bytes
from release.context import Context, Options
from release.evaluation.evidence import read_evidence
from release.evaluation.ledger import Kind, Reply
from release.evaluation.timing import Timing, timing_bytes, timing_of
from release.hub.endpoint import HubTarget
from release.hub.local import LocalHub
from release.hub.remote import remote_tree
from release.lock import Lock, LockedBase, LockedFile, LockedInputs, read_lock, timing_key, write_lock
from release.manifest import load_manifest
from release.reproduce import LOCK, timing_name
from release.stages.kept_seconds import keep_seconds, with_kept_seconds
from release.stages.lock import work_lock_path
from release.stages.publication import Repository
from release.stages.standing import release_title, standing_trees
from tests.conftest import MANIFESTS

REPO = "moe-release/tiny-gemma4-4e"
QUANTS = ("Q6_K", "Q4_K_M")
EVIDENCE = MANIFESTS / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json"
KEPT = Path("kept") / REPO.replace("/", "--") / "seconds"
Change = Callable[[dict[str, Any]], Any]


def timing(seconds: float) -> Timing:
    """Every reply took as long."""

    def last(kind: Kind, question: str, _repeat: int) -> Reply:
        return Reply(kind=kind, question=question, prompt="p", attempt=1, seed=1, status=200, error=None, seconds=seconds)

    return timing_of(read_evidence(EVIDENCE), last)


def lock(seconds: bytes) -> Lock:
    """A release with one shard, whose two runs took these seconds."""
    tensors = {"w": {"dtype": "F16", "shape": [1, 2], "sha256": "t"}}
    outputs = {"weights/model.safetensors": LockedFile(sha256="a" * 64, size=1, tensors=tensors)}
    varying = LockedFile(sha256=sha256_bytes(seconds), size=len(seconds), varies=True)
    return Lock(
        name="x",
        inputs=LockedInputs(base=LockedBase(name="b", files={})),
        outputs={**outputs, **{timing_key(q): varying for q in QUANTS}},
    )


class Bench:
    """A work folder whose runs took one second a reply, and a Hub."""

    def __init__(self, hub: LocalHub, folder: Path) -> None:
        self.api = HfApi(endpoint=hub.endpoint, token=hub.token)
        self.context = Context(load_manifest(MANIFESTS / "tiny-gemma4-4e.yaml"), folder / "work")
        self.context.options = Options(hub=HubTarget(endpoint=hub.endpoint, token=hub.token, label="local"))
        ours = timing_bytes(timing(1.0))
        for quant in QUANTS:
            run = self.context.work / "eval" / quant
            run.mkdir(parents=True)
            shutil.copyfile(EVIDENCE, run / "evidence.json")
            (run / "timing.json").write_bytes(ours)
        write_lock(work_lock_path(self.context), lock(ours))
        files = {timing_name(quant): self.context.work / timing_key(quant) for quant in QUANTS}
        files[LOCK] = work_lock_path(self.context)
        self.repository = Repository(REPO, files, {name: sha256_bytes(path.read_bytes()) for name, path in files.items()})

    def publish(self, published: bytes, seconds: bytes, pull_request: str | None = None) -> None:
        """Commit to the branch, or to a pull request of this title."""
        files = {LOCK: published, **{timing_name(quant): seconds for quant in QUANTS}}
        self.api.create_repo(REPO, exist_ok=True)
        revision = None
        if pull_request:
            revision = f"refs/pr/{self.api.create_pull_request(REPO, title=pull_request).num}"
        operations = [CommitOperationAdd(name, data) for name, data in files.items()]
        self.api.create_commit(REPO, operations, commit_message="x", revision=revision)

    def keep(self, *, proposed: bool = False) -> Repository:
        self.context.options = replace(self.context.options, pull_request=proposed)
        trees = standing_trees(self.context, self.api, REPO, remote_tree(self.api, REPO))
        return keep_seconds(self.context, self.repository, self.api, trees)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with LocalHub(tmp_path / "hub") as hub:
        yield Bench(hub, tmp_path)


def test_the_first_publication_has_its_own(bench: Bench) -> None:
    assert bench.keep() == bench.repository


def test_other_seconds_of_the_same_release_are_kept_and_read_back(bench: Bench) -> None:
    theirs = timing_bytes(timing(2.5))
    bench.publish(lock(theirs).to_bytes(), theirs)
    found = bench.keep()
    assert found.files[LOCK].read_bytes() == lock(theirs).to_bytes()
    assert {found.files[timing_name(quant)].read_bytes() for quant in QUANTS} == {theirs}
    assert found.digests[timing_name("Q6_K")] == sha256_bytes(theirs)
    assert with_kept_seconds(bench.context, bench.repository) == found


def test_a_proposal_keeps_the_seconds_of_the_pull_request_that_waits(bench: Bench) -> None:
    ours, theirs = (timing_bytes(timing(seconds)) for seconds in (2.5, 3.5))
    title = release_title(bench.context)
    bench.publish(b"{}", ours)  # an older release on the branch
    bench.publish(lock(theirs).to_bytes(), theirs, pull_request="another title")
    assert bench.keep(proposed=True) == bench.repository
    bench.publish(lock(ours).to_bytes(), ours, pull_request=title)
    assert bench.keep() == bench.repository, "a commit to the branch does not look at proposals"
    assert bench.keep(proposed=True).files[LOCK].read_bytes() == lock(ours).to_bytes()
    bench.publish(lock(theirs).to_bytes(), theirs)
    assert bench.keep(proposed=True).files[LOCK].read_bytes() == lock(theirs).to_bytes(), "the branch comes first"


def test_a_decided_pull_request_is_not_looked_at(bench: Bench) -> None:
    ours = timing_bytes(timing(2.5))
    bench.publish(b"{}", ours)
    bench.publish(lock(ours).to_bytes(), ours, pull_request=release_title(bench.context))
    bench.api.change_discussion_status(REPO, 1, "closed")
    assert bench.keep(proposed=True) == bench.repository


def changed_lock(change: Change) -> bytes:
    value = json.loads(lock(timing_bytes(timing(2.5))).to_bytes())
    change(value)
    return canonical_json(value)


SHARD, SECONDS = "weights/model.safetensors", timing_key("Q6_K")


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["outputs"][SHARD].update(sha256="b" * 64),
        lambda value: value["outputs"][SHARD]["tensors"]["w"].update(shape=[True, 2.0]),  # Python calls them equal
        lambda value: value["outputs"][SECONDS].update(size=-1),
        lambda value: value["outputs"][SECONDS].pop("varies"),
        lambda value: value.update(name="y"),
        lambda value: value["inputs"].update(protocol="p"),
        lambda value: value["outputs"].pop(SECONDS),
    ],
)
def test_a_lock_that_differs_in_anything_else_is_not_taken_over(bench: Bench, change: Change) -> None:
    bench.publish(changed_lock(change), timing_bytes(timing(2.5)))
    assert bench.keep() == bench.repository
    assert not (bench.context.work / KEPT).exists()


@pytest.mark.parametrize(
    "seconds",
    [
        timing_bytes(timing(99_999_999.0)),
        timing_bytes(timing(2.5)).replace(b'"raw": 2.5', b'"raw":  2.5'),
        timing_bytes(timing(2.5)).replace(b"2.5", b"2.50"),
        b"{}",
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
def test_seconds_that_would_not_verify_are_not_taken_over(bench: Bench, seconds: bytes) -> None:
    bench.publish(lock(seconds).to_bytes(), seconds)
    assert bench.keep() == bench.repository


def test_what_was_planted_or_damaged_in_the_work_folder_is_not_used(bench: Bench) -> None:
    theirs = timing_bytes(timing(2.5))
    bench.publish(lock(theirs).to_bytes(), theirs)
    kept = bench.keep()
    for damage in (lambda path: path.write_text("{}"), Path.unlink):
        damage(kept.files[timing_name("Q6_K")])
        assert with_kept_seconds(bench.context, bench.repository) == bench.repository


def test_a_link_leads_nobody_out_of_the_work_folder(bench: Bench, tmp_path: Path) -> None:
    theirs = timing_bytes(timing(2.5))
    bench.publish(lock(theirs).to_bytes(), theirs)
    (tmp_path / "mine" / "seconds").mkdir(parents=True)
    (tmp_path / "mine" / "seconds" / "thesis.txt").write_text("x")
    place = bench.context.work / KEPT
    place.parent.parent.mkdir()
    place.parent.symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="a symbolic link may not leave"):
        bench.keep()
    place.parent.unlink()
    place.parent.mkdir()
    for name in ("seconds", ".seconds.tmp"):
        (place.parent / name).symlink_to(tmp_path / "nothing")
    assert bench.keep().digests[timing_name("Q6_K")] == sha256_bytes(theirs)
    assert (tmp_path / "mine" / "seconds" / "thesis.txt").exists()
    assert read_lock(place / LOCK) == lock(theirs)
