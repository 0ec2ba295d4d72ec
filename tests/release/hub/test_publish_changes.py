"""What a publication removes, proposes, gates and announces; and what it asks before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import canonical_json, sha256_bytes
from pruner.progress import NoProgress
from release.hub.announce import collect, open_to_all, require_collection, set_gated, supersede, with_new_version
from release.hub.local import LocalHub
from release.hub.publication_plan import plan_publication
from release.hub.remote import remote_tree
from release.hub.rights import read_account, require_rights
from release.reports.publication import plan_json, plan_lines
from tests.release.hub.releases import CARD, REPO, Faults, Release, push, titles

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class Notes(NoProgress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def older(folder: Path) -> Release:
    """A release of four shards that says of itself what it holds."""
    made = Release(folder)
    outputs = {}
    for number in range(4):
        name = f"model-{number}.safetensors"
        made.add(name, bytes([number]) * 1000)
        outputs[f"weights/{name}"] = {"sha256": made.digests[name], "size": 1000}
    made.add("reproduce/evidence/Q6_K.json", b"[1]\n")
    outputs["eval/Q6_K/evidence.json"] = {"sha256": made.digests["reproduce/evidence/Q6_K.json"], "size": 4}
    made.add("reproduce/timing/Q6_K.json", b"[2]\n")
    outputs["eval/Q6_K/timing.json"] = {"sha256": made.digests["reproduce/timing/Q6_K.json"], "size": 4, "varies": True}
    made.add("pictures/old.svg", b"<svg/>")
    outputs["card/pictures/old.svg"] = {"sha256": made.digests["pictures/old.svg"], "size": 6}
    made.add("reproduce/lock.json", canonical_json({"outputs": outputs}))
    shards = [name for name in made.files if name.endswith((".safetensors", ".gguf"))]
    made.add("reproduce/SHA256SUMS", "".join(f"{made.digests[name]}  {name}\n" for name in shards).encode())
    return made


def test_stale_shards_of_our_older_release_go_and_nothing_else(
    hub: LocalHub, api: HfApi, release: Release, tmp_path: Path
) -> None:
    push(hub, older(tmp_path / "older"))
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="notes.txt", repo_id=REPO)
    api.upload_file(path_or_fileobj=b"mended by hand", path_in_repo="model-3.safetensors", repo_id=REPO)
    notes = Notes()
    plan = plan_publication(release.files, release.digests, api, REPO)
    shards = ("model-0.safetensors", "model-1.safetensors", "model-2.safetensors")
    stale = (*shards, "pictures/old.svg", "reproduce/evidence/Q6_K.json", "reproduce/timing/Q6_K.json")
    assert plan.stale == stale
    assert plan.foreign == (".gitattributes", "model-3.safetensors", "notes.txt", "reproduce/SHA256SUMS")
    push(hub, release, tag="v2", message="v2", progress=notes)
    assert set(api.list_repo_files(REPO)) == {*release.files, *plan.foreign}
    assert [note for note in notes.texts if "will be removed" in note] == [
        f"{REPO}: {path} will be removed (of an older release)" for path in stale
    ]
    assert titles(api)[0] == "v2"
    assert push(hub, release, tag="v2").changed is False


def test_a_hostile_list_of_digests_removes_nothing(hub: LocalHub, api: HfApi, release: Release) -> None:
    api.create_repo(REPO)
    evil = {"outputs": {"weights/../../x": {"sha256": "0" * 64}, "weights/a.txt": {"sha256": 7}, "eval/../evidence.json": None}}
    for path, data in {
        "reproduce/lock.json": json.dumps(evil).encode(),
        "reproduce/SHA256SUMS": b"\xff\n" + b"0" * 64 + b"  ../../etc/passwd\n" + b"0" * 64 + b"  a.txt\n",
        "a.txt": b"theirs",
    }.items():
        api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id=REPO)
    assert plan_publication(release.files, release.digests, api, REPO).stale == ()
    push(hub, release)
    assert api.file_exists(REPO, "a.txt")


def test_prune_remote_lists_what_it_removes_and_spares_statements_of_others(
    hub: LocalHub, api: HfApi, release: Release
) -> None:
    api.create_repo(REPO)
    for path in ("notes.txt", "old/weights.bin", "attestations/ann.json"):
        api.upload_file(path_or_fileobj=b"theirs", path_in_repo=path, repo_id=REPO)
    plan = plan_publication(release.files, release.digests, api, REPO, prune=True)
    assert plan.pruned == ("notes.txt", "old/weights.bin")
    assert any("--prune-remote removes: notes.txt, old/weights.bin" in line for line in plan_lines(plan, base_on_hub=False))
    notes = Notes()
    push(hub, release, prune_remote=True, progress=notes)
    assert [note for note in notes.texts if "--prune-remote" in note] == [
        f"{REPO}: notes.txt will be removed (--prune-remote)",
        f"{REPO}: old/weights.bin will be removed (--prune-remote)",
    ]
    assert set(api.list_repo_files(REPO)) == {".gitattributes", "attestations/ann.json", *release.files}
    assert push(hub, release, prune_remote=True).changed is False


def test_the_plan_counts_files_and_bytes(hub: LocalHub, api: HfApi, release: Release) -> None:
    push(hub, release)
    release.add("README.md", f"{CARD}more\n".encode())
    release.add("model.safetensors", b"\1" * 1000)
    plan = plan_publication(release.files, release.digests, api, REPO)
    report = plan_json(plan, base_on_hub=True)
    assert (report["files"], report["there"]["files"], report["new"]["files"]) == (5, 3, 2)
    assert report["new"]["bytes"] == plan.new_bytes == len(CARD) + 5 + 1000
    assert report["estimated_bytes"] == len(CARD) + 5 + 241
    assert plan.estimated_bytes(base_on_hub=False) == plan.new_bytes
    assert report["there"]["bytes"] + report["new"]["bytes"] == report["bytes"]


def test_a_strangers_weights_are_pointed_out(hub: LocalHub, api: HfApi, release: Release) -> None:
    api.create_repo(REPO)
    for path in ("pytorch_model.bin", "notes.txt"):
        api.upload_file(path_or_fileobj=b"theirs", path_in_repo=path, repo_id=REPO)
    plan = plan_publication(release.files, release.digests, api, REPO)
    *_, stays, read = plan_lines(plan, base_on_hub=False)
    assert stays == f"{REPO}: not of this release, stays: .gitattributes, notes.txt, pytorch_model.bin"
    assert read.endswith("and `verify` calls it BAD: pytorch_model.bin; see --prune-remote")


def test_refused_metadata_stops_before_any_upload(faulty: LocalHub, faults: Faults, release: Release) -> None:
    release.add("README.md", b"---\ntags: 7\n---\n# Card\n")
    with pytest.raises(CheckFailedError, match=r'README\.md: the Hub refuses its metadata: "tags" must be'):
        push(faulty, release)
    assert not [path for method, path in faults.seen if method == "PUT" or "/preupload/" in path]


@pytest.mark.parametrize("text", ["[]", "{a: 1}", "- dataset: {id: a/b}\n  value: 1\n", "- [", "7"])
def test_results_that_do_not_parse_stop_before_any_upload(hub: LocalHub, api: HfApi, release: Release, text: str) -> None:
    release.add(".eval_results/gpqa.yaml", text.encode())
    with pytest.raises(CheckFailedError, match=r"\.eval_results/gpqa\.yaml: .*list of results"):
        push(hub, release)
    assert not api.repo_exists(REPO)


def test_results_are_read_back(hub: LocalHub, release: Release) -> None:
    entry = b"- dataset: {id: Idavidrein/gpqa, task_id: gpqa_diamond}\n  value: 71.5\n"
    release.add(".eval_results/gpqa.yaml", entry)
    assert push(hub, release).changed


def test_a_repo_is_born_private_and_gated_before_its_files(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release
) -> None:
    push(faulty, release, gated="manual")
    info = faulty_api.model_info(REPO)
    assert (info.private, info.gated) == (True, "manual")
    order = [path for method, path in faults.seen if path.endswith("/settings") or "/commit/" in path]
    assert [path.rsplit("/", 1)[-1] for path in order] == ["settings", "main"]
    assert set_gated(faulty_api, REPO, "manual") is False
    assert open_to_all(faulty_api, [REPO]) == [REPO]
    assert open_to_all(faulty_api, [REPO]) == []
    assert faulty_api.model_info(REPO).private is False


def requests(api: HfApi) -> list[tuple[int, str]]:
    return sorted((each.num, each.status) for each in api.get_repo_discussions(REPO))


def test_a_pull_request_holds_one_verified_commit(hub: LocalHub, api: HfApi, release: Release, tmp_path: Path) -> None:
    push(hub, older(tmp_path / "older"))
    before = api.model_info(REPO).sha
    done = push(hub, release, message="v2", tag="v2", pull_request=True)
    assert (done.pull_request, done.tag, done.changed) == (1, None, True)
    assert done.url == f"{hub.endpoint}/{REPO}/discussions/1"
    assert (api.model_info(REPO).sha, requests(api)) == (before, [(1, "open")])
    assert done.commit == api.model_info(REPO, revision="refs/pr/1").sha
    assert [commit.title for commit in api.list_repo_commits(REPO, revision="refs/pr/1")][:2] == ["v2", "v1"]
    assert not api.file_exists(REPO, "model-0.safetensors", revision="refs/pr/1")
    assert push(hub, release, message="v2", tag="v2", pull_request=True) == done
    api.merge_pull_request(REPO, 1)
    assert not plan_publication(release.files, release.digests, api, REPO).changes
    assert push(hub, release, message="v2", tag=None, pull_request=True).changed is False


def test_a_draft_left_by_a_killed_run_is_taken_up_again(hub: LocalHub, api: HfApi, release: Release) -> None:
    api.create_repo(REPO)
    api.create_pull_request(REPO, title="v1")
    api.create_pull_request(REPO, title="something else")
    assert push(hub, release, pull_request=True).pull_request == 1
    assert requests(api) == [(1, "open"), (2, "draft")]


def test_a_lost_answer_makes_no_second_pull_request(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release
) -> None:
    faulty_api.create_repo(REPO)
    lost = {"/discussions": 1, "/commit/refs/pr/1": 1}

    def after(method: str, path: str) -> int | None:
        for ending, left in lost.items():
            if method == "POST" and path.endswith(ending) and left:
                lost[ending] = 0
                return 502
        return None

    faults.after = after
    assert push(faulty, release, pull_request=True).pull_request == 1
    assert lost == {"/discussions": 0, "/commit/refs/pr/1": 0}
    assert requests(faulty_api) == [(1, "open")]


def test_a_pull_request_that_does_not_read_back_stays_a_draft(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release
) -> None:
    faulty_api.create_repo(REPO)
    faults.before = lambda _method, path: 400 if "/paths-info/" in path else None
    with pytest.raises(CheckFailedError):
        push(faulty, release, pull_request=True)
    assert requests(faulty_api) == [(1, "draft")]
    faults.before = lambda _method, _path: None
    assert push(faulty, release, pull_request=True).pull_request == 1
    assert requests(faulty_api) == [(1, "open")]


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_every_endpoint_of_a_proposal_may_fail_once(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release, status: int
) -> None:
    """Settings before a release; discussions, the draft's opening and `whoami` of a proposal that is found again."""
    places = ("/settings", "/discussions", "/discussions/1/status", "/api/whoami-v2")
    hit: set[str] = set()

    def once(_method: str, path: str) -> int | None:
        place = next((place for place in places if path.endswith(place) and place not in hit), None)
        if place is not None:
            hit.add(place)
        return None if place is None else status

    faults.before = once
    push(faulty, release, gated="auto")
    release.add("README.md", f"{CARD}more\n".encode())
    first = push(faulty, release, message="v2", pull_request=True)
    assert push(faulty, release, message="v2", pull_request=True) == first
    assert hit == set(places)
    assert requests(faulty_api) == [(1, "open")]


