"""Jobs that are written down and never run, and collections, through the real client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from pruner.files import sha256_bytes
from release.hub.local import LocalHub
from tests.release.hub.releases import PATIENCE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SECRET = "hf_" + "Sx9" * 12


def submit(api: HfApi, **changes: object) -> str:
    options = {"image": "python:3.12", "command": ["moe-release", "analyze", "m.yaml"], "flavor": "cpu-basic", "timeout": "2h"}
    job = api.run_job(**{**options, **changes}, namespace="org", secrets={"HF_TOKEN": SECRET}, labels={"shard": "1"})
    return str(job.id)


def test_a_job_is_recorded_as_it_was_sent_without_its_secrets(hub: LocalHub, api: HfApi) -> None:
    from huggingface_hub import Volume

    number = submit(api, env={"N": "1"}, volumes=[Volume(type="model", source="org/base", mount_path="/base")])
    written = json.loads((hub.folder / "jobs" / "org" / f"{number}.json").read_text())
    assert written["command"] == ["moe-release", "analyze", "m.yaml"]
    assert (written["dockerImage"], written["flavor"], written["timeoutSeconds"]) == ("python:3.12", "cpu-basic", 7200)
    assert (written["environment"], written["secrets"]) == ({"N": "1"}, {"HF_TOKEN": None})
    assert written["volumes"][0]["source"] == "org/base"
    for file in hub.folder.rglob("*.json"):
        assert SECRET not in file.read_text()


def test_jobs_are_listed_inspected_and_cancelled(tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    with LocalHub(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        first, second = submit(api), submit(api, command=["true"])
    with LocalHub(tmp_path / "hub") as hub:  # it survives a restart
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.cancel_job(job_id=first, namespace="org")
        job = api.inspect_job(job_id=first, namespace="org")
        assert (job.status.stage, job.owner.name, job.initiator.name) == ("CANCELED", "org", "local")
        assert {each.id for each in api.list_jobs(namespace="org", labels={"shard": "1"})} == {first, second}
        assert [each.id for each in api.list_jobs(namespace="org", status="scheduling")] == [second]
        assert list(api.list_jobs(namespace="org", labels={"shard": "2"})) == []


@pytest.mark.parametrize(
    "body",
    [
        {"command": ["x"], "flavor": "f"},
        {"dockerImage": "i", "spaceId": "s", "command": ["x"], "flavor": "f"},
        {"dockerImage": "i", "command": [], "flavor": "f"},
        {"dockerImage": "i", "command": "x", "flavor": "f"},
        {"dockerImage": "i", "command": [7], "flavor": "f"},
        {"dockerImage": "i", "command": ["x"]},
        {"dockerImage": "i", "command": ["x"], "flavor": "f", "timeoutSeconds": -1},
        {"dockerImage": "i", "command": ["x"], "flavor": "f", "environment": {"a": ["b"]}},
    ],
)
def test_an_impossible_job_is_refused(hub: LocalHub, body: dict[str, object]) -> None:
    headers = {"Authorization": f"Bearer {hub.token}"}
    assert httpx.post(f"{hub.endpoint}/api/jobs/org", json=body, headers=headers, timeout=PATIENCE).status_code == 400
    for name in ("..%2F..%2Fx", "%2e%2e"):
        assert httpx.post(f"{hub.endpoint}/api/jobs/{name}", json=body, headers=headers, timeout=PATIENCE).status_code in (
            400,
            404,
        )
    assert not (hub.folder / "jobs").exists()


def test_collections_hold_repos(hub: LocalHub, api: HfApi) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api.create_repo("org/model")
    made = api.create_collection("Pruned & small", namespace="org", description="all of them", private=True)
    assert made.slug.startswith("org/pruned-small-")
    assert api.create_collection("Pruned & small", namespace="org", exists_ok=True).slug == made.slug
    filled = api.add_collection_item(made.slug, "org/model", "model", note="the first")
    assert [(item.item_id, item.item_type, item.note, item.position) for item in filled.items] == [
        ("org/model", "model", "the first", 0)
    ]
    assert len(api.add_collection_item(made.slug, "org/model", "model", exists_ok=True).items) == 1
    with pytest.raises(HfHubHTTPError) as caught:
        api.add_collection_item(made.slug, "org/gone", "model")
    assert caught.value.response.status_code == 404
    stranger = HfApi(endpoint=hub.endpoint, token=False)
    assert list(stranger.list_collections(owner="org")) == []
    assert api.update_collection_metadata(made.slug, private=False).private is False
    assert [each.slug for each in stranger.list_collections(owner="org", item="models/org/model")] == [made.slug]
    api.delete_collection_item(made.slug, filled.items[0].item_object_id)
    assert api.get_collection(made.slug).items == []
    with pytest.raises(HfHubHTTPError):
        stranger.delete_collection(made.slug)
    api.delete_collection(made.slug)
    api.delete_collection(made.slug, missing_ok=True)


def test_a_user_writes_only_into_its_own_namespaces(tmp_path: Path) -> None:
    """Others may propose: a pull request is open to everybody whose token may write."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    tokens = {name: "hf_" + name[0] * 34 for name in ("ann", "bob")}
    folder = tmp_path / "hub"
    with LocalHub(folder):
        pass
    users = {"ann": {"name": "ann", "orgs": ["org"]}, "bob": {"name": "bob"}}
    table = {sha256_bytes(tokens[name].encode()): user for name, user in users.items()}
    (folder / "tokens.json").write_text(json.dumps(table))
    with LocalHub(folder) as hub:
        ann, bob = (HfApi(endpoint=hub.endpoint, token=token) for token in tokens.values())
        ann.create_repo("org/m")
        assert [org["name"] for org in ann.whoami()["orgs"]] == ["org"]
        change = [CommitOperationAdd("a.txt", b"1")]
        refused = [
            lambda: bob.create_repo("org/n"),
            lambda: bob.create_commit("org/m", [CommitOperationAdd("a.txt", b"1")], commit_message="m"),
            lambda: bob.create_tag("org/m", tag="v1"),
            lambda: bob.update_repo_settings("org/m", private=True),
            lambda: bob.delete_repo("org/m"),
            lambda: bob.move_repo("org/m", "bob/m"),
            lambda: bob.create_collection("mine", namespace="org"),
            lambda: bob.run_job(image="i", command=["x"], namespace="org"),
        ]
        for attempt in refused:
            with pytest.raises(HfHubHTTPError) as caught:
                attempt()
            assert caught.value.response.status_code == 403
        assert bob.create_commit("org/m", change, commit_message="m", create_pr=True).pr_num == 1
        with pytest.raises(HfHubHTTPError):
            bob.merge_pull_request("org/m", 1)
        ann.merge_pull_request("org/m", 1)
        assert ann.file_exists("org/m", "a.txt")
