"""A build by several workers that is killed at any moment, shards, small files and the last renames included."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, CheckpointFactory
from tests.digests import digests
from tests.pruner.test_build import run_build

SCRIPT = """
import os, signal, sys
from pathlib import Path
from pruner.build import build
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.plan import plan_build
base, out, after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
done = 0
def counted(call):
    def function(*words, **options):
        global done
        done += 1
        if done > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*words, **options)
    return function
for name in ("open", "fsync", "replace", "rename", "unlink", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
drop_map = DropMap({"0": (1, 2, 7), "1": (0, 3, 4), "2": (5, 6, 7)})
plan = plan_build(open_checkpoint(base), drop_map, base_name={"name": "org/base"}, max_shard_size=400)
build(plan, base, out, workers=3)
print(done)
"""
"""Every call that changes the disk counts; the one behind the last that is allowed is never made."""
LAST = 40
"""Calls of the small files, of the clearing up and of the last rename."""


def run(base: Path, out: Path, after: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", SCRIPT, str(base), str(out), str(after)]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)


def test_killed_at_any_change_of_the_disk_the_next_build_ends_with_the_same_bytes(
    make_checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    base = make_checkpoint()
    for name in ("LICENSE", "vocab.txt"):
        (base / name).write_text(name)
    whole = run(base, tmp_path / "reference", 10**9)
    calls, expected = int(whole.stdout), digests(tmp_path / "reference")
    moments = {*range(calls - LAST, calls, 3), *(calls - number for number in range(1, 5))}
    moments |= set(random.Random(1).sample(range(calls - LAST), 12))  # chance, no secret
    for moment in sorted(moments):
        out = tmp_path / f"out-{moment}"
        killed = run(base, out, moment)
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
        if out.exists():  # only its name was not yet forced onto the disk
            assert digests(out) == expected
            continue
        again = run(base, out, moment // 2)  # killed once more, somewhere else
        assert again.returncode in (-signal.SIGKILL, 0)
        if not out.exists():
            run_build(base, out)
        assert digests(out) == expected, moment
        assert not list(tmp_path.glob(f".{out.name}*"))