def test_a_pull_request_needs_a_repo(hub: LocalHub, api: HfApi, release: Release) -> None:
    with pytest.raises(UnavailableError, match="does not exist or cannot be read"):
        push(hub, release, pull_request=True)
    assert not api.repo_exists(REPO)


def test_a_collection_is_made_once_and_filled(hub: LocalHub, api: HfApi) -> None:
    for repo in ("org/a", "org/b"):
        api.create_repo(repo)
    slug = collect(api, "Pruned", ["org/a", "org/b"])
    assert collect(api, slug, ["org/a"]) == collect(api, "Pruned", ["org/b"]) == slug
    assert [item.item_id for item in api.get_collection(slug).items] == ["org/a", "org/b"]
    require_collection(api, slug)
    with pytest.raises(UnavailableError, match="org/gone-000000000000000000000000"):
        require_collection(api, "org/gone-000000000000000000000000")


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: mit\n---\n# Old\n", "---\nlicense: mit\nnew_version: org/new\n---\n# Old\n"),
        ("---\nnew_version: org/x\ntags: [a]\n---\n", "---\nnew_version: org/new\ntags: [a]\n---\n"),
        ("# Old\n", "---\nnew_version: org/new\n---\n# Old\n"),
        ("", "---\nnew_version: org/new\n---\n"),
    ],
)
def test_the_new_version_is_one_line_of_the_old_card(card: str, expected: str) -> None:
    assert with_new_version(card, "org/new") == expected


