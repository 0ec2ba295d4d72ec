"""Publishing for real, after the cut: rehearsals, pull requests, promotion, an older release, a planted token."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from release.hub.local import LocalHub
from tests.end_to_end.conftest import MANIFEST, Release, run_command
from tests.release.hub.releases import Faults

if TYPE_CHECKING:
    from huggingface_hub import HfApi

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub 2.4.0's own
WEIGHTS = "moe-release/tiny-gemma4-4e"
GGUF = f"{WEIGHTS}-GGUF"


class Copy:
    """The finished work folder and its manifests, copied, and a Hub that a URL leads to."""

    def __init__(self, release: Release, folder: Path, hub: LocalHub) -> None:
        self.work, self.manifests, self.hub = folder / "work", folder / "manifests", hub
        shutil.copytree(release.manifests, self.manifests)
        shutil.copytree(release.work, self.work, ignore=shutil.ignore_patterns(".lock"))
        self.manifest = self.manifests / MANIFEST
        self.environment = {"HF_TOKEN": hub.token, "HF_HOME": str(folder / "home")}

    def declare(self, **lines: str) -> None:
        """Change settings of the manifest's publish section."""
        text = self.manifest.read_text()
        for key, value in lines.items():
            text = re.sub(rf"(?m)^  {key}: .*\n", "", text)
            text = text.replace("publish:\n", f"publish:\n  {key}: {value}\n")
        self.manifest.write_text(text)

    def run(self, command: str, *words: str, check: bool = True) -> str:
        result = run_command(
            command, self.manifest, "--work", self.work, "--hub", self.hub.endpoint, *words, check=check, **self.environment
        )
        return result.stdout + result.stderr

    @property
    def api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.hub.endpoint, token=self.hub.token)


@pytest.fixture
def copy(release: Release, tmp_path: Path) -> Iterator[Copy]:
    with LocalHub(tmp_path / "real-hub") as hub:
        yield Copy(release, tmp_path, hub)


def test_private_first_then_promoted(copy: Copy) -> None:
    copy.api.create_repo("moe-release/older")
    copy.declare(private="true", gated="auto", collection="Tiny ones", supersedes="moe-release/older")
    hint = f"private    until `moe-release promote {copy.manifest} --work {copy.work} --hub {copy.hub.endpoint}`"
    assert hint in copy.run("publish")
    assert [copy.api.model_info(repo).private for repo in (WEIGHTS, GGUF)] == [True, True]
    assert list(copy.api.list_collections(owner="moe-release")) == []
    assert list(copy.api.get_repo_discussions("moe-release/older")) == []
    said = copy.run("promote")
    assert f"{WEIGHTS} is public now; {GGUF} is public now" in said
    assert [(info.private, info.gated) for info in map(copy.api.model_info, (WEIGHTS, GGUF))] == [(False, "auto")] * 2
    (collection,) = copy.api.list_collections(owner="moe-release")
    assert [item.item_id for item in copy.api.get_collection(collection.slug).items] == [WEIGHTS, GGUF]
    (proposed,) = copy.api.get_repo_discussions("moe-release/older")
    assert (proposed.title, proposed.status) == (f"new_version: {WEIGHTS}", "open")
    assert "is public now" not in copy.run("promote")
    assert "private " not in copy.run("publish")
    assert len(list(copy.api.get_repo_discussions("moe-release/older"))) == 1


def test_what_llama_server_cannot_load_is_shown_to_nobody(release: Release, tmp_path: Path) -> None:
    faults = Faults()
    with LocalHub(tmp_path / "real-hub", wrap=faults) as hub:
        copy = Copy(release, tmp_path, hub)
        faults.before = lambda _method, path: 403 if "/resolve/" in path and path.endswith(".gguf") else None
        said = copy.run("publish", check=False)
        assert "llama-server" in said.splitlines()[-1]
        assert [copy.api.model_info(repo).private for repo in (WEIGHTS, GGUF)] == [True, True]
        faults.before = lambda _method, _path: None
        copy.run("publish")
        assert [copy.api.model_info(repo).private for repo in (WEIGHTS, GGUF)] == [False, False]


def test_what_was_damaged_on_the_hub_is_not_promoted(copy: Copy) -> None:
    copy.declare(private="true")
    copy.run("publish")
    copy.api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\nother\n", path_in_repo="README.md", repo_id=GGUF)
    assert "README.md (sha256" in copy.run("promote", check=False)
    assert [copy.api.model_info(repo).private for repo in (WEIGHTS, GGUF)] == [True, True]


