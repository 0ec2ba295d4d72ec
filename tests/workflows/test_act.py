"""The workflows under the real act."""

from __future__ import annotations

import base64
import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from markdown_it import MarkdownIt

from release.hub.local import LocalHub
from release.hub.remote import hub_api
from tests.conftest import ROOT
from tests.digests import spoil_lock
from tests.release.verification.releases import last_byte
from tests.small_release import REPO, write_small_release
from tests.workflows.conftest import RUNNERS, Act, Script

SLICE = "tests/pruner/test_drop_map.py"


def test_ci_runs_a_slice(act: Act) -> None:
    run = act("ci", "push", SLICE=SLICE)
    assert run.returncode == 0, run.log
    assert any(" passed in " in line for line in run.lines), run.log


def test_ci_fails_with_its_tests(act: Act) -> None:
    run = act("ci", "push", SLICE="tests/no_such_test.py")
    assert run.returncode != 0
    assert any("no_such_test.py" in line for line in run.lines)


@pytest.fixture
def published(tmp_path: Path, command: Path) -> Iterator[tuple[LocalHub, Path]]:
    """A Hub that holds a small release, and its base."""
    manifest = write_small_release(tmp_path)
    words = [command, "cut", manifest, "--work", tmp_path / "work", "--hub", "local"]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    with LocalHub(tmp_path / "hub") as hub:
        yield hub, tmp_path / "tiny/model"


def test_verify_rebuilds_on_every_runner_and_says_what_it_found(act: Act, published: tuple[LocalHub, Path]) -> None:
    hub, base = published
    run = act("verify", "workflow_dispatch", inputs={"target": f"hf://{REPO}"}, BASE=str(base), **hub.environment())
    assert run.returncode == 0, run.log
    assert run.summary.count(f"## hf://{REPO}") == 2  # two runners
    assert run.summary.count("GOOD    weights") == 2


def test_verify_attests_once_with_the_key_of_the_environment(act: Act, published: tuple[LocalHub, Path]) -> None:
    """Two runners with one key say the same, so one pull request is made."""
    hub, base = published
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for runner in RUNNERS:  # one after the other: at the same instant each would see that there is none yet
        run = act(
            "verify",
            "workflow_dispatch",
            inputs={"target": f"hf://{REPO}"},
            secrets={"REBUILDER_KEY": pem, "HF_TOKEN": hub.token},
            matrix=f"runner:{runner}",
            BASE=str(base),
            BUILDER="a machine",
            HF_ENDPOINT=hub.endpoint,
        )
        assert run.returncode == 0, run.log
        assert pem.splitlines()[1] not in run.log
    api = hub_api(hub.endpoint, hub.token)
    (proposed,) = api.get_repo_discussions(REPO, discussion_type="pull_request")
    assert (proposed.title, proposed.status) == ("attestation: rebuilt by a machine", "open")
    assert f"waits in pull request {proposed.num} of {REPO} already" in run.summary, "the first runner proposed it"
    (name,) = (each for each in api.list_repo_files(REPO, revision=f"refs/pr/{proposed.num}") if "attestations/" in each)
    envelope = json.loads(Path(api.hf_hub_download(REPO, name, revision=f"refs/pr/{proposed.num}")).read_text())
    key.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed_bytes(envelope))


def signed_bytes(envelope: dict[str, Any]) -> bytes:
    """What a DSSE signature covers."""
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def test_verify_fails_with_what_is_not_good(act: Act, published: tuple[LocalHub, Path], tmp_path: Path) -> None:
    hub, base = published
    other = tmp_path / "other"
    shutil.copytree(base, other)
    for shard in other.glob("*.safetensors"):
        shard.write_bytes(last_byte(shard.read_bytes()))
    run = act("verify", "workflow_dispatch", inputs={"target": f"hf://{REPO}"}, BASE=str(other), **hub.environment())
    assert run.returncode != 0
    assert run.summary.count("UNKNOWN weights") == 2
    assert "is not the file that the release pins" in run.summary


def test_verify_without_published_variants_has_nothing_to_do(act: Act) -> None:
    run = act("verify", "workflow_dispatch")
    assert run.returncode == 0, run.log
    assert not run.summary


