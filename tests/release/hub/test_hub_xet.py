"""Clients that have Xet on: they write and read the local storage themselves, and every other client sees the same files."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from pruner.files import sha256_bytes
from release.hub.local import LocalHub
from release.hub.server.errors import HubError
from release.hub.server.xet_storage import files_of_shard
from tests.end_to_end.conftest import run_command
from tests.release.hub.releases import PATIENCE, Faults, api_of, on_commit
from tests.small_release import REPO as SMALL
from tests.small_release import write_small_release

if TYPE_CHECKING:
    from huggingface_hub import HfApi

pytest.importorskip("hf_xet", reason="Xet needs the hf_xet package")
REPO = "org/model"
ROOT = Path(__file__).resolve().parents[3]
PUBLISH = """
import sys
from pathlib import Path
from tests.release.hub.releases import publish
from pruner.files import sha256_file
files = {path.name: path for path in Path(sys.argv[1]).iterdir()}
digests = {name: sha256_file(path) for name, path in files.items()}
options = {"message": "by Xet", "tag": "v1", "pause": lambda _seconds: None, "pull_request": "--pr" in sys.argv}
done = publish("org/model", files, digests, endpoint=None, token=None, private=False, **options)
print(done.commit, done.changed)
"""
WATCHED = """import sys
import pruner.hub_failures
pruner.hub_failures.SILENT_SECONDS = 10**6
from contextlib import contextmanager
from pruner.progress import NoProgress
told = []
class Watched(NoProgress):
    @contextmanager
    def task(self, title, total, unit="items"):
        yield told.append if title.startswith("uploading") else lambda amount: None
"""
REPORTED = """
from types import SimpleNamespace
from huggingface_hub.utils import _xet_progress_reporting as bars
from release.hub.upload_progress import Sent, xet_told
theirs, told = bars.XetUploadProgressReporter, []
with xet_told(Sent(told.append)):
    reporter = bars.XetUploadProgressReporter()
    for position in (10, 10, 8, 35):
        reporter.update_progress(SimpleNamespace(total_bytes_completed=position), {})
    reporter.close()
print(*told, bars.XetUploadProgressReporter is theirs)
"""
DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
print(hf_hub_download("org/model", "model.gguf", local_dir=sys.argv[1]))
"""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(random.Random(1).randbytes(5_500_000))
    (folder / "small.gguf").write_bytes(random.Random(2).randbytes(1000))
    (folder / "notes.md").write_text("# Notes\n")
    return folder


