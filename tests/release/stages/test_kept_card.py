"""The card on the Hub beside the one that is to replace it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from pruner.errors import CheckFailedError
from pruner.files import sha256_bytes
from release.context import Context, Options
from release.hub.endpoint import HubTarget
from release.hub.local import LocalHub
from release.manifest import load_manifest
from release.stages.kept_card import with_kept_card, with_kept_parts
from release.stages.publication import Repository
from tests.conftest import MANIFESTS

WEIGHTS = "moe-release/tiny-gemma4-4e"
SLOT = "<!-- hand-written: notes -->\n"


def card(title: str, notes: str = "") -> str:
    return f"---\nlicense: apache-2.0\n---\n# {title}\n\n{SLOT}{notes}<!-- end of hand-written: notes -->\n"


def lock(*cards: str) -> str:
    names = ("card/README.md", "card/README.gguf.md")
    digests = {name: {"sha256": sha256_bytes(each.encode())} for name, each in zip(names, cards, strict=False)}
    return json.dumps({"outputs": digests})


class Bench:
    """A Hub, a context that publishes to it, and a rendered card."""

    def __init__(self, hub: LocalHub, folder: Path) -> None:
        self.api = HfApi(endpoint=hub.endpoint, token=hub.token)
        target = HubTarget(endpoint=hub.endpoint, token=hub.token, label="local")
        self.target, self.folder = target, folder
        self.lines: list[str] = []

    def context(self, *, replace: bool = False) -> Context:
        context = Context(load_manifest(MANIFESTS / "tiny-gemma4-4e.yaml"), self.folder / "work")
        context.options = Options(hub=self.target, replace_card=replace)
        return context

    def repository(self, text: str, repo: str = WEIGHTS) -> Repository:
        path = self.folder / "README.md"
        path.write_text(text)
        return Repository(repo, {"README.md": path}, {"README.md": sha256_bytes(text.encode())})

    def put(self, repo: str, **files: str) -> None:
        self.api.create_repo(repo, exist_ok=True)
        names = {"card": "README.md", "lock": "reproduce/lock.json"}
        operations = [CommitOperationAdd(names[name], text.encode()) for name, text in files.items()]
        self.api.create_commit(repo, operations, commit_message="x")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with LocalHub(tmp_path / "hub") as hub:
        yield Bench(hub, tmp_path)


def test_the_first_publication_needs_nothing(bench: Bench) -> None:
    repository = bench.repository(card("new"))
    assert with_kept_parts(bench.context(), repository) == repository


def test_parts_are_kept_with_a_digest_of_what_is_really_sent(bench: Bench) -> None:
    bench.put(WEIGHTS, card=card("old", "Mine.\n"), lock=lock(card("old")))
    found = with_kept_parts(bench.context(), bench.repository(card("new")))
    assert found.files["README.md"].read_text() == card("new", "Mine.\n")
    assert found.digests["README.md"] == sha256_bytes(card("new", "Mine.\n").encode())
    assert with_kept_card(bench.context(), bench.repository(card("new"))) == found, "reading back expects the same"
    other = bench.repository(card("newer"))
    assert with_kept_card(bench.context(), other) == other, "a card merged for another release is not used"


@pytest.mark.parametrize("published", [None, "not JSON", "[]", lock(card("something else"))])
def test_a_card_of_no_known_lock_is_not_overwritten_unasked(bench: Bench, published: str | None) -> None:
    bench.put(WEIGHTS, card=card("edited"), **({"lock": published} if published else {}))
    with pytest.raises(CheckFailedError, match=r"changed by somebody else.* or say --replace-card"):
        with_kept_parts(bench.context(), bench.repository(card("new")))
    found = with_kept_parts(bench.context(replace=True), bench.repository(card("new")))
    assert found.files["README.md"].read_text() == card("new")


def test_a_run_killed_between_the_two_repositories_goes_on(bench: Bench) -> None:
    gguf = f"{WEIGHTS}-GGUF"
    bench.put(gguf, card=card("old GGUF"))
    bench.put(WEIGHTS, card=card("old"), lock=lock(card("old"), card("old GGUF")))
    bench.put(WEIGHTS, card=card("new"), lock=lock(card("new"), card("new GGUF")))
    assert with_kept_parts(bench.context(), bench.repository(card("new"))).files["README.md"].read_text() == card("new")
    found = with_kept_parts(bench.context(), bench.repository(card("new GGUF"), gguf))
    assert found.files["README.md"].read_text() == card("new GGUF")


def test_a_card_that_is_too_large_is_not_read(bench: Bench) -> None:
    bench.put(WEIGHTS, card=card("x" * 1_100_000))
    with pytest.raises(CheckFailedError, match="at most"):
        with_kept_parts(bench.context(), bench.repository(card("new")))