def test_the_old_card_names_its_successor_through_a_pull_request(hub: LocalHub, api: HfApi) -> None:
    api.create_repo("org/old")
    old = b"---\nlicense: mit\n---\n# Old\nby hand  \n"
    api.upload_file(path_or_fileobj=old, path_in_repo="README.md", repo_id="org/old")
    assert supersede(api, "org/old", "org/new", pause=lambda _: None) == 1
    assert supersede(api, "org/old", "org/new", pause=lambda _: None) == 1  # still undecided: no second one
    assert Path(api.hf_hub_download("org/old", "README.md")).read_bytes() == old
    api.merge_pull_request("org/old", 1)
    text = Path(api.hf_hub_download("org/old", "README.md")).read_bytes()
    assert text == b"---\nlicense: mit\nnew_version: org/new\n---\n# Old\nby hand  \n"
    assert supersede(api, "org/old", "org/new", pause=lambda _: None) is None
    with pytest.raises(UnavailableError, match="org/gone does not exist"):
        supersede(api, "org/gone", "org/new", pause=lambda _: None)
    api.create_repo("org/damaged")
    tree = remote_tree(api, "org/damaged")
    assert tree is not None
    with pytest.raises(CheckFailedError, match="its metadata is damaged"):
        with_new_version("---\na: [\n---\n", "org/new")


