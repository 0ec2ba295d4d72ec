"""`moe-release publish` of two repositories dies by SIGKILL: each head is the old release or the new, and a rerun finishes."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from release.hub.local import LocalHub
from tests.conftest import ROOT
from tests.end_to_end.conftest import COMMAND, Release
from tests.end_to_end.test_publishing import GGUF, WEIGHTS, Copy
from tests.release.hub.releases import Faults

pytestmark = [pytest.mark.llama, pytest.mark.slow]
MOMENTS = 6
Heads = dict[str, dict[str, str]]


@contextmanager
def staged(old: Path, folder: Path, faults: Faults) -> Iterator[LocalHub]:
    """A Hub of its own that holds the old release."""
    shutil.copytree(old, folder)
    with LocalHub(folder, wrap=faults) as hub:
        yield hub


def heads(copy: Copy) -> Heads:
    """Every file of both main branches by git's name for it."""
    trees = {repo: copy.api.list_repo_tree(repo, recursive=True) for repo in (WEIGHTS, GGUF)}
    return {repo: {item.path: item.blob_id for item in tree if hasattr(item, "blob_id")} for repo, tree in trees.items()}


def written(faults: Faults) -> int:
    """Requests so far that change something or bring the client nearer to it."""
    return sum(method in ("POST", "PUT") for method, _ in faults.seen)


def killed_at(copy: Copy, faults: Faults, moment: int) -> bool:
    """Publish in a child process that is killed when its write number `moment` arrives; whether that happened."""
    words = ("publish", copy.manifest, "--work", copy.work, "--hub", copy.hub.endpoint, "--update-lock")
    environment = {**os.environ, **copy.environment, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [str(COMMAND), *map(str, words)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    faults.seen.clear()

    def count(_method: str, _path: str) -> None:
        if written(faults) >= moment:
            process.kill()

    faults.before = count
    process.wait()
    faults.before = lambda _method, _path: None
    faults.wait_quiet()
    return process.returncode == -9


def test_killed_between_two_repositories(release: Release, tmp_path: Path) -> None:
    faults, rng = Faults(), random.Random(11)
    with LocalHub(tmp_path / "old") as hub:
        copy = Copy(release, tmp_path, hub)
        copy.run("publish")
        before = heads(copy)
    copy.declare(tag="v2")
    with staged(tmp_path / "old", tmp_path / "whole", faults) as copy.hub:
        copy.run("publish", "--update-lock")
        last, after = written(faults), heads(copy)
    assert all(after[repo] != before[repo] for repo in before)
    (copy.work / "published.json").unlink()
    seen: list[Heads] = []
    moments = [2, *rng.sample(range(3, last + 1), MOMENTS - 1)]  # the first of them before anything is committed
    for number, moment in enumerate(sorted(moments)):
        with staged(tmp_path / "old", tmp_path / f"hub-{number}", faults) as copy.hub:
            assert killed_at(copy, faults, moment)
            seen.append(heads(copy))
            assert all(seen[-1][repo] in (before[repo], after[repo]) for repo in before)
            if number % 3 == 2:
                copy.run("publish", "--update-lock")
                assert heads(copy) == after
                for repo in before:
                    assert copy.api.model_info(repo, revision="v2").sha == copy.api.model_info(repo).sha
    assert before in seen
    assert any(each != before for each in seen)
