"""A release reaches the Hub as one commit per repo: checked against the lock before, read back after, then tagged.

A release of several repos prepares them all before it commits to the first.  Remote files that are not of the release stay as
they are, but for those of our own older release that nobody changed.  When all files stand there already, no commit is made.
A repo that does not exist is created as private: it is for `release.hub.announce.open_to_all` to show what is complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pruner.errors import CheckFailedError, UnavailableError
from pruner.files import sha256_file
from pruner.hub_failures import endpoint_of, patiently, status_of
from pruner.progress import SILENT, Progress
from release.hub.announce import Gated, set_gated
from release.hub.card_check import CARD, require_valid_card, unreadable
from release.hub.commit import Job, commit_operations, operations, require_digest
from release.hub.publication_plan import PublicationPlan, plan_publication, require_same_paths
from release.hub.pull_request import propose
from release.hub.read_back import read_back
from release.hub.remote import RemoteTree, hub_api, hub_errors, quiet_client, tag_tree, token_of
from release.hub.secret_scan import require_no_secrets

CONFLICT = 409


@dataclass(frozen=True)
class Publication:
    """A release on the Hub; `changed` is False when everything was there already and no commit was made.

    With a `pull_request` the commit is the head of `refs/pr/N`, and `url` is its page.
    """

    repo: str
    commit: str
    tag: str | None
    url: str
    changed: bool
    pull_request: int | None = None


@dataclass(frozen=True)
class Terms:
    """How a release is to stand on the Hub.

    Attributes:
        private: refuse to change a repo that is public.
        message: title of the commit.
        tag: tag to put on the commit, None for none; a pull request gets none.
        gated: who may read the repo, set before anything is committed; None leaves it.
        prune_remote: remove what is not of this release in the same commit; each path is noted before.
        pull_request: propose the commit instead: it is read back from `refs/pr/N`, then the draft is opened.
    """

    private: bool
    message: str
    tag: str | None = None
    gated: Gated | None = None
    prune_remote: bool = False
    pull_request: bool = False


@dataclass(frozen=True)
class Prepared:
    """One repo's part of a release, which nothing stands against: `commit_prepared` makes it."""

    job: Job
    terms: Terms
    plan: PublicationPlan


def prepare(
    repo: str,
    files: Mapping[str, Path],
    digests: Mapping[str, str],
    terms: Terms,
    *,
    endpoint: str | None,
    token: str | None,
    inherited: Collection[str] = (),
    folders: Sequence[Path] = (),
    progress: Progress = SILENT,
    pause: Callable[[float], None] = time.sleep,
) -> Prepared:
    """Everything that could refuse a commit is asked; nothing is created or uploaded.

    Args:
        repo: "namespace/name"; it need not exist, except for a pull request.
        files: path in the repo -> local file.
        digests: path in the repo -> sha256, from the lock.
        terms: how it is to stand there.
        endpoint: address of the Hub, None for the environment's.
        token: None for the one of the environment or of huggingface_hub's store.
        inherited: paths whose bytes are the base's own, which are not searched for secrets.
        folders: folders of this machine that may not be named.
        progress: shows the checking.
        pause: waits between tries.

    Raises:
        CheckFailedError: a file differs from its digest or holds a secret, the repo is public, the tag names another commit, or
            the card's metadata is refused.
        InputError: files and digests do not fit together, or a name cannot be used.
        UnavailableError: the Hub cannot be reached, or there is no repo to propose to.
    """
    _require_publishable(files, digests, inherited, folders, progress)
    api = hub_api(endpoint, token)
    job = Job(api, repo, files, digests, pause)
    with hub_errors(api.endpoint, f"publish to {repo}"), quiet_client(progress):
        plan = _unopposed(job, terms)
        if plan.head is None and terms.pull_request:
            raise _unreadable(job)
        _announce_removals(plan, progress)
        if CARD in {file.path for file in plan.changes}:
            require_valid_card(api, files[CARD].read_text(encoding="utf-8"))
    return Prepared(job, terms, plan)


def commit_prepared(prepared: Prepared, progress: Progress = SILENT) -> Publication:
    """Create the repo where there is none, upload, commit, read back and tag; the plan is made anew, as hours may have passed.

    Raises:
        CheckFailedError: somebody else moved the branch, or the Hub does not hold what was sent; see `prepare` as well.
        UnavailableError: the Hub cannot be reached or does not let this token write.
    """
    job, terms = prepared.job, prepared.terms
    api, repo = job.api, job.repo
    with hub_errors(api.endpoint, f"publish to {repo}"), quiet_client(progress):
        if prepared.plan.head is None:
            patiently(lambda: api.create_repo(repo, private=True, exist_ok=True), job.pause, endpoint=api.endpoint)
        plan = _unopposed(job, terms)
        if plan.head is None:
            raise _unreadable(job)
        if terms.pull_request:
            return _proposed(job, plan, terms.message, progress)
        if terms.gated is not None:
            set_gated(api, repo, terms.gated)
        commit = _committed(job, plan, terms.message, progress)
        read_back(repo, commit, job.digests, endpoint=api.endpoint, token=token_of(api), removed=plan.removed)
        if terms.tag:
            _place_tag(job, terms.tag, commit)
    return Publication(repo, commit, terms.tag, f"{endpoint_of(api.endpoint)}/{repo}", changed=not plan.settled)


