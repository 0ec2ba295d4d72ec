"""What a rehearsal may remove, and what it refuses; whole rehearsals stand in tests/end_to_end/test_publishing.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from pruner.errors import CheckFailedError, InputError
from release.actions.promotion import promote
from release.actions.rehearsal import rehearsable, scratch_hub
from release.context import Context
from release.hub.endpoint import HubTarget
from release.hub.local import LocalHub
from release.hub.remote import hub_api
from release.manifest import load_manifest
from tests.conftest import ROOT
from tests.end_to_end.conftest import run_command
from tests.release.verification.releases import write_keys
from tests.small_release import REPO, write_small_release

TEXT = "schema: moe-release/v1\nname: small\nbase: {path: base}\nprune: {experts: 6, drop_map: {path: map.json}}\n"


def test_only_the_hub_of_an_earlier_rehearsal_is_removed(tmp_path: Path) -> None:
    folder = scratch_hub(tmp_path)
    assert folder == tmp_path / "hub"
    with LocalHub(folder):
        pass
    assert (folder / "hub.json").exists()
    assert not scratch_hub(tmp_path).exists()
    folder.mkdir()
    (folder / "photo.png").write_bytes(b"png")
    with pytest.raises(CheckFailedError, match="is no rehearsal Hub"):
        scratch_hub(tmp_path)
    assert (folder / "photo.png").exists()


def test_a_manifest_that_publishes_nothing_is_not_rehearsed(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(TEXT)
    with pytest.raises(InputError, match="has no publish section"):
        rehearsable(load_manifest(tmp_path / "m.yaml"))


def test_what_was_never_published_is_not_promoted(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(f"{TEXT}publish: {{weights: org/small}}\n")
    context = Context(load_manifest(tmp_path / "m.yaml"), tmp_path / "work")
    context.options = type(context.options)(hub=HubTarget("http://127.0.0.1:9", "hf_" + "x" * 34))
    with pytest.raises(CheckFailedError, match="publish has not been run"):
        promote(context)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("gated: sometimes", "publish.gated"),
        ("supersedes: {gguf: org/old}", "publish.supersedes.gguf needs publish.gguf"),
        ("supersedes: no slash", "publish.supersedes"),
        ('collection: ""', "publish.collection"),
    ],
)
def test_impossible_settings_are_one_line(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "m.yaml").write_text(f"{TEXT}publish:\n  weights: org/small\n  {line}\n")
    with pytest.raises(InputError, match=said) as caught:
        load_manifest(tmp_path / "m.yaml")
    assert "\n" not in str(caught.value)


def test_one_older_repository_may_be_named_alone(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(f"{TEXT}publish: {{weights: org/small, gated: false, supersedes: org/old}}\n")
    publish = load_manifest(tmp_path / "m.yaml").content.publish
    assert publish is not None
    assert publish.supersedes is not None
    assert (publish.supersedes.weights, publish.supersedes.gguf, publish.gated) == ("org/old", None, False)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "real") as hub:
        yield hub


class Bench:
    """A small release that was published to a Hub, and rehearsals of it."""

    def __init__(self, folder: Path, hub: LocalHub) -> None:
        self.folder, self.hub, self.key = folder, hub, write_keys(folder / "keys") / "publisher.pem"
        self.manifest = write_small_release(folder)

    def run(self, command: str, *words: str | Path) -> CompletedProcess[str]:
        place = ("--scratch", self.folder / "scratch") if command == "rehearse" else ()
        words = (command, self.manifest, "--work", self.folder / "work", "--hub", self.hub.endpoint, *place, *words)
        return run_command(*words, check=False, HF_TOKEN=self.hub.token, PYTHONPATH=str(ROOT))

    def rehearse(self, *words: str | Path) -> dict[str, Any]:
        done = self.run("rehearse", "--json", *words)
        report: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (1 if report["problems"] else 0), done.stderr
        return report


def test_a_signed_repository_is_foreseen(tmp_path: Path, real: LocalHub) -> None:
    bench = Bench(tmp_path, real)
    assert bench.run("cut", "--sign", bench.key).returncode == 0
    assert bench.rehearse("--sign", bench.key)["repositories"][0]["set"] == [], "nothing changes, the signature stands"
    bench.manifest.write_text(bench.manifest.read_text().replace("apache-2.0", "mit"))
    (tmp_path / f"{bench.manifest.stem}.lock.json").unlink()
    (problem,) = bench.rehearse()["problems"]
    assert problem.startswith("moe-release/packaged-4e: is signed, and ")
    assert "sign again with --sign KEY.pem" in problem
    foreseen = bench.rehearse("--sign", bench.key)
    assert foreseen["problems"] == []
    assert "model.sig" in foreseen["repositories"][0]["set"]


def test_a_card_that_somebody_changed_is_foreseen(tmp_path: Path, real: LocalHub) -> None:
    bench = Bench(tmp_path, real)
    assert bench.run("cut").returncode == 0
    api = hub_api(real.endpoint, real.token)
    card = Path(api.hf_hub_download(REPO, "README.md", local_dir=tmp_path / "read")).read_text()
    api.upload_file(path_or_fileobj=f"{card}\nBuy now.\n".encode(), path_in_repo="README.md", repo_id=REPO)
    (problem,) = bench.rehearse()["problems"]
    assert "--replace-card" in problem
    foreseen = bench.rehearse("--replace-card")
    assert (foreseen["problems"], foreseen["repositories"][0]["set"]) == ([], ["README.md"])