def test_a_file_that_takes_the_tag_of_a_quant_keeps_a_release_private(copy: Copy) -> None:
    copy.declare(private="true")
    copy.run("publish")
    copy.api.upload_file(path_or_fileobj=b"GGUF", path_in_repo="a-Q6_K.gguf", repo_id=GGUF)
    said = copy.run("promote", check=False)
    assert "a-Q6_K.gguf" in said
    assert "nothing was made public" in said
    assert [copy.api.model_info(repo).private for repo in (WEIGHTS, GGUF)] == [True, True]


TIMING = "reproduce/timing/Q6_K.json"


def published(copy: Copy, path: str) -> bytes:
    local = copy.api.hf_hub_download(WEIGHTS, path, local_dir=copy.work.parent / "read", force_download=True)
    return Path(local).read_bytes()


def slower(copy: Copy) -> None:
    """Another build of the same release: the same replies, each a second later."""
    run = copy.work / "eval" / "Q6_K"
    header, *replies = (run / "ledger.jsonl").read_text().splitlines(keepends=True)
    later = [{**reply, "seconds": reply["seconds"] + 1} for reply in map(json.loads, replies)]
    (run / "ledger.jsonl").write_text(header + "".join(json.dumps(reply, sort_keys=True) + "\n" for reply in later))
    (run / "timing.json").unlink()


def test_another_build_with_other_seconds_changes_nothing_on_the_hub(copy: Copy) -> None:
    copy.run("publish")
    head, first = copy.api.model_info(WEIGHTS).sha, published(copy, TIMING)
    assert first == (copy.work / "eval/Q6_K/timing.json").read_bytes()
    assert copy.run("publish").count("nothing to change") >= 2, "from an unchanged work folder"
    slower(copy)
    assert copy.run("publish").count("nothing to change") >= 2
    assert copy.api.model_info(WEIGHTS).sha == head
    assert (copy.work / "eval/Q6_K/timing.json").read_bytes() != first == published(copy, TIMING)
    assert "files as locked" in copy.run("promote")


def test_seconds_that_somebody_changed_on_the_hub_are_replaced(copy: Copy) -> None:
    copy.run("publish")
    tampered = published(copy, TIMING).replace(b'"raw": 0.', b'"raw": 9.')
    copy.api.upload_file(path_or_fileobj=tampered, path_in_repo=TIMING, repo_id=WEIGHTS)
    slower(copy)
    copy.declare(tag="v2")  # the cards name it, so it is another release
    copy.run("publish", "--update-lock")
    ours = (copy.work / "eval/Q6_K/timing.json").read_bytes()
    assert published(copy, TIMING) == ours
    assert published(copy, "reproduce/lock.json") == (copy.work / "lock.json").read_bytes()


def test_a_release_as_pull_requests(copy: Copy) -> None:
    for repo in (WEIGHTS, GGUF):
        copy.api.create_repo(repo)
    said = copy.run("publish", "--pr")
    assert said.count("as pull request 1") == 2
    for repo in (WEIGHTS, GGUF):
        (proposed,) = copy.api.get_repo_discussions(repo)
        assert (proposed.num, proposed.status) == (1, "open")
        assert copy.api.list_repo_files(repo) == [".gitattributes"]
        copy.api.merge_pull_request(repo, 1)
    assert copy.run("publish").count("nothing to change") >= 2
    assert "v1" in [tag.name for tag in copy.api.list_repo_refs(WEIGHTS).tags]


def test_a_tag_that_is_taken_in_the_second_repository_stops_before_the_first(copy: Copy) -> None:
    copy.run("publish")
    copy.api.delete_repo(WEIGHTS)
    copy.api.delete_file("README.md", GGUF)
    copy.api.delete_tag(GGUF, tag="v1")
    copy.api.create_tag(GGUF, tag="v1")
    said = copy.run("publish", check=False)
    assert f"{GGUF}: the tag v1 names commit " in said
    assert not copy.api.repo_exists(WEIGHTS)


