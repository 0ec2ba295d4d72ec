"""Reading back: the digest of every locked file, asked of the Hub at the very commit that was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from pruner.errors import CheckFailedError, UnavailableError
from release.hub import remote
from release.hub.local import LocalHub
from release.hub.read_back import read_back
from release.hub.remote import files_at
from tests.release.hub.releases import REPO, Faults, Release, push, titles

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass is tried again without a pause."""
    monkeypatch.setattr("pruner.hub_failures.BACK_OFF", (0.0, 0.0))


def paths_info(faults: Faults) -> list[str]:
    """The revisions of the requests for digests."""
    return [unquote(path.rpartition("/")[2]) for _, path in faults.seen if "/paths-info/" in path]


def read(hub: LocalHub, release: Release, revision: str, **options: Any) -> None:
    read_back(REPO, revision, release.digests, endpoint=hub.endpoint, token=hub.token, **options)


def always(_method: str, path: str) -> bool:
    return "/paths-info/" in path


def first(times: int) -> Callable[[str, str], bool]:
    left = [times]

    def choose(method: str, path: str) -> bool:
        if not always(method, path) or not left[0]:
            return False
        left[0] -= 1
        return True

    return choose


def test_digests_are_asked_in_batches_at_the_commit_that_was_made(
    faulty: LocalHub, faults: Faults, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ASKED_AT_ONCE", 3)
    commit = push(faulty, release).commit
    assert paths_info(faults) == [commit, commit], "four files, three at once"
    faults.seen.clear()
    read(faulty, release, "v1")
    assert paths_info(faults) == [commit, commit]
    assert not [path for _, path in faults.seen if "/tree/" in path]


def test_the_hub_answers_the_real_client_as_its_listing_does(hub: LocalHub, api: HfApi, release: Release) -> None:
    commit = push(hub, release).commit
    listed = {item.path: item for item in api.list_repo_tree(REPO, recursive=True, revision=commit)}
    asked = ["model-Q6_K.gguf", "reproduce/lock.json", "reproduce", "README.md", "absent", "../README.md", ""]
    found = api.get_paths_info(REPO, asked, revision=commit)
    assert found == [listed[path] for path in ("model-Q6_K.gguf", "reproduce/lock.json", "reproduce", "README.md")]
    (expanded,) = api.get_paths_info(REPO, "README.md", revision="v1", expand=True)
    assert (expanded.last_commit.oid, expanded.last_commit.title) == (commit, "v1")
    with pytest.raises(Exception, match="too many parameters"):
        api.get_paths_info(REPO, ["x"] * 2000)
    assert files_at(api, REPO, commit, [f"absent-{number}" for number in range(2000)]) == {}


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_hub_is_asked_again(faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release, status: int) -> None:
    busy = first(2)
    faults.before = lambda method, path: status if busy(method, path) else None
    commit = push(faulty, release).commit
    assert paths_info(faults) == [commit] * 3
    assert faulty_api.model_info(REPO, revision="v1").sha == commit


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_cut_answer_is_asked_for_again(faulty: LocalHub, faults: Faults, release: Release) -> None:
    faults.cuts = first(2)
    commit = push(faulty, release).commit
    assert paths_info(faults) == [commit] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda faults: setattr(faults, "before", lambda *at: 503 if always(*at) else None), "503.*run again later"),
        (
            lambda faults: setattr(faults, "before", lambda *at: 403 if always(*at) else None),
            "may not read the digests of .*403",
        ),
        (lambda faults: setattr(faults, "cuts", always), "cannot be reached to read the digests of"),
    ],
)
def test_what_does_not_pass_is_one_line_and_the_next_run_ends_it(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release, fault: Callable[[Faults], None], message: str
) -> None:
    fault(faults)
    with pytest.raises(UnavailableError, match=message) as caught:
        push(faulty, release)
    assert "\n" not in str(caught.value)
    assert faulty.token not in str(caught.value)
    assert not faulty_api.list_repo_refs(REPO).tags, "nothing is tagged that was not read back"
    faults.before, faults.cuts = (lambda _method, _path: None), (lambda _method, _path: False)
    assert not push(faulty, release).changed
    assert titles(faulty_api) == ["v1", "initial commit"]
    assert [tag.name for tag in faulty_api.list_repo_refs(REPO).tags] == ["v1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda release: release.digests.update({"model-Q6_K.gguf": "0" * 64}), r"model-Q6_K\.gguf \(sha256 .*, expected 000"),
        (lambda release: release.digests.update({"README.md": "0" * 64}), r"README\.md \(sha256 .*, expected 000"),
        (lambda release: release.digests.update({"more.gguf": "0" * 64}), r"more\.gguf \(missing\)"),
    ],
)
def test_a_file_that_is_not_the_locked_one_is_named(
    hub: LocalHub, release: Release, change: Callable[[Release], None], message: str
) -> None:
    commit = push(hub, release).commit
    change(release)
    with pytest.raises(CheckFailedError, match=message):
        read(hub, release, commit)


def test_the_branch_must_be_what_was_made_and_what_was_removed_gone(hub: LocalHub, api: HfApi, release: Release) -> None:
    commit = push(hub, release).commit
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="notes.txt", repo_id=REPO)
    read(hub, release, "main", removed=["gone.txt"])
    read(hub, release, "v1", commit=commit, removed=["notes.txt"])
    with pytest.raises(CheckFailedError, match=rf"@main: is .* now and not {commit[:12]}"):
        read(hub, release, "main", commit=commit)
    with pytest.raises(CheckFailedError, match=r"notes\.txt \(should be removed\)"):
        read(hub, release, "main", removed=["notes.txt"])
    with pytest.raises(CheckFailedError, match="publish it first"):
        read(hub, release, "v2")


@pytest.mark.parametrize("rows", [["README.md", "README.md"], ["other.md"], ["reproduce"]])
def test_an_answer_to_another_question_is_not_believed(
    hub: LocalHub, api: HfApi, release: Release, monkeypatch: pytest.MonkeyPatch, rows: list[str]
) -> None:
    commit = push(hub, release).commit
    release.add("other.md", b"x")
    true = {item.path: item for item in api.list_repo_tree(REPO, recursive=True, revision=push(hub, release, tag=None).commit)}
    monkeypatch.setattr("huggingface_hub.HfApi.get_paths_info", lambda *_words, **_options: [true[path] for path in rows])
    with pytest.raises(UnavailableError, match=r"its answer to read the digests of .* cannot be understood"):
        files_at(api, REPO, commit, ["README.md"])


def test_a_hub_that_answers_with_another_commit_is_not_believed(
    hub: LocalHub, api: HfApi, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = push(hub, release).commit
    info = api.model_info(REPO)
    info.sha = "1" * 40
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_words, **_options: info)
    with pytest.raises(CheckFailedError, match=f"answers with another commit, {'1' * 40}"):
        read(hub, release, commit)
