"""The cards of the real tiny release: what they say holds, what they show runs, and lint finds nothing in them.

The golden cards are files that a reviewer reads.  They hold for one kind of processor, as the evidence does: where others give
the same scores, digests of what was measured are put back before the comparison; where not, it is skipped.  After a change that
is meant to change them:

    MOE_RELEASE_REFRESH_GOLDEN=1 python -m pytest tests/end_to_end/test_cards.py -k golden
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi

from pruner.files import sha256_file
from release.card.lint.run import lint_file
from release.evaluation.protocol import load_protocol
from release.evaluation.settings import server_flags
from release.hub.local import LocalHub
from release.lock import Lock, differences, read_lock
from tests.conftest import MANIFESTS
from tests.end_to_end.conftest import Release, run_command

CARDS = ("README.md", "README.gguf.md", "results.md")
GOLDEN = Path(__file__).parents[1] / "release" / "card" / "golden" / "tiny-gemma4-4e"
REFRESH = "MOE_RELEASE_REFRESH_GOLDEN"


@pytest.fixture(scope="session")
def listing(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of both repositories."""
    with LocalHub(release.hub) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        named = [name for repo in release.summary["published"] for name in api.list_repo_files(repo)]
    path = tmp_path_factory.mktemp("files") / "files.txt"
    path.write_text("\n".join(named))
    return path


@pytest.mark.parametrize("name", CARDS)
def test_lint_finds_nothing_in_our_own_cards(release: Release, listing: Path, name: str) -> None:
    card = release.work / "card" / name
    assert (card.parent / "claims.json").exists(), "numbers without claim must be looked for"
    assert lint_file(card, files=[listing]) == ()


@pytest.mark.parametrize("name", CARDS)
def test_a_typed_number_a_changed_one_and_a_missing_file_are_found(
    release: Release, listing: Path, name: str, tmp_path: Path
) -> None:
    text = (release.work / "card" / name).read_text()
    card = tmp_path / name
    card.write_text(f"{text}\nIt is 12.34 % better, see `absent.json`.\n")
    found = lint_file(card, files=[listing], claims=release.work / "card" / "claims.json")
    assert {each.kind for each in found} == {"number without claim", "missing file"}
    card.write_text(re.sub(r"(→ \d+ of 240 \|) \d+\.\d\d %", r"\1 55.55 %", text, count=1))
    assert {each.kind for each in lint_file(card)} == {"percentage"}


@pytest.mark.parametrize("name", CARDS)
def test_the_golden_cards_of_the_tiny_release(release: Release, name: str) -> None:
    lock = read_lock(MANIFESTS / "tiny-gemma4-4e.lock.json")
    assert lock is not None
    for path in ("eval/Q6_K/evidence.json", "eval/Q4_K_M/evidence.json", "gguf/tiny-gemma4-4e-Q6_K.gguf"):
        if lock.outputs[path].sha256 != sha256_file(release.work / path):
            pytest.skip(f"{path} is another one than the lock's: made by another processor or toolchain")
    rendered = (release.work / "card" / name).read_text()
    if os.environ.get(REFRESH):
        GOLDEN.mkdir(parents=True, exist_ok=True)
        (GOLDEN / name).write_text(rendered)
    assert with_digests_of(lock, read_lock(release.work / "lock.json"), rendered) == (GOLDEN / name).read_text()


def with_digests_of(lock: Lock, here: Lock | None, card: str) -> str:
    """A card made on another kind of processor, with the digests that the lock has of what may differ there."""
    assert here is not None
    for each in differences(lock.outputs, here.outputs):
        assert each.explained, each
        card = card.replace(here.outputs[each.path].sha256[:12], lock.outputs[each.path].sha256[:12])
    return card