def test_a_rehearsal_says_what_the_real_release_will_do_and_changes_nothing(copy: Copy, tmp_path: Path) -> None:
    copy.api.create_repo(WEIGHTS)
    copy.api.upload_file(path_or_fileobj=b"theirs", path_in_repo="notes.txt", repo_id=WEIGHTS)
    before = copy.api.model_info(WEIGHTS).sha
    (copy.manifests / "tiny-gemma4-4e.lock.json").unlink()
    scratch = tmp_path / "scratch"
    report = json.loads(run_rehearsal(copy, scratch))
    weights, gguf = report["repositories"]
    assert (weights["exists"], weights["stay"], gguf["exists"]) == (True, [".gitattributes", "notes.txt"], False)
    assert report["new_bytes"] == weights["new"]["bytes"] + gguf["new"]["bytes"] > 1_000_000
    assert (report["problems"], report["unknown"]) == ([], [])
    assert copy.api.model_info(WEIGHTS).sha == before
    assert not copy.api.repo_exists(GGUF)
    assert not (copy.manifests / "tiny-gemma4-4e.lock.json").exists()
    assert (scratch / "hub" / "repos").is_dir()
    copy.run("publish")
    again = json.loads(run_rehearsal(copy, scratch))
    assert again["new_bytes"] == 0
    assert [each["there"]["files"] for each in again["repositories"]] == [each["files"] for each in again["repositories"]]
    copy.api.delete_tag(WEIGHTS, tag="v1")
    copy.api.delete_file("notes.txt", WEIGHTS)
    copy.api.delete_file("README.md", WEIGHTS)
    copy.api.create_tag(WEIGHTS, tag="v1")
    assert "PROBLEM" in run_rehearsal(copy, scratch, "", check=False)


def run_rehearsal(copy: Copy, scratch: Path, form: str = "--json", *, check: bool = True) -> str:
    words = [copy.manifest, "--work", copy.work, "--scratch", scratch, "--hub", copy.hub.endpoint, *([form] if form else [])]
    result = run_command("rehearse", *words, check=check, **copy.environment)
    assert result.returncode == (0 if check else 1)
    return result.stdout


def test_a_planted_token_is_refused_with_its_line(copy: Copy) -> None:
    prose = copy.manifests / "tiny-gemma4-4e.md"
    secret = "hf_" + "Ab" * 20
    prose.write_text(f"{prose.read_text()}\nUse {secret} to log in.\n")
    said = copy.run("publish", "--update-lock", check=False)
    assert re.search(r"README\.md:\d+ holds a Hugging Face token, reproduce/tiny-gemma4-4e\.md:\d+ holds", said)
    assert secret not in said
    assert not copy.api.repo_exists(WEIGHTS)


def test_rights_are_refused_before_anything_is_built(copy: Copy, tmp_path: Path) -> None:
    (copy.hub.folder / "tokens.json").write_text("{}")
    copy.hub.close()
    with LocalHub(copy.hub.folder) as hub:
        copy.hub = hub
        said = copy.run("cut", "--work", str(tmp_path / "fresh"), check=False)
    assert "preflight checks" in said
    assert "may not ask whose token this is" in said
    assert not (tmp_path / "fresh" / "records" / "analyze.json").exists()


def test_reproduce_is_enough_for_a_stranger(copy: Copy, tmp_path: Path) -> None:
    """Only `reproduce/` is fetched; with the base, its page's first commands give the published weights."""
    copy.run("publish")
    folder = Path(copy.api.snapshot_download(WEIGHTS, allow_patterns="reproduce/*", local_dir=tmp_path / "stranger"))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts}
    assert names >= {
        "reproduce/README.md",
        "reproduce/SHA256SUMS",
        "reproduce/claims.json",
        "reproduce/drop_map.json",
        "reproduce/evidence/Q4_K_M.json",
        "reproduce/evidence/Q6_K.json",
        "reproduce/timing/Q4_K_M.json",
        "reproduce/timing/Q6_K.json",
        "reproduce/lock.json",
        "reproduce/manifest.yaml",
        "reproduce/protocol.yaml",
        "reproduce/protocols/tiny-exam.yaml",
        "reproduce/tiny-gemma4-4e.md",
        "reproduce/tiny/evidence/tiny-gemma4-16e-Q6_K.json",
    }
    assert not [name for name in names if "exam/" in name or name.endswith((".jsonl", ".txt"))], "no question is copied"
    page = (folder / "reproduce" / "README.md").read_text()
    words = page.split("```\n")[1].splitlines()[0].split()[1:]
    here = {"BASE_FOLDER": str(copy.manifests / "tiny/model"), "rebuilt": str(tmp_path / "rebuilt")}
    here["reproduce/drop_map.json"] = str(folder / "reproduce/drop_map.json")
    run_command(*(here.get(word, word) for word in words))
    run_command("verify", tmp_path / "rebuilt", "--against", folder / "reproduce" / "SHA256SUMS")
    listed = {line.split("  ")[1] for line in (folder / "reproduce/SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in (tmp_path / "rebuilt").iterdir()}
