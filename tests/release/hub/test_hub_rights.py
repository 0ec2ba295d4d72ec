"""A Hub that knows its users: private repos are their members', gated ones are for those who accepted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from huggingface_hub import HfApi as HubClient
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from pruner.errors import UnavailableError
from release.hub.datasets import dataset_file
from release.hub.endpoint import HubTarget
from release.hub.local import LocalHub
from tests.release.hub.releases import PATIENCE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REPO = "org/model"
USERS = {
    "alice": {"orgs": ["org"]},
    "bob": {"orgs": ["other"]},
    "carol": {"role": "read", "accepted": [REPO, "org/exam"]},
}


def token_of(name: str) -> str:
    return f"hf_{name * 8}"[:40].ljust(40, "x")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    folder = tmp_path / "hub"
    with LocalHub(folder):
        pass
    users = {hashlib.sha256(token_of(name).encode()).hexdigest(): {"name": name, **user} for name, user in USERS.items()}
    (folder / "tokens.json").write_text(json.dumps(users))
    with LocalHub(folder) as running:
        yield running


def as_user(hub: LocalHub, name: str) -> HfApi:
    return HubClient(endpoint=hub.endpoint, token=token_of(name))


@pytest.fixture
def alice(hub: LocalHub) -> HfApi:
    api = as_user(hub, "alice")
    api.create_repo(REPO, private=True)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=REPO)
    api.upload_file(path_or_fileobj=b"y", path_in_repo="a.gguf", repo_id=REPO)
    return api


@pytest.mark.parametrize("name", ["bob", "carol"])
def test_a_private_repo_is_its_members_alone(hub: LocalHub, alice: HfApi, name: str) -> None:
    api = as_user(hub, name)
    for ask in (api.model_info, api.list_repo_files, api.list_repo_refs, api.get_repo_discussions):
        with pytest.raises(RepositoryNotFoundError):
            list(ask(REPO))  # type: ignore[operator]
    assert not api.repo_exists(REPO)
    assert list(api.list_models(author="org")) == []
    assert [each.id for each in alice.list_models(author="org")] == [REPO]
    headers = {"Authorization": f"Bearer {token_of(name)}"}
    batch = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": "a" * 64, "size": 1}]}
    address = f"{hub.endpoint}/{REPO}.git/info/lfs/objects/batch"
    assert httpx.post(address, headers=headers, json=batch, timeout=PATIENCE).status_code == (403 if name == "carol" else 404)


@pytest.mark.parametrize("path", ["a.txt", "a.gguf"])
def test_a_gated_repo_is_read_by_members_and_by_who_accepted(hub: LocalHub, alice: HfApi, tmp_path: Path, path: str) -> None:
    alice.update_repo_settings(REPO, gated="manual", private=False)
    for name in ("alice", "carol"):
        assert as_user(hub, name).hf_hub_download(REPO, path, local_dir=tmp_path / name)
    bob = as_user(hub, "bob")
    assert bob.model_info(REPO).gated == "manual"
    with pytest.raises(GatedRepoError) as refused:
        bob.hf_hub_download(REPO, path, local_dir=tmp_path / "bob")
    assert refused.value.response.status_code == 403
    route = f"{hub.endpoint}/api/models/{REPO}/xet-read-token/{bob.model_info(REPO).sha}"
    assert httpx.get(route, headers={"Authorization": f"Bearer {token_of('bob')}"}, timeout=PATIENCE).status_code == 403


def test_a_token_that_did_not_accept_is_told_where(hub: LocalHub) -> None:
    owner = as_user(hub, "alice")
    owner.create_repo("org/exam", repo_type="dataset")
    owner.upload_file(path_or_fileobj=b"q\n", path_in_repo="q.csv", repo_id="org/exam", repo_type="dataset")
    owner.update_repo_settings("org/exam", repo_type="dataset", gated="auto", private=False)
    commit = str(owner.dataset_info("org/exam").sha)
    with pytest.raises(UnavailableError, match=f"is gated: open {hub.endpoint}/datasets/org/exam, log in and accept its terms"):
        dataset_file(HubTarget(hub.endpoint, token_of("bob")), "org/exam", commit, "q.csv")
    assert dataset_file(HubTarget(hub.endpoint, token_of("carol")), "org/exam", commit, "q.csv").read_bytes() == b"q\n"


def test_a_private_collection_is_its_members_alone(hub: LocalHub, alice: HfApi) -> None:
    slug = alice.create_collection("Ours", namespace="org", private=True).slug
    assert [each.slug for each in alice.list_collections(owner="org")] == [slug]
    assert list(as_user(hub, "bob").list_collections(owner="org")) == []
