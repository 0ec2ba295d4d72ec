"""The card that is about to be published beside the one that stands there: what people wrote by hand is kept.

A card whose text was changed outside of its hand-written parts is never overwritten unasked.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.files import sha256_bytes, write_atomic
from release.card.handwritten import LARGEST, difference, merge, only_parts_changed, without_parts
from release.context import Context
from release.hub.card_check import CARD
from release.lock import LARGEST_LOCK
from release.reproduce import LOCK
from release.stages.kept_seconds import keep_seconds, with_kept_seconds
from release.stages.publication import Repository
from release.stages.standing import standing_trees

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MOST_COMMITS = 10


def with_kept_parts(context: Context, repository: Repository) -> Repository:
    """The repository's files, with the Hub's seconds, and hand-written parts in the card; shows what changes in it.

    Raises:
        CheckFailedError: somebody changed the card on the Hub outside of its hand-written parts; --replace-card allows it.
    """
    from release.hub.remote import hub_api, remote_tree
    from release.hub.small_files import remote_text

    hub = context.options.hub
    api = hub_api(hub.endpoint, hub.token)
    tree = remote_tree(api, repository.repo)
    repository = keep_seconds(context, repository, api, standing_trees(context, api, repository.repo, tree))
    existing = remote_text(api, repository.repo, tree, CARD, LARGEST)
    rendered = repository.files[CARD].read_text(encoding="utf-8")
    kept = _kept_path(context, repository.repo)
    kept.unlink(missing_ok=True)
    if existing is None:
        return repository
    where = f"{repository.repo}: {CARD}"
    merged = merge(rendered, existing, where)
    if changes := difference(existing, merged, CARD):
        for line in (f"{where} changes:", *changes.splitlines()):
            context.progress.note(line)
        if not context.options.replace_card:
            _require_ours(context, api, repository, existing)
    if merged == rendered:
        return repository
    write_atomic(kept, merged.encode())
    return with_kept_card(context, repository)


def with_kept_card(context: Context, repository: Repository) -> Repository:
    """The repository with the seconds and the card that the publish stage kept or merged, if they are of this very release."""
    repository = with_kept_seconds(context, repository)
    kept = _kept_path(context, repository.repo)
    if not kept.exists():
        return repository
    data = kept.read_bytes()
    if sha256_bytes(without_parts(data.decode()).encode()) != repository.digests[CARD]:
        return repository  # left by an earlier release
    files, digests = {**repository.files, CARD: kept}, {**repository.digests, CARD: sha256_bytes(data)}
    return replace(repository, files=files, digests=digests)


def _kept_path(context: Context, repo: str) -> Path:
    return context.work / "kept" / repo.replace("/", "--") / CARD


def _require_ours(context: Context, api: HfApi, repository: Repository, existing: str) -> None:
    """Refuse to lose what somebody wrote outside of the markers: then the card is in none of the last releases' locks.

    One lock is not enough: a run that was killed between the two repositories left a newer one with the weights.
    """
    from release.hub.remote import remote_tree
    from release.hub.small_files import remote_bytes

    weights = context.publish.weights  # the lock of both repositories stands there
    for commit in _latest_commits(api, weights):
        locked = _locked_cards(remote_bytes(api, weights, remote_tree(api, weights, commit), LOCK, LARGEST_LOCK))
        if any(only_parts_changed(existing, digest) for digest in locked):
            return
    raise CheckFailedError(
        f"{repository.repo}: its {CARD} was written or changed by somebody else, outside of hand-written parts; put their "
        "text between <!-- hand-written: notes --> and <!-- end of hand-written: notes --> there, or say --replace-card"
    )


def _latest_commits(api: HfApi, repo: str) -> list[str]:
    """The repo's last commits, newest first; none when it does not exist."""
    from pruner.hub_failures import patiently
    from release.hub.remote import hub_errors, remote_tree

    if remote_tree(api, repo) is None:
        return []
    with hub_errors(api.endpoint, f"list the commits of {repo}"):
        commits = patiently(lambda: api.list_repo_commits(repo), endpoint=api.endpoint)
    return [commit.commit_id for commit in commits[:MOST_COMMITS]]


def _locked_cards(lock: bytes | None) -> list[str]:
    """Digests of the cards of a release, from its lock."""
    try:
        outputs = json.loads(lock or b"{}")["outputs"]
        return [str(file["sha256"]) for path, file in outputs.items() if path.startswith("card/README")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