def test_the_transformers_snippet_of_the_card_runs(release: Release) -> None:
    card = (release.work / "card" / "README.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    assert '"moe-release/tiny-gemma4-4e"' in snippet
    here = snippet.replace('"moe-release/tiny-gemma4-4e"', repr(str(release.work / "weights")))
    result = subprocess.run(
        [sys.executable, "-c", here],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"The answer is \([A-D]\)", result.stdout), result.stdout


@pytest.mark.parametrize(
    ("name", "model"),
    [("README.md", ["--model", "MODEL"]), ("README.gguf.md", ["-hf", "moe-release/tiny-gemma4-4e-GGUF:Q6_K"])],
)
def test_the_llama_server_line_of_the_card_is_the_protocol_word_for_word(release: Release, name: str, model: list[str]) -> None:
    card = (release.work / "card" / name).read_text()
    (command,) = re.findall(r"^```\n(llama-server [^\n]*\\\n.*?)^```$", card, re.DOTALL | re.MULTILINE)
    shell = subprocess.run(
        ["bash", "-c", f"llama-server() {{ printf '%s\\0' \"$@\"; }}\n{command}"], capture_output=True, check=True
    )
    words = shell.stdout.decode().split("\0")[:-1]
    protocol = load_protocol(MANIFESTS / "protocols" / "tiny-exam.yaml", MANIFESTS)
    assert words == [*model, *server_flags(protocol)]


def test_outcomes_add_up_and_every_claim_has_a_source(release: Release) -> None:
    claims = json.loads((release.work / "card" / "claims.json").read_text())
    assert all(claim["source"] for claim in claims.values())
    texts = {claim["shown"] for claim in claims.values()}
    card = (release.work / "card" / "README.md").read_text()
    for row in re.findall(r"^\| tiny-gemma4-\d+e \| Q.*$", card, re.MULTILINE):
        for value in (each.strip() for each in row.strip("|").split("|")):
            points, _, words = value.partition(": ")
            assert value in texts or {points, words} <= texts, value


REFERENCE = re.compile(r"(?P<file>[\w./-]+\.(?:json|yaml|gguf))(?:: (?P<path>[^,()]+?))?(?=,| and | \(|$)")
"""A file in a claim's source, and the place in it."""


@pytest.fixture(scope="session")
def published(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both repositories, as a reader has them who follows a source."""
    folder = tmp_path_factory.mktemp("published")
    with LocalHub(release.hub) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        for repo in release.summary["published"]:
            api.snapshot_download(repo, local_dir=folder / repo.rpartition("/")[2])
    return folder


def holds(value: Any, path: str) -> bool:
    """Whether JSON has something at a place; keys may hold dots."""
    if not path:
        return True
    if isinstance(value, list):
        return any(holds(each, path.removeprefix("[]").removeprefix(".")) for each in value)
    keys = [key for key in value if path == key or path.startswith((f"{key}.", f"{key}["))] if isinstance(value, dict) else []
    return any(holds(value[key], path.removeprefix(key).removeprefix(".")) for key in keys)


def test_the_source_of_every_claim_is_there(release: Release, published: Path) -> None:
    claims = json.loads((published / "tiny-gemma4-4e" / "reproduce" / "claims.json").read_text())
    read: dict[str, Any] = {}
    found = 0
    for name, claim in claims.items():
        for match in REFERENCE.finditer(claim["source"]):
            file, path = match["file"], match["path"] or ""
            folders = (published / "tiny-gemma4-4e" / "reproduce", *published.iterdir())
            place = next((each / file for each in folders if (each / file).is_file()), None)
            assert place is not None, (name, claim["source"])
            if place.suffix == ".gguf":
                continue
            content = read.setdefault(file, yaml.safe_load(place.read_text()))
            for part in re.split(r" [/-] ", path):
                assert holds(content, part), (name, claim["source"])
            found += 1
    assert found > len(claims) / 2


def test_the_table_of_the_family_is_the_one_on_the_card(release: Release) -> None:
    words = ("table", release.manifest, "--work", release.work.parent)
    shown = run_command(*words).stdout
    rows = json.loads(run_command(*words, "--format", "json").stdout)[0]["rows"]
    assert shown.strip() == (release.work / "card" / "results.md").read_text().strip()
    assert [row["total"] for row in rows] == [240, 240, 240]


def test_the_table_of_a_fresh_clone_takes_evidence_from_the_hub(release: Release, tmp_path: Path) -> None:
    words = ("table", release.manifest, "--work", tmp_path / "none")
    assert run_command(*words, check=False).returncode == 1
    with LocalHub(release.hub) as hub:
        shown = run_command(*words, "--published", **hub.environment()).stdout
        reference = release.manifests / "tiny-gemma4-16e.yaml"  # it publishes nothing
        refused = run_command("table", reference, "--work", tmp_path / "none", "--published", check=False, **hub.environment())
    assert shown.strip() == (release.work / "card" / "results.md").read_text().strip()
    assert refused.returncode == 1
    assert "the manifest publishes nothing, so there is no evidence on the Hub" in refused.stderr
