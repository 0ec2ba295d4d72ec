"""A release, or a small change to a card, as a pull request: one commit on a draft, read back from its ref, then opened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.hub_failures import BACK_OFF, passes, patiently
from release.hub.commit import Job, commit_operations
from release.hub.publication_plan import PublicationPlan
from release.hub.read_back import read_back
from release.hub.remote import RemoteTree, hub_errors, remote_tree, token_of

if TYPE_CHECKING:
    from huggingface_hub import Discussion, HfApi

    from release.hub.commit import Operation

UNDECIDED = ("draft", "open")
DESCRIPTION = "Made by moe-release; every file was read back from this pull request and has the digest of its lock."


@dataclass(frozen=True)
class Proposal:
    """A pull request: its number, its head, and whether it waits for a decision already."""

    number: int
    commit: str
    is_open: bool

    @property
    def ref(self) -> str:
        """The revision that holds it."""
        return f"refs/pr/{self.number}"


def propose(job: Job, plan: PublicationPlan, make: Callable[[str], Sequence[Operation]], message: str) -> Proposal:
    """Propose what a plan changes.

    A pull request of ours with the same title that holds these files, or is still empty, is taken up again, so a run that was
    killed or lost an answer leaves no second one.

    Args:
        job: files, digests and the repo.
        plan: what is to change, on top of the plan's head.
        make: uploads for a revision and gives the operations.
        message: title of the pull request and of its commit.

    Raises:
        CheckFailedError: the pull request does not hold what was sent.
        UnavailableError: the Hub cannot be reached, or takes no pull request from this token.
    """
    found = _ours(job, plan, message) or _drafted(job, plan, message)
    if found.commit == plan.head:
        found = replace(found, commit=commit_operations(job, plan, make(found.ref), message, found.ref))
    where = {"endpoint": job.api.endpoint, "token": token_of(job.api)}
    read_back(job.repo, found.ref, job.digests, **where, commit=found.commit, removed=plan.removed)
    if not found.is_open:
        patiently(
            lambda: job.api.change_discussion_status(job.repo, found.number, "open"), job.pause, endpoint=job.api.endpoint
        )
    return found


def undecided(
    api: HfApi, repo: str, title: str, pause: Callable[[float], None] = time.sleep
) -> Iterator[tuple[Discussion, RemoteTree]]:
    """Our own pull requests of a title that wait for a decision, newest first, each with what it holds.

    Raises:
        UnavailableError: the Hub cannot be reached or will not say.
    """
    with hub_errors(api.endpoint, f"list the pull requests of {repo}"):
        listed = patiently(
            lambda: [
                each
                for each in api.get_repo_discussions(repo, discussion_type="pull_request")
                if each.title == title and each.status in UNDECIDED
            ],
            pause,
            endpoint=api.endpoint,
        )
        me = patiently(api.whoami, pause, endpoint=api.endpoint)["name"] if listed else None
    for each in [each for each in listed if each.author == me]:
        if tree := remote_tree(api, repo, f"refs/pr/{each.num}"):
            yield each, tree


def _ours(job: Job, plan: PublicationPlan, title: str) -> Proposal | None:
    """An undecided pull request of this title whose head is the plan's (nothing was committed yet) or holds all files."""
    for each, tree in undecided(job.api, job.repo, title, job.pause):
        if tree.commit == plan.head or _complete(job, plan, tree):
            return _proposal(each, tree)
    return None


def _complete(job: Job, plan: PublicationPlan, tree: RemoteTree) -> bool:
    return not job.plan(tree).changes and not tree.files.keys() & set(plan.removed)


def _proposal(discussion: Discussion, tree: RemoteTree) -> Proposal:
    return Proposal(discussion.num, tree.commit, is_open=discussion.status == "open")


def _drafted(job: Job, plan: PublicationPlan, title: str) -> Proposal:
    """A new draft.  The client does not repeat this request; one that succeeded and lost its answer is found by its title."""
    for seconds in (*BACK_OFF, None):
        try:
            made = job.api.create_pull_request(job.repo, title=title, description=DESCRIPTION)
        except Exception as error:
            if seconds is None or not passes(error):
                raise
            job.pause(seconds)
            if found := _ours(job, plan, title):
                return found
        else:
            tree = remote_tree(job.api, job.repo, f"refs/pr/{made.num}")
            if tree is None or tree.commit != plan.head:
                raise CheckFailedError(f"{job.repo}: the branch moved while pull request {made.num} was made; run again")
            return _proposal(made, tree)
    raise AssertionError("the last try returns or raises")
