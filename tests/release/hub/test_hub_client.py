"""The real huggingface_hub client and `hf` against the rehearsal Hub, over sockets and with files on disk."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pruner.files import git_blob_id, sha256_bytes, sha256_file
from release.hub.local import LocalHub
from tests.release.hub.releases import PATIENCE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REPO = "org/model"
CARD = b"---\nlicense: apache-2.0\ntags: [pruned]\n---\n# Card\n"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(random.Random(1).randbytes(2_500_000))
    return path


@pytest.fixture
def published(api: HfApi, weights: Path) -> str:
    """A repo with a card, a large file and a file in a folder; returns the commit."""
    from huggingface_hub import CommitOperationAdd

    api.create_repo(REPO)
    operations = [
        CommitOperationAdd("README.md", CARD),
        CommitOperationAdd("model.safetensors", weights),
        CommitOperationAdd("reproduce/plan.json", b"{}\n"),
    ]
    return str(api.create_commit(REPO, operations, commit_message="first", parent_commit=api.model_info(REPO).sha).oid)


def test_who_am_i_names_the_local_user(api: HfApi) -> None:
    assert api.whoami()["name"] == "local"


def test_create_repo_twice_is_a_conflict_unless_it_may_exist(api: HfApi) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    first = api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True) == first
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo(REPO)
    assert caught.value.response.status_code == 409


def test_a_repo_without_namespace_belongs_to_the_user(api: HfApi) -> None:
    assert api.create_repo("mine").repo_id == "local/mine"


def test_model_info_shows_sizes_and_digests(api: HfApi, published: str, weights: Path) -> None:
    info = api.model_info(REPO, files_metadata=True)
    assert info.sha == published
    assert len(published) == 40
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    assert sorted(siblings) == [".gitattributes", "README.md", "model.safetensors", "reproduce/plan.json"]
    large = siblings["model.safetensors"].lfs
    assert large is not None
    assert (large.sha256, large.size) == (sha256_file(weights), 2_500_000)
    assert siblings["README.md"].lfs is None
    assert siblings["README.md"].blob_id == git_blob_id(CARD)
    assert info.card_data is not None
    assert info.card_data.license == "apache-2.0"


def test_git_agrees_with_the_blob_ids(api: HfApi, published: str, tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.write_bytes(CARD)
    found = subprocess.run(["git", "hash-object", card], capture_output=True, text=True, check=True).stdout.strip()
    (info,) = api.get_paths_info(REPO, ["README.md"])
    assert info.blob_id == found


def test_snapshot_download_brings_the_same_bytes(api: HfApi, published: str, weights: Path, tmp_path: Path) -> None:
    folder = Path(api.snapshot_download(REPO, cache_dir=tmp_path / "cache"))
    assert (folder / "model.safetensors").read_bytes() == weights.read_bytes()
    assert (folder / "README.md").read_bytes() == CARD
    assert (folder / "reproduce" / "plan.json").read_bytes() == b"{}\n"
    verified = api.verify_repo_checksums(REPO, cache_dir=tmp_path / "cache")
    assert (verified.checked_count, verified.mismatches) == (4, [])


def test_a_cut_download_is_resumed_by_range(api: HfApi, published: str, weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "download"
    etag = sha256_file(weights)
    blobs = target / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    half = bytearray(weights.read_bytes()[:1_000_000])
    half[:4] = b"MARK"  # would be overwritten if the whole file were fetched again
    (blobs / f"{etag}.incomplete").write_bytes(half)
    result = Path(api.hf_hub_download(REPO, "model.safetensors", cache_dir=target)).read_bytes()
    assert result[4:] == weights.read_bytes()[4:]


@pytest.mark.parametrize(
    ("wanted", "status", "start", "stop"),
    [("bytes=0-9", 206, 0, 10), ("bytes=2499990-", 206, 2_499_990, 2_500_000), ("bytes=-5", 206, 2_499_995, 2_500_000)],
)
def test_storage_serves_ranges(
    api: HfApi, published: str, weights: Path, wanted: str, status: int, start: int, stop: int
) -> None:
    import httpx

    url = f"{api.endpoint}/{REPO}/resolve/main/model.safetensors"
    location = httpx.get(url, timeout=PATIENCE).headers["Location"]
    assert not location.startswith(api.endpoint)
    answer = httpx.get(location, headers={"Range": wanted}, timeout=PATIENCE)
    assert answer.status_code == status
    assert answer.content == weights.read_bytes()[start:stop]
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/2500000"
    assert httpx.get(location, headers={"Range": "bytes=2500000-"}, timeout=PATIENCE).status_code == 416


def test_a_missing_file_and_revision_have_their_own_errors(api: HfApi, published: str) -> None:
    from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(REPO, "nothing.txt")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="v9")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="0" * 40)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/other")


def test_tags_name_commits_and_exist_once(api: HfApi, published: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    api.create_tag(REPO, tag="v1", tag_message="first")
    assert api.model_info(REPO, revision="v1").sha == published
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_tag(REPO, tag="v1")
    assert caught.value.response.status_code == 409
    api.create_tag(REPO, tag="v1", exist_ok=True)
    api.delete_tag(REPO, tag="v1")
    assert api.list_repo_refs(REPO).tags == []


def test_branches_are_independent(api: HfApi, published: str) -> None:
    api.create_branch(REPO, branch="feature/x")
    api.upload_file(path_or_fileobj=b"1", path_in_repo="new.txt", repo_id=REPO, revision="feature/x")
    assert api.model_info(REPO).sha == published
    assert api.file_exists(REPO, "new.txt", revision="feature/x")
    assert not api.file_exists(REPO, "new.txt")
    assert [branch.name for branch in api.list_repo_refs(REPO).branches] == ["feature/x", "main"]
    api.delete_branch(REPO, branch="feature/x")


def test_a_stale_parent_is_refused_with_412(api: HfApi, published: str) -> None:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    moved = api.upload_file(path_or_fileobj=b"1", path_in_repo="new.txt", repo_id=REPO).oid
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_commit(REPO, [CommitOperationAdd("b", b"2")], commit_message="late", parent_commit=published)
    assert caught.value.response.status_code == 412
    assert api.model_info(REPO).sha == moved


def test_a_commit_that_changes_nothing_makes_no_commit(api: HfApi, published: str, weights: Path) -> None:
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd("README.md", CARD), CommitOperationAdd("model.safetensors", weights)]
    assert api.create_commit(REPO, operations, commit_message="again").oid == published
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["first", "initial commit"]


def test_delete_and_copy(api: HfApi, published: str, weights: Path) -> None:
    from huggingface_hub import CommitOperationCopy, CommitOperationDelete

    operations = [
        CommitOperationCopy("model.safetensors", "copy.safetensors"),
        CommitOperationDelete("reproduce/"),
        CommitOperationDelete("README.md"),
    ]
    api.create_commit(REPO, operations, commit_message="move")
    assert api.list_repo_files(REPO) == [".gitattributes", "copy.safetensors", "model.safetensors"]
    (copy,) = api.get_paths_info(REPO, ["copy.safetensors"])
    assert copy.lfs.sha256 == sha256_file(weights)


def test_bad_card_metadata_stops_the_commit(api: HfApi, published: str) -> None:
    with pytest.raises(ValueError, match="must be a text or a list of texts"):
        api.upload_file(path_or_fileobj=b"---\ntags: 7\n---\n", path_in_repo="README.md", repo_id=REPO)
    with pytest.raises(ValueError, match=r"README\.md:4"):
        api.upload_file(path_or_fileobj=b"---\na: 1\n\nb: : 2\n---\n", path_in_repo="README.md", repo_id=REPO)
    assert api.model_info(REPO).sha == published


def test_tree_pages_and_last_commits(tmp_path: Path) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi, RepoFile

    from release.hub.server.call import Settings

    with LocalHub(tmp_path / "hub", settings=Settings(page_size=4)) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo(REPO)
        paths = [f"folder/f{number:02d}.txt" for number in range(10)]
        api.create_commit(REPO, [CommitOperationAdd(path, path.encode()) for path in paths], commit_message="ten")
        second = api.upload_file(path_or_fileobj=b"x", path_in_repo=paths[3], repo_id=REPO, commit_message="one").oid
        rows = [row for row in api.list_repo_tree(REPO, "folder", expand=True) if isinstance(row, RepoFile)]
        assert [row.path for row in rows] == paths
        assert [row.path for row in rows if row.last_commit and row.last_commit.oid == second] == [paths[3]]
        assert len(list(api.list_repo_tree(REPO))) == 2


def test_a_large_file_travels_in_parts(tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    from release.hub.server.call import Settings

    data = random.Random(2).randbytes(1_000_001)
    with LocalHub(tmp_path / "hub", settings=Settings(part_size=300_000, multipart_from=500_000)) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo(REPO)
        api.upload_file(path_or_fileobj=data, path_in_repo="a.gguf", repo_id=REPO)
        assert api.get_paths_info(REPO, "a.gguf")[0].lfs.sha256 == sha256_bytes(data)
        assert Path(api.hf_hub_download(REPO, "a.gguf", cache_dir=tmp_path / "cache")).read_bytes() == data
    assert list((tmp_path / "hub" / "partial").iterdir()) == []


def test_a_private_repo_needs_a_token(api: HfApi, tmp_path: Path) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api.create_repo(REPO, private=True)
    api.upload_file(path_or_fileobj=b"\0" * 100, path_in_repo="a.gguf", repo_id=REPO)
    stranger = HfApi(endpoint=api.endpoint, token=False)
    with pytest.raises(RepositoryNotFoundError):
        stranger.model_info(REPO)
    with pytest.raises(RepositoryNotFoundError):
        stranger.hf_hub_download(REPO, "a.gguf", cache_dir=tmp_path / "stranger")
    assert list(stranger.list_models()) == []
    assert Path(api.hf_hub_download(REPO, "a.gguf", cache_dir=tmp_path / "cache")).read_bytes() == b"\0" * 100
    api.update_repo_settings(REPO, private=False)
    assert stranger.model_info(REPO).private is False


def test_writing_needs_a_token(api: HfApi, published: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    stranger = HfApi(endpoint=api.endpoint, token=False)
    with pytest.raises(HfHubHTTPError) as caught:
        stranger.upload_file(path_or_fileobj=b"1", path_in_repo="a", repo_id=REPO)
    assert caught.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=api.endpoint, token="hf_short").whoami()
    assert api.model_info(REPO).sha == published


def test_tokens_file_names_users_and_roles(tmp_path: Path) -> None:
    import json

    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    writer, reader = ("hf_" + letter * 34 for letter in "ab")
    folder = tmp_path / "hub"
    with LocalHub(folder):
        pass
    users = {sha256_bytes(writer.encode()): {"name": "ann"}, sha256_bytes(reader.encode()): {"name": "bob", "role": "read"}}
    (folder / "tokens.json").write_text(json.dumps(users))
    with LocalHub(folder) as hub:
        api, other = (HfApi(endpoint=hub.endpoint, token=token) for token in (writer, reader))
        api.create_repo("ann/m", private=True)
        assert other.whoami()["name"] == "bob"
        assert (api.repo_exists("ann/m"), other.repo_exists("ann/m")) == (True, False)
        with pytest.raises(HfHubHTTPError) as caught:
            other.create_repo("bob/m")
        assert caught.value.response.status_code == 403
        with pytest.raises(HfHubHTTPError):
            HfApi(endpoint=hub.endpoint, token=hub.token).whoami()


def test_pull_request_is_verified_and_merged(api: HfApi, published: str) -> None:
    from huggingface_hub import CommitOperationAdd

    info = api.create_commit(REPO, [CommitOperationAdd("new.txt", b"1")], commit_message="add", create_pr=True)
    assert info.pr_num == 1
    assert api.model_info(REPO).sha == published
    assert api.file_exists(REPO, "new.txt", revision="refs/pr/1")
    details = api.get_discussion_details(REPO, 1)
    assert (details.status, details.title, details.conflicting_files) == ("open", "add", [])
    api.upload_file(path_or_fileobj=b"2", path_in_repo="other.txt", repo_id=REPO)
    api.merge_pull_request(REPO, 1)
    assert api.get_discussion_details(REPO, 1).status == "merged"
    assert {"new.txt", "other.txt"} <= set(api.list_repo_files(REPO))


def test_a_conflicting_pull_request_is_not_merged(api: HfApi, published: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    api.upload_file(path_or_fileobj=b"1", path_in_repo="same.txt", repo_id=REPO, create_pr=True)
    head = api.upload_file(path_or_fileobj=b"2", path_in_repo="same.txt", repo_id=REPO).oid
    assert api.get_discussion_details(REPO, 1).conflicting_files == ["same.txt"]
    with pytest.raises(HfHubHTTPError) as caught:
        api.merge_pull_request(REPO, 1)
    assert caught.value.response.status_code == 409
    assert api.model_info(REPO).sha == head
    api.change_discussion_status(REPO, 1, "closed")
    assert [(item.num, item.status) for item in api.get_repo_discussions(REPO)] == [(1, "closed")]


def test_an_empty_pull_request_starts_as_draft(api: HfApi, published: str) -> None:
    request = api.create_pull_request(REPO, title="Later", description="soon")
    assert (request.status, request.is_pull_request) == ("draft", True)
    api.comment_discussion(REPO, request.num, "a word")
    contents = [getattr(event, "content", None) for event in api.get_discussion_details(REPO, request.num).events]
    assert contents == ["soon", "a word"]


def test_data_sets_live_beside_models(api: HfApi, tmp_path: Path) -> None:
    api.create_repo(REPO, repo_type="dataset")
    api.upload_file(path_or_fileobj=b"a,b\n", path_in_repo="t.csv", repo_id=REPO, repo_type="dataset")
    api.upload_file(path_or_fileobj=b"PAR1", path_in_repo="t.parquet", repo_id=REPO, repo_type="dataset")
    assert not api.repo_exists(REPO)
    folder = Path(api.snapshot_download(REPO, repo_type="dataset", cache_dir=tmp_path / "cache"))
    assert (folder / "t.csv").read_bytes() == b"a,b\n"
    assert (folder / "t.parquet").read_bytes() == b"PAR1"


def test_move_and_delete_a_repo(api: HfApi, published: str) -> None:
    api.move_repo(REPO, "org/renamed")
    assert api.model_info("org/renamed").sha == published
    assert not api.repo_exists(REPO)
    api.delete_repo("org/renamed")
    assert list(api.list_models()) == []


def test_hf_command_downloads_and_uploads(hub: LocalHub, api: HfApi, published: str, weights: Path, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("hf")
    environment = {**os.environ, **hub.environment(), "HF_HOME": str(tmp_path / "home")}

    def hf(*words: str | Path) -> str:
        done = subprocess.run([command, *words], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "local" in hf("auth", "whoami")
    hf("download", REPO, "--local-dir", tmp_path / "local")
    assert (tmp_path / "local" / "model.safetensors").read_bytes() == weights.read_bytes()
    hf("upload", REPO, weights, "second.safetensors", "--commit-message", "by command")
    assert api.file_exists(REPO, "second.safetensors")
    assert hub.token not in hf("cache", "verify", REPO, "--local-dir", tmp_path / "local")