def environment_with_xet(hub: LocalHub, home: Path) -> dict[str, str]:
    environment = {**os.environ, **hub.environment(), "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    del environment["HF_HUB_DISABLE_XET"]
    return environment


def run_with_xet(hub: LocalHub, home: Path, script: str, *words: str | Path) -> str:
    command = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, env=environment_with_xet(hub, home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_release_by_xet_is_whole_for_everybody(hub: LocalHub, api: HfApi, release: Path, tmp_path: Path) -> None:
    first = run_with_xet(hub, tmp_path / "home", PUBLISH, release)
    assert first.split()[1] == "True"
    assert run_with_xet(hub, tmp_path / "home", PUBLISH, release) == first.replace("True", "False")
    assert list((hub.folder / "xet").rglob("*.mdb"))
    folder = Path(api.snapshot_download(REPO, cache_dir=tmp_path / "plain"))
    for path in release.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_the_clients_bars_are_not_drawn_and_every_byte_is_told_once(hub: LocalHub, release: Path, tmp_path: Path) -> None:
    """The client's bars are on and none is seen, so its reports, however many its clock allows, come to us."""
    script = PUBLISH.replace("import sys\n", WATCHED).replace('"message"', '"progress": Watched(), "message"')
    environment = environment_with_xet(hub, tmp_path / "home")
    environment.pop("HF_HUB_DISABLE_PROGRESS_BARS", None)
    words = [sys.executable, "-c", f"{script}print(*told)", str(release)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    told = [int(word) for word in done.stdout.splitlines()[-1].split()]
    assert sum(told) == sum(path.stat().st_size for path in release.iterdir())
    assert done.stderr == "", "no bar of the client is seen"


def test_what_the_client_reports_while_it_sends_is_told_at_once(hub: LocalHub, tmp_path: Path) -> None:
    environment = environment_with_xet(hub, tmp_path / "home")
    environment.pop("HF_HUB_DISABLE_PROGRESS_BARS", None)
    words = [sys.executable, "-W", "error", "-c", REPORTED]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("10 25 True\n", ""), "sent again, told once"


def test_a_lost_answer_is_adopted_by_xet_too(faulty: LocalHub, faults: Faults, release: Path, tmp_path: Path) -> None:
    """The commit succeeds and says 500; the next release fails on its first try, and is a pull request."""
    faults.after = on_commit(1, lambda: 500)
    assert run_with_xet(faulty, tmp_path / "home", PUBLISH, release).split()[1] == "True"
    assert sum("/commit/" in path for _, path in faults.seen) == 1
    faults.after, faults.before = (lambda _method, _path: None), on_commit(1, lambda: 503)
    (release / "model.gguf").write_bytes(random.Random(3).randbytes(5_500_000))
    run_with_xet(faulty, tmp_path / "home", PUBLISH, release, "--pr")
    assert sum("/commit/" in path for _, path in faults.seen) == 3
    headers = {"Authorization": f"Bearer {faulty.token}"}
    address = f"{faulty.endpoint}/{REPO}/resolve/refs%2Fpr%2F1/model.gguf"
    assert (
        httpx.get(address, headers=headers, follow_redirects=True, timeout=PATIENCE).content
        == (release / "model.gguf").read_bytes()
    )
    commits = httpx.get(f"{faulty.endpoint}/api/models/{REPO}/commits/main", headers=headers, timeout=PATIENCE).json()
    assert [commit["title"] for commit in commits] == ["by Xet", "initial commit"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_token_for_storage_that_is_refused_once_is_asked_for_again(
    faulty: LocalHub, faults: Faults, release: Path, tmp_path: Path, status: int
) -> None:
    left = [1]

    def once(_method: str, path: str) -> int | None:
        if "/xet-write-token/" not in path or not left[0]:
            return None
        left[0] -= 1
        return status

    faults.before = once
    assert run_with_xet(faulty, tmp_path / "home", PUBLISH, release).split()[1] == "True"
    assert left == [0]


def test_a_file_that_changes_while_it_is_sent_is_not_committed(
    hub: LocalHub, api: HfApi, release: Path, tmp_path: Path
) -> None:
    """Xet digests the very bytes that it sends, so they are compared after the upload and before the commit."""
    tampering = PUBLISH.replace(
        "options = {",
        "import release.hub.publish as module\nchecked = module.check_digests\n"
        "def tamper(*words):\n    checked(*words)\n    files['model.gguf'].write_bytes(b'!' * 5_500_000)\n"
        "module.check_digests = tamper\noptions = {",
    )
    environment = environment_with_xet(hub, tmp_path / "home")
    words = [sys.executable, "-c", tampering, str(release)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "model.gguf: the file on disk is not what the lock says" in done.stderr
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["initial commit"]


@pytest.mark.slow
def test_killed_at_random_moments_by_xet(faulty: LocalHub, faults: Faults, release: Path, tmp_path: Path) -> None:
    environment, rng = environment_with_xet(faulty, tmp_path / "home"), random.Random(5)
    run_with_xet(faulty, tmp_path / "home", PUBLISH.replace('"tag": "v1"', '"tag": None'), release)
    api, killed = api_of(faulty), 0
    for number in range(8):
        before = digests_of(api)
        (release / "model.gguf").write_bytes(random.Random(number).randbytes(5_500_000))
        (release / "notes.md").write_text(f"# Notes {number}\n")
        words = [sys.executable, "-c", PUBLISH.replace('"tag": "v1"', '"tag": None'), str(release)]
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        left = [rng.randrange(3, 11)]

        def count_down(_method: str, _path: str, left: list[int] = left, process: subprocess.Popen[bytes] = process) -> None:
            left[0] -= 1
            if left[0] == 0:
                process.kill()

        faults.before = count_down
        killed += process.wait() == -9
        faults.before = lambda _method, _path: None
        faults.wait_quiet()
        now = digests_of(api)
        assert now in (before, {path.name: sha256_bytes(path.read_bytes()) for path in release.iterdir()})
    assert killed >= 4
    run_with_xet(faulty, tmp_path / "home", PUBLISH.replace('"tag": "v1"', '"tag": None'), release)
    assert digests_of(api) == {path.name: sha256_bytes(path.read_bytes()) for path in release.iterdir()}


def digests_of(api: HfApi) -> dict[str, str]:
    """SHA-256 by path of what the main branch holds, but for the Hub's own file."""
    names = [name for name in api.list_repo_files(REPO) if name != ".gitattributes"]
    with tempfile.TemporaryDirectory() as folder:
        return {name: sha256_bytes(Path(api.hf_hub_download(REPO, name, local_dir=folder)).read_bytes()) for name in names}


def test_a_download_by_xet_reads_the_storage(hub: LocalHub, release: Path, tmp_path: Path) -> None:
    run_with_xet(hub, tmp_path / "home", PUBLISH, release)
    answer = httpx.head(
        f"{hub.endpoint}/{REPO}/resolve/main/model.gguf", headers={"Authorization": f"Bearer {hub.token}"}, timeout=PATIENCE
    )
    assert answer.headers["X-Xet-Refresh-Route"].startswith(hub.endpoint)
    data = (release / "model.gguf").read_bytes()
    blob = hub.folder / "blobs" / sha256_bytes(data)[:2] / sha256_bytes(data)
    blob.chmod(0o644)
    blob.write_bytes(b"!" * len(data))  # only the Xet storage can give the right bytes now
    run_with_xet(hub, tmp_path / "home", DOWNLOAD, tmp_path / "local")
    assert (tmp_path / "local" / "model.gguf").read_bytes() == data


def test_the_commands_publish_and_verify_by_xet(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    manifest = write_small_release(tmp_path / "small")
    environment = {**hub.environment(), "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "0", "PYTHONPATH": str(ROOT)}
    run_command("cut", manifest, "--work", tmp_path / "work", "--hub", hub.endpoint, **environment)
    assert list((hub.folder / "xet").rglob("*.mdb"))
    found = run_command("verify", f"hf://{SMALL}", "--base", manifest.parent / "tiny/model", **environment)
    assert found.stdout.endswith("GOOD\n")


def test_a_damaged_shard_is_refused() -> None:
    with pytest.raises(HubError, match="damaged"):
        list(files_of_shard(b"\0" * 100))
