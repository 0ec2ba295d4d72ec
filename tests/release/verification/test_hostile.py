"""Repositories that want to harm whoever verifies them: refused with one line, and nothing is written outside."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pruner.errors import InputError
from release.verdict import Verdict
from tests.conftest import ROOT
from tests.end_to_end.conftest import run_command
from tests.release.verification.hostile import Lying, a_file
from tests.release.verification.releases import PublishedRelease, Stage, part


@pytest.fixture
def lying() -> Lying:
    return Lying()


@pytest.fixture
def hostile(small_release: PublishedRelease, lying: Lying, tmp_path: Path) -> Iterator[Stage]:
    with small_release.staged(tmp_path, lying) as stage:
        yield stage


@pytest.fixture(autouse=True)
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does, the temporary folder is empty afterwards, and nothing appeared around it."""
    place = tmp_path / "a" / "b" / "c" / "tmp"
    place.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert not list(place.iterdir())
    assert {path.name for path in (tmp_path / "a").rglob("*")} == {"b", "c", "tmp"}


@pytest.mark.parametrize(
    "path",
    [
        "../evil",
        "reproduce/../../evil",
        "reproduce/../../../../evil",
        "/tmp/evil",
        "reproduce//evil",
        "reproduce/./evil",
        "reproduce/..",
        "reproduce/a\nb",
        "reproduce/\x1b[2Jx",
    ],
)
def test_a_listed_path_that_leads_outside_is_refused(hostile: Stage, lying: Lying, path: str) -> None:
    lying.change = lambda items: [*items, a_file(path)]
    with pytest.raises(InputError, match="is no path of a file") as refused:
        hostile.verify()
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    "items",
    [
        [a_file("reproduce/huge.json", 1 << 40)],
        [a_file(f"reproduce/{number}.json", 1) for number in range(1001)],
        [a_file(f"reproduce/{number}.json", 63 << 20) for number in range(5)],
        [a_file("reproduce/huge.json", 65 << 20)],
    ],
    ids=["terabyte", "many", "together", "one"],
)
def test_an_oversized_recipe_is_refused_before_it_is_fetched(hostile: Stage, lying: Lying, items: list[Any]) -> None:
    lying.change = lambda found: [*found, *items]
    with pytest.raises(InputError, match=r"far less|more than"):
        hostile.verify()


def test_a_repository_without_a_recipe_is_none_of_ours(hostile: Stage, lying: Lying) -> None:
    lying.change = lambda items: [item for item in items if not item["path"].startswith("reproduce/")]
    with pytest.raises(InputError, match="moe-release infer"):
        hostile.verify()


def in_manifest(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"path: map.json", b"path: ../../../../../../../etc/passwd"),
        (b"path: map.json", b"path: /etc/passwd"),
        (b"path: rebuilders.json", b"path: ../x.json"),
        (b"license: apache-2.0", b"license: apache-2.0, prose: ../../../../etc/hostname"),
        (b"card:", b"compare: [{label: x, evidence: {path: ../../secret.json}}]\ncard:"),
        (b"card:", b"prior: [{path: ../../../SHA256SUMS}]\ncard:"),
    ],
)
def test_paths_of_the_manifest_stay_in_the_recipe(small: Stage, before: bytes, after: bytes) -> None:
    small.change("reproduce/manifest.yaml", in_manifest(before, after))
    consistency = part(small.verify(), "consistency")
    assert consistency.verdict is Verdict.BAD
    assert consistency.reason.count("\n") == 0
    assert str(small.work) not in consistency.reason


@pytest.mark.parametrize("path", ["../../../../../../etc", "/etc", "../tiny/model", "manifest.yaml"])
def test_a_base_by_path_is_never_looked_for_on_the_verifiers_disk(small: Stage, path: str) -> None:
    small.change("reproduce/manifest.yaml", in_manifest(b"path: tiny/model", f"path: {path}".encode()))
    weights = part(small.verify(base=None), "weights")
    assert weights.verdict is Verdict.UNKNOWN
    assert "give your copy with --base" in weights.reason


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (BOMB, "aliases are not supported"),
        (b"a: " + b"[" * 5000, "nested more than 50 deep"),
        (b"#" * (300 << 10), "larger than 256 KiB"),
        (b"schema: moe-release/v1\nname: !!python/object/apply:os.system [touch evil]\n", "manifest.yaml"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "is empty; give a YAML file"),
    ],
    ids=["bomb", "deep", "large", "tags", "bytes", "empty"],
)
def test_hostile_yaml_is_one_line(small: Stage, data: bytes, words: str) -> None:
    small.write("reproduce/manifest.yaml", data)
    found = small.verify()
    consistency = part(found, "consistency")
    assert consistency.verdict is Verdict.BAD
    assert words in consistency.reason
    assert consistency.reason.count("\n") == 0
    assert found.exit_code == 1


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"a":' * 200_000, b"nothing", b"[]", b"{}", b"1e999", b"\xff"])
@pytest.mark.parametrize("name", ["lock.json", "drop_map.json", "claims.json", "provenance.json", "rebuilders.json"])
def test_hostile_json_is_bad_and_named(small: Stage, name: str, data: bytes) -> None:
    small.write(f"reproduce/{name}", data)
    found = small.verify()
    assert found.verdict is Verdict.BAD
    assert name in found.text()
    assert all(finding.reason.count("\n") == 0 for finding in found.findings)
    assert str(small.work) not in found.text()


def test_a_lock_that_names_foreign_places_looks_nowhere(small: Stage) -> None:
    def foreign(lock: Any) -> None:
        lock["outputs"]["weights/../../../../etc/passwd"] = {"sha256": "0" * 64, "size": 1}
        lock["outputs"]["eval/../../evidence.json"] = {"sha256": "0" * 64, "size": 1}

    small.change_json("reproduce/lock.json", foreign)
    files = part(small.verify(), "files")
    assert files.verdict is Verdict.BAD
    assert "missing from the repository" in files.reason


def test_a_lying_digest_is_found_when_the_file_arrives(hostile: Stage, lying: Lying) -> None:
    def changed(items: list[Any]) -> list[Any]:
        return [{**item, "oid": "b" * 40} if item["path"] == "reproduce/lock.json" else item for item in items]

    lying.change = changed
    with pytest.raises(Exception, match="arrived with another digest"):
        hostile.verify()


def test_the_command_says_one_line_and_no_traceback(hostile: Stage, lying: Lying) -> None:
    lying.change = lambda items: [*items, a_file("reproduce/../../evil")]
    environment = {**hostile.hub.environment(), "PYTHONPATH": str(ROOT)}
    done = run_command("verify", hostile.address, check=False, **environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "evil" in done.stderr
