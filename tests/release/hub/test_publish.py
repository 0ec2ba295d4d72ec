"""Publishing against the rehearsal Hub, with faults put between the client and the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import HfApi as HubClient

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.progress import Advance, NoProgress, Unit
from release.hub import publish as module
from release.hub.local import LocalHub
from release.hub.publication_plan import plan_publication
from release.hub.publish import Publication
from release.hub.read_back import read_back
from release.hub.server.call import Settings
from tests.release.hub.releases import CARD, PATIENCE, REPO, Faults, Release, on_commit, publish, push, titles

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ROOT = Path(__file__).resolve().parents[3]


def test_a_release_is_one_commit_that_reads_back(hub: LocalHub, api: HfApi, release: Release) -> None:
    done = push(hub, release)
    assert done == Publication(REPO, done.commit, "v1", f"{hub.endpoint}/{REPO}", changed=True)
    assert titles(api) == ["v1", "initial commit"]
    assert api.model_info(REPO, revision="v1").sha == api.model_info(REPO).sha == done.commit
    assert set(api.list_repo_files(REPO)) == {".gitattributes", *release.files}
    read_back(REPO, "v1", release.digests, endpoint=hub.endpoint, token=hub.token)


def test_publishing_twice_makes_no_second_commit(hub: LocalHub, api: HfApi, release: Release) -> None:
    first, second = push(hub, release), push(hub, release)
    assert (second.commit, second.changed) == (first.commit, False)
    assert titles(api) == ["v1", "initial commit"]


def test_a_new_card_uploads_only_the_card(hub: LocalHub, api: HfApi, release: Release) -> None:
    push(hub, release)
    release.add("README.md", f"{CARD}more\n".encode())
    plan = plan_publication(release.files, release.digests, api, REPO)
    assert [file.path for file in plan.changes] == ["README.md"]
    assert plan.new_bytes == len(CARD) + 5
    assert plan.foreign == (".gitattributes",)
    done = push(hub, release, message="v2", tag="v2")
    assert done.changed
    assert titles(api) == ["v2", "v1", "initial commit"]


def test_the_plan_of_a_repo_that_does_not_exist_is_everything(api: HfApi, release: Release) -> None:
    plan = plan_publication(release.files, release.digests, api, REPO)
    assert (plan.head, plan.private, plan.unchanged, plan.stored, plan.foreign) == (None, None, (), (), ())
    assert plan.new_bytes == sum(file.stat().st_size for file in release.files.values())


def test_a_renamed_large_file_needs_no_bytes(hub: LocalHub, api: HfApi, release: Release) -> None:
    push(hub, release)
    release.files["other.gguf"] = release.files["model-Q6_K.gguf"]
    release.digests["other.gguf"] = release.digests["model-Q6_K.gguf"]
    plan = plan_publication(release.files, release.digests, api, REPO)
    assert ([file.path for file in plan.stored], plan.new_bytes) == (["other.gguf"], 0)


def test_remote_files_of_others_stay(hub: LocalHub, api: HfApi, release: Release) -> None:
    api.create_repo(REPO)
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="notes.txt", repo_id=REPO)
    push(hub, release)
    assert api.file_exists(REPO, "notes.txt")


@pytest.mark.parametrize("path", ["model-Q6_K.gguf", "model-Q4_K_M.gguf", "README.md"])
def test_a_tampered_file_stops_before_the_commit(hub: LocalHub, api: HfApi, release: Release, path: str) -> None:
    data = bytearray(release.files[path].read_bytes())
    data[-1] ^= 1
    release.files[path].write_bytes(data)
    with pytest.raises(CheckFailedError, match=f"{path}: the file on disk is not what the lock says"):
        push(hub, release)
    assert not api.repo_exists(REPO)


@pytest.mark.parametrize("path", ["model-Q6_K.gguf", "README.md"])
def test_a_file_that_changes_after_the_check_is_caught_too(
    hub: LocalHub, api: HfApi, release: Release, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = module.check_digests

    def check_then_tamper(*arguments: Any) -> None:
        checked(*arguments)
        release.files[path].write_bytes(release.files[path].read_bytes()[:-1] + b"!")

    monkeypatch.setattr(module, "check_digests", check_then_tamper)
    with pytest.raises(CheckFailedError, match=f"{path}: the file on disk is not what the lock says"):
        push(hub, release)
    assert titles(api) == ["initial commit"]


def test_files_and_digests_must_fit(hub: LocalHub, release: Release) -> None:
    del release.digests["README.md"]
    with pytest.raises(InputError, match=r"README\.md"):
        push(hub, release)
    release.digests["README.md"] = "0" * 64
    release.files["README.md"].unlink()
    with pytest.raises(InputError, match="does not exist"):
        push(hub, release)


def test_a_tag_on_other_files_is_refused_before_any_commit(hub: LocalHub, api: HfApi, release: Release) -> None:
    first = push(hub, release)
    release.add("README.md", f"{CARD}more\n".encode())
    with pytest.raises(CheckFailedError, match=f"the tag v1 names commit {first.commit[:12]}"):
        push(hub, release)
    assert api.model_info(REPO).sha == first.commit


def test_a_tag_on_the_same_files_is_fine(hub: LocalHub, api: HfApi, release: Release) -> None:
    push(hub, release)
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="notes.txt", repo_id=REPO)
    assert push(hub, release).changed is False


def test_a_public_repo_is_not_used_for_a_private_release(hub: LocalHub, api: HfApi, release: Release) -> None:
    api.create_repo(REPO)
    with pytest.raises(CheckFailedError, match="is public"):
        push(hub, release, private=True)
    assert titles(api) == ["initial commit"]
    api.delete_repo(REPO)
    push(hub, release, private=True)
    assert api.model_info(REPO).private is True


def test_without_a_token_nothing_is_written(hub: LocalHub, api: HfApi, release: Release) -> None:
    with pytest.raises(UnavailableError, match="HF_TOKEN"):
        push(hub, release, token=None)
    assert not api.repo_exists(REPO)


def test_a_bad_name_and_a_closed_port_are_one_line(hub: LocalHub, release: Release) -> None:
    with pytest.raises(InputError, match="a//b"):
        publish("a//b", {}, {}, endpoint=hub.endpoint, token=hub.token, private=False, message="m", tag=None)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9: cannot be reached"):
        push(hub, release, endpoint="http://127.0.0.1:9")


def test_a_secret_is_refused_and_not_repeated(hub: LocalHub, api: HfApi, release: Release) -> None:
    secret = "hf_" + "Ab1" * 12
    release.add("reproduce/notes.md", f"one\ntwo {secret}\n".encode())
    with pytest.raises(CheckFailedError, match=r"reproduce/notes\.md:2 holds a Hugging Face token") as caught:
        push(hub, release)
    assert secret not in str(caught.value)
    assert not api.repo_exists(REPO)


def test_card_warnings_become_notes(hub: LocalHub, release: Release) -> None:
    notes: list[str] = []

    class Notes(NoProgress):
        def note(self, text: str) -> None:
            notes.append(text)

    release.add("README.md", b"# no metadata\n")
    push(hub, release, progress=Notes())
    assert notes == ["Warnings while validating metadata in README.md: - empty or missing yaml metadata in repo card"]


def test_progress_moves_while_a_file_is_sent(tmp_path: Path, release: Release) -> None:
    told: list[int] = []

    class Watched(NoProgress):
        @contextmanager
        def task(self, title: str, total: int | None, unit: Unit = "items") -> Iterator[Advance]:
            del total, unit
            yield told.append if title.startswith("uploading") else lambda _amount: None

    settings = Settings(part_size=2_000_000, multipart_from=4_000_000)
    with LocalHub(tmp_path / "hub", settings=settings) as hub:
        push(hub, release, progress=Watched())
    assert sum(told) == sum(path.stat().st_size for path in release.files.values())
    assert len([amount for amount in told if amount > 0]) > 4


def test_read_back_names_what_differs(hub: LocalHub, release: Release) -> None:
    push(hub, release)
    wrong = {**release.digests, "README.md": "0" * 64, "model-Q6_K.gguf": "1" * 64, "gone.txt": "2" * 64}
    with pytest.raises(CheckFailedError) as caught:
        read_back(REPO, "main", wrong, endpoint=hub.endpoint, token=hub.token)
    message = str(caught.value)
    assert all(name in message for name in ("README.md (sha256", "model-Q6_K.gguf (sha256", "gone.txt (missing)"))
    assert "lock.json" not in message
    with pytest.raises(CheckFailedError, match="is not on"):
        read_back(REPO, "v9", release.digests, endpoint=hub.endpoint, token=hub.token)


def test_two_publishers_at_once_one_wins_and_the_other_says_so(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    """Both read the same head before either commits; their cards differ, so the second must not overwrite the first."""
    api.create_repo(REPO)
    releases = [Release(tmp_path / name) for name in ("one", "two")]
    for number, each in enumerate(releases):
        each.add("README.md", f"{CARD}{number}\n".encode())
    together = threading.Barrier(2, timeout=PATIENCE)
    create_commit = HubClient.create_commit

    def commit_together(self: HubClient, *arguments: Any, **options: Any) -> Any:
        together.wait()
        return create_commit(self, *arguments, **options)

    outcomes: list[object] = []

    def run(each: Release) -> None:
        try:
            outcomes.append(push(hub, each, tag=None))
        except CheckFailedError as error:
            outcomes.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HubClient, "create_commit", commit_together)
        threads = [threading.Thread(target=run, args=(each,)) for each in releases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    won = [outcome for outcome in outcomes if isinstance(outcome, Publication)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, CheckFailedError)]
    assert (len(won), len(lost)) == (1, 1)
    assert "somebody else moved main" in str(lost[0])
    assert titles(api) == ["v1", "initial commit"]
    assert api.model_info(REPO).sha == won[0].commit


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_commit_that_failed_is_tried_again(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release, status: int
) -> None:
    faults.before = on_commit(2, lambda: status)
    pauses: list[float] = []
    assert push(faulty, release, pause=pauses.append).changed
    assert titles(faulty_api) == ["v1", "initial commit"]
    assert pauses == [1.0, 2.0]


def test_a_commit_that_succeeded_and_said_500_is_adopted(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release
) -> None:
    faults.after = on_commit(1, lambda: 500)
    done = push(faulty, release)
    assert done.changed
    assert titles(faulty_api) == ["v1", "initial commit"]
    assert sum("/commit/" in path for _, path in faults.seen) == 1


def test_a_hub_that_stays_broken_is_one_line_and_no_commit(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release
) -> None:
    faults.before = on_commit(100, lambda: 503)
    with pytest.raises(UnavailableError, match=r"503.*run again later"):
        push(faulty, release)
    assert titles(faulty_api) == ["initial commit"]


def test_somebody_else_between_upload_and_commit_is_not_overwritten(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release
) -> None:
    """The other publisher's commit arrives while ours is on its way, so ours meets 412."""
    from release.hub.server.commits import Changes, regular_entry
    from release.hub.server.names import RepoName
    from release.hub.server.store import Store

    def other() -> None:
        store = Store(faulty.folder)
        repository = store.find(RepoName("models", "org", "model-GGUF"))
        assert repository is not None
        entry = regular_entry(b"x", store.blobs.add(b"x"))
        store.commit(repository, "heads", "main", Changes("theirs", "", None, {"README.md": entry}), "other")

    faults.before = on_commit(1, other)
    with pytest.raises(CheckFailedError, match="somebody else moved main"):
        push(faulty, release)
    assert titles(faulty_api) == ["theirs", "initial commit"]
    assert push(faulty, release).changed


def test_a_content_damaged_on_its_way_is_not_committed(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release
) -> None:
    """The storage port refuses what does not have the promised digest; the release stops with the Hub's words."""
    faults.before = lambda method, path: 400 if method == "PUT" and path.startswith("/objects/") else None
    with pytest.raises(CheckFailedError, match="refused to publish"):
        push(faulty, release)
    assert titles(faulty_api) == ["initial commit"]
