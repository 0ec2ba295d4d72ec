"""The client's own disk is full while it publishes or verifies: one line, exit code 3, and a run with space ends the work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

import pytest

from release.hub.remote import hub_api
from tests.conftest import ROOT
from tests.end_to_end.conftest import run_command
from tests.release.hub.releases import Faults
from tests.release.verification.releases import PublishedRelease, Stage

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PAGE = 4096
BALLAST = "ballast"


def fill(disk: Path, pages: int = 0) -> None:
    """Leave no more than some pages of a disk free."""
    state = os.statvfs(disk)
    if not (disk / BALLAST).exists():
        (disk / BALLAST).write_bytes(b"\0" * (state.f_bavail * state.f_frsize - pages * PAGE))


@contextmanager
def filled(disk: Path, pages: int) -> Iterator[None]:
    """A disk with no more than some pages free."""
    fill(disk, pages)
    try:
        yield
    finally:
        (disk / BALLAST).unlink()


def assert_full(done: CompletedProcess[str], where: Path | str) -> None:
    """Exit code 3, and one line of the command's own that names a place, on the disk or in a release, and what to do."""
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("moe-release: ")
    assert last.endswith(": no space left on the disk; free some and run again")
    assert str(where) in last


class Publisher:
    """The second release of a repository whose first one stands on a Hub of the test's own."""

    def __init__(self, release: PublishedRelease, stage: Stage, folder: Path, work: Path) -> None:
        made = release.manifest.parent
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns("build"))
        shutil.copytree(made / "build" / "small", work, ignore=shutil.ignore_patterns(".lock"))
        self.manifest, self.work, self.stage = folder / release.manifest.name, work, stage
        text = self.manifest.read_text()
        assert "tag: v1" in text
        self.manifest.write_text(text.replace("tag: v1", "tag: v2"))

    def publish(self, scratch: Path, *, check: bool = True) -> CompletedProcess[str]:
        hub = self.stage.hub
        words = ("publish", self.manifest, "--work", self.work, "--hub", hub.endpoint, "--update-lock")
        environment = {"HF_TOKEN": hub.token, "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
        return run_command(*words, check=check, **environment)

    @property
    def api(self) -> HfApi:
        return hub_api(self.stage.hub.endpoint, self.stage.hub.token)

    def head(self) -> dict[str, str]:
        items = self.api.list_repo_tree(self.stage.repo, recursive=True)
        return {item.path: item.blob_id for item in items if hasattr(item, "blob_id")}

    def tags(self) -> list[str]:
        return sorted(tag.name for tag in self.api.list_repo_refs(self.stage.repo).tags)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "arrives"),
    [
        ("/whoami-v2", False),
        ("/revision/main", False),
        ("/preupload/", True),
        ("/commit/", True),
        ("/paths-info/", True),
        ("/tag/", True),
    ],
)
def test_a_disk_that_fills_up_leaves_the_old_release_or_the_new(
    small_release: PublishedRelease, tmp_path: Path, tiny_disk: Callable[[str], Path], moment: str, arrives: bool
) -> None:
    """The work folder and the temporary files are on a disk that is full once a request of a kind was sent."""
    disk, faults = tiny_disk("16m"), Faults()
    with small_release.staged(tmp_path, faults) as stage:
        publisher = Publisher(small_release, stage, tmp_path / "manifests", disk / "work")
        old = publisher.head()
        faults.before = lambda _method, path: fill(disk) if moment in path else None
        assert_full(publisher.publish(disk, check=False), disk)
        faults.before = lambda _method, _path: None
        left = publisher.head()
        assert (left != old) is arrives
        assert publisher.tags() == (["v1", "v2"] if arrives else ["v1"]), "reading back needs no disk, and only then is tagged"
        (disk / BALLAST).unlink()
        publisher.publish(disk)
        assert publisher.tags() == ["v1", "v2"]
        assert publisher.head() == left or not arrives
        assert publisher.head() != old


@pytest.mark.parametrize("command", ["verify", "attest"])
def test_no_space_for_what_is_fetched_says_so_and_decides_nothing(
    small: Stage, tiny_disk: Callable[[str], Path], command: str
) -> None:
    disk = tiny_disk("4m")
    words = [command, small.address, "--base", small.base]
    words += ["--key", small.keys / "alice.pem", "--dry-run"] if command == "attest" else []
    environment = {**small.hub.environment(), "TMPDIR": str(disk), "PYTHONPATH": str(ROOT)}
    with filled(disk, 4):
        done = run_command(*words, check=False, **environment)
    assert_full(done, disk if command == "verify" else small.repo)
    assert "GOOD" not in done.stdout
    assert list(disk.iterdir()) == []
    run_command(*words, **environment)


def test_no_space_to_remember_digests_costs_only_time(small: Stage, tiny_disk: Callable[[str], Path]) -> None:
    from tests.release.hub.remote.repositories import upload

    disk = tiny_disk("1m")
    commit = upload(hub_api(small.hub.endpoint, small.hub.token), "org/base", small.base)
    words = ("verify", small.address, "--base", f"hf://org/base@{commit}")
    environment = {**small.hub.environment(), "MOE_RELEASE_CACHE": str(disk), "PYTHONPATH": str(ROOT)}
    with filled(disk, 0):
        full = run_command(*words, **environment)
        assert not [path for path in disk.rglob("*") if path.is_file() and path.name != BALLAST]
    assert run_command(*words, **environment).stdout == full.stdout
    assert len(list((disk / "planned-digests").iterdir())) > 1