def test_rights_are_asked_before_anything_is_done(tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    tokens = {name: "hf_" + name[0] * 34 for name in ("ann", "bob", "eve")}
    users = {"ann": {"name": "ann", "orgs": ["org"]}, "bob": {"name": "bob"}, "eve": {"name": "eve", "role": "read"}}
    folder = tmp_path / "hub"
    with LocalHub(folder):
        pass
    (folder / "tokens.json").write_text(json.dumps({sha256_bytes(tokens[name].encode()): user for name, user in users.items()}))
    with LocalHub(folder) as hub:
        ann, bob, eve = (HfApi(endpoint=hub.endpoint, token=token) for token in tokens.values())
        assert require_rights(ann, ["org/new", "ann/new"]).name == "ann"
        with pytest.raises(UnavailableError, match="the token of bob may not create org/new"):
            require_rights(bob, ["bob/new", "org/new"])
        with pytest.raises(UnavailableError, match="the token of eve may only read"):
            require_rights(eve, ["eve/new"])
        with pytest.raises(UnavailableError, match="a pull request needs a repo"):
            require_rights(bob, ["org/new"], pull_request=True)
        ann.create_repo("org/new")
        with pytest.raises(UnavailableError, match="may not write to org/new"):
            require_rights(bob, ["org/new"])
        require_rights(bob, ["org/new"], pull_request=True)
        with pytest.raises(InputError, match=r"org/a--b: no repository can have this name"):
            require_rights(ann, ["org/a--b"])
        with pytest.raises(UnavailableError, match="may not ask whose token this is"):
            require_rights(HfApi(endpoint=hub.endpoint, token="hf_" + "z" * 34), ["org/new"])


def test_a_fine_grained_token_says_where_it_may_write() -> None:
    scopes = [
        {"entity": {"type": "user", "name": "ann"}, "permissions": ["repo.content.read"]},
        {"entity": {"type": "org", "name": "org"}, "permissions": ["repo.content.read", "repo.write"]},
        {"entity": {"type": "model", "name": "lab/one"}, "permissions": ["repo.write"]},
        "nonsense",
    ]
    said = {
        "name": "ann",
        "orgs": [{"name": "org", "roleInOrg": "write"}, {"name": "lab"}, {"name": "look", "roleInOrg": "read"}, 7],
        "auth": {"accessToken": {"role": "fineGrained", "fineGrained": {"scoped": scopes}}},
    }
    account = read_account(said)
    assert [account.may_write(repo) for repo in ("org/x", "ann/x", "lab/one", "lab/two", "look/x", "other/x")] == [
        True,
        False,
        True,
        False,
        False,
        False,
    ]
    assert read_account({"name": "ann", "auth": None, "orgs": None}).may_write("ann/x")