def _require_publishable(
    files: Mapping[str, Path],
    digests: Mapping[str, str],
    inherited: Collection[str],
    folders: Sequence[Path],
    progress: Progress,
) -> None:
    """What can be said of the files without a Hub: complete, free of secrets, as locked, and metadata that means something."""
    require_same_paths(files, digests)
    require_no_secrets(files, folders, inherited)
    check_digests(files, digests, progress)
    for path, file in files.items():
        if path != CARD and (problem := unreadable(path, file.read_bytes)):  # the card is judged by the Hub itself
            raise CheckFailedError(f"{path}: {problem}; nothing was committed")


def _unopposed(job: Job, terms: Terms) -> PublicationPlan:
    """The plan against what the repo holds now, if the commit may be made."""
    plan = plan_publication(job.files, job.digests, job.api, job.repo, prune=terms.prune_remote)
    if plan.head is not None and not plan.settled and not terms.pull_request:
        _require_visibility(plan, private=terms.private)
        _require_tag_free(job, terms.tag)
    return plan


def _unreadable(job: Job) -> UnavailableError:
    where = endpoint_of(job.api.endpoint)
    return UnavailableError(f"{where}: {job.repo} does not exist or cannot be read; check the name and the token's rights")


def _announce_removals(plan: PublicationPlan, progress: Progress) -> None:
    """Nothing is removed that was not listed first."""
    for path in plan.removed:
        why = "of an older release" if path in plan.stale else "--prune-remote"
        progress.note(f"{plan.repo}: {path} will be removed ({why})")


def _committed(job: Job, plan: PublicationPlan, message: str, progress: Progress) -> str:
    """The commit that holds the release: a new one, or the head when there is nothing to change."""
    if plan.settled:
        return str(plan.head)
    return commit_operations(job, plan, operations(job, plan, progress), message)


def _proposed(job: Job, plan: PublicationPlan, message: str, progress: Progress) -> Publication:
    """The release as a pull request, unless it stands on the branch already."""
    url = f"{endpoint_of(job.api.endpoint)}/{job.repo}"
    if plan.settled:
        return Publication(job.repo, plan.head or "", None, url, changed=False)
    found = propose(job, plan, lambda revision: operations(job, plan, progress, revision), message)
    return Publication(
        job.repo, found.commit, None, f"{url}/discussions/{found.number}", changed=True, pull_request=found.number
    )


def check_digests(files: Mapping[str, Path], digests: Mapping[str, str], progress: Progress = SILENT) -> None:
    """Require that every local file has its digest.

    Raises:
        CheckFailedError: says which does not.
    """
    total = sum(file.stat().st_size for file in files.values())
    with progress.task("checking files against the lock", total, "bytes") as advance:
        for path, file in sorted(files.items()):
            require_digest(path, sha256_file(file, advance), digests[path])


def _require_visibility(plan: PublicationPlan, *, private: bool) -> None:
    if private and plan.private is False:
        raise CheckFailedError(
            f"{plan.repo}: is public, and the release was to stay private; make the repo private, or say `private: false`"
        )


def _require_tag_free(job: Job, tag: str | None) -> None:
    """Refuse before any upload when the tag cannot be given to the commit to come."""
    named = tag_tree(job.api, job.repo, tag) if tag else None
    if named:
        raise _tag_taken(job, tag, named)


def _tag_taken(job: Job, tag: str | None, named: RemoteTree) -> CheckFailedError:
    where = f"{job.repo}: the tag {tag} names commit {named.commit[:12]}, which holds other files"
    return CheckFailedError(f"{where}; choose another tag, or delete that one")


def _place_tag(job: Job, tag: str, commit: str) -> None:
    """Tag the commit; a tag that stands on this commit, or on one with the same files, is fine."""
    named = tag_tree(job.api, job.repo, tag)
    if named is None:
        try:
            patiently(lambda: job.api.create_tag(job.repo, tag=tag, revision=commit), job.pause, endpoint=job.api.endpoint)
        except Exception as error:
            if status_of(error) != CONFLICT:
                raise
        named = tag_tree(job.api, job.repo, tag)
    if named is None:
        raise CheckFailedError(f"{job.repo}: the tag {tag} was set and cannot be found; run again")
    if named.commit != commit and job.plan(named).changes:
        raise _tag_taken(job, tag, named)