def documented(begin: str) -> list[str]:
    """The words of a line that a reader of docs/how-to/other-places.md would type."""
    tokens = MarkdownIt().parse((ROOT / "docs/how-to/other-places.md").read_text())
    lines = "\n".join(token.content for token in tokens if token.type == "code_block").replace("\\\n", " ").splitlines()
    return shlex.split(next(line for line in lines if line.startswith(begin)))


@pytest.mark.llama
@pytest.mark.slow
def test_release_rehearses_and_shows_the_results_table(act: Act, script: Script, tmp_path: Path) -> None:
    """As the page of other places says it, under act and from a shell."""
    words = documented("act ")
    asked = dict(each.split("=") for word, each in pairwise(words) if word == "--input")
    assert words[1:6] == ["workflow_dispatch", "-W", ".github/workflows/release.yml", "-P", "ubuntu-latest=-self-hosted"]
    assert [word for word in words[6:] if word.startswith("--")] == ["--artifact-server-path", "--input", "--input"]
    works = tmp_path / "works"
    run = act("release", words[1], inputs=asked, WORK=str(works))
    assert run.returncode == 0, run.log
    assert "| tiny-gemma4-16e | Q6_K | 205 → 211 of 240 |" in run.summary
    assert "## tiny-gemma4-4e: rehearse\n```\n" in run.summary
    assert run.outputs["name"] == "tiny-gemma4-4e"
    kept = run.artifact("release")
    assert kept["tiny-gemma4-4e/report.html"] == Path(run.outputs["report"]).read_bytes()
    assert kept["tiny-gemma4-4e/report.html"].startswith(b"<!DOCTYPE html>")
    assert {"README.md", "README.gguf.md", "results.md"} <= {Path(path).name for path in kept}
    assert not any("ledger" in path or "evidence" in path for path in kept)
    lock = json.loads(kept["tiny-gemma4-4e/tiny-gemma4-4e.lock.json"])
    committed = json.loads((ROOT / "manifests/tiny-gemma4-4e.lock.json").read_text())
    assert lock["outputs"].keys() == committed["outputs"].keys()
    *settings, path = documented("MANIFEST=")
    again = script(Path(path).stem, **dict(each.split("=") for each in settings))  # in the work folder that act left
    assert again.returncode == 0, again.stdout + again.stderr
    assert "| tiny-gemma4-16e | Q6_K | 205 → 211 of 240 |" in again.stdout


def test_release_refuses_another_mode_before_it_builds(act: Act, tmp_path: Path) -> None:
    inputs = {"manifest": "manifests/tiny-gemma4-4e.yaml", "mode": "yolo"}
    run = act("release", "workflow_dispatch", inputs=inputs, WORK=str(tmp_path / "works"))
    assert run.returncode != 0
    assert any("MODE is 'yolo'" in line for line in run.lines), run.log
    assert not (tmp_path / "works").exists()


def test_cards_are_rendered_again_and_kept(act: Act) -> None:
    run = act("cards", "workflow_dispatch", MANIFESTS="manifests/gemma-4-A4B-109e-v3.yaml")
    assert run.returncode == 0, run.log
    golden = ROOT / "tests/release/card/golden/gemma-4-A4B-109e-v3/README.md"
    assert run.artifact("cards")["gemma-4-A4B-109e-v3/draft/README.md"] == golden.read_bytes()


def test_what_a_failed_run_made_is_kept_too(act: Act, tmp_path: Path) -> None:
    manifest = write_small_release(tmp_path)
    first = act("cards", "workflow_dispatch", MANIFESTS=str(manifest))
    assert first.returncode == 0, first.log
    lock = manifest.with_suffix("").with_suffix(".lock.json")
    spoil_lock(lock, "card/README.md")
    run = act("cards", "workflow_dispatch", MANIFESTS=str(manifest))
    assert run.returncode != 0
    assert "card/README.md (changed)" in "\n".join(run.lines)
    assert run.artifact("cards")["packaged-4e/card/README.md"].startswith(b"---\n")
