"""A tag that is taken, and a public repository for a private release: found before the build where a lock says what comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from release.hub.local import LocalHub
from release.hub.remote import hub_api
from tests.conftest import ROOT
from tests.end_to_end.conftest import run_command
from tests.small_release import REPO, write_small_release

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub 2.4.0's own
SHARD = "model-00001-of-00003.safetensors"


class Bench:
    """A small release that is to get the tag v1, and a Hub that a URL leads to."""

    def __init__(self, folder: Path, hub: LocalHub) -> None:
        self.folder, self.hub, self.api = folder, hub, hub_api(hub.endpoint, hub.token)
        self.manifest = write_small_release(folder)
        self.declare("private: false", "private: false, tag: v1")

    def declare(self, old: str, new: str) -> None:
        self.manifest.write_text(self.manifest.read_text().replace(old, new))

    def cut(self, work: str, *words: str) -> CompletedProcess[str]:
        command = ("cut", self.manifest, "--work", self.folder / work, "--hub", self.hub.endpoint)
        return run_command(*command, *words, check=False, HF_TOKEN=self.hub.token, PYTHONPATH=str(ROOT))

    def occupy(self, path: str) -> None:
        """Put another release's file into the repository under the tag."""
        self.api.create_repo(REPO, exist_ok=True)
        self.api.upload_file(path_or_fileobj=b"another release's", path_in_repo=path, repo_id=REPO)
        self.api.create_tag(REPO, tag="v1")

    def built(self, work: str) -> bool:
        return (self.folder / work / "weights").is_dir()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with LocalHub(tmp_path / "hub") as hub:
        yield Bench(tmp_path, hub)


def test_with_a_lock_a_taken_tag_stops_before_the_build(bench: Bench) -> None:
    assert bench.cut("first", "--skip", "publish,readback").returncode == 0
    bench.occupy(SHARD)
    refused = bench.cut("second")
    assert refused.returncode == 1
    assert f"{REPO}: the tag v1 names commit " in refused.stderr
    assert not bench.built("second")


def test_without_a_lock_it_is_said_and_nothing_is_committed(bench: Bench) -> None:
    bench.occupy(SHARD)
    head = bench.api.model_info(REPO).sha
    refused = bench.cut("first")
    assert refused.returncode == 1
    assert "publishing will be refused unless it holds the very files" in refused.stderr
    assert bench.built("first")
    assert bench.api.model_info(REPO).sha == head


def test_a_public_repository_stops_a_private_release_before_the_build(bench: Bench) -> None:
    assert bench.cut("first", "--skip", "publish,readback").returncode == 0
    bench.declare("private: false", "private: true")
    bench.api.create_repo(REPO)
    refused = bench.cut("second")
    assert refused.returncode == 1
    assert f"{REPO}: is public, and the release is to stay private" in refused.stderr
    assert not bench.built("second")


def test_a_release_that_stands_there_is_no_obstacle(bench: Bench) -> None:
    assert bench.cut("first").returncode == 0
    again = bench.cut("second")
    assert again.returncode == 0, again.stderr
    assert "nothing to change" in again.stdout + again.stderr
