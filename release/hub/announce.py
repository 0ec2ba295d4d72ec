"""What the world sees of a release that is complete: visibility, gating, a collection, and the way there from an older one."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pruner.errors import CheckFailedError, UnavailableError
from pruner.files import sha256_bytes
from pruner.hub_failures import endpoint_of, patiently
from pruner.progress import SILENT, Progress
from release.hub.card_check import CARD, require_valid_card
from release.hub.card_metadata import FRONT_MATTER, card_metadata
from release.hub.commit import Job, operations
from release.hub.pull_request import propose
from release.hub.remote import RemoteTree, hub_errors, quiet_client, remote_tree
from release.hub.small_files import remote_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Gated = Literal[False, "auto", "manual"]
LARGEST_CARD = 16 << 20
"""Bytes of an older repo's card; it is not ours and may be long."""
NEW_VERSION = re.compile(r"^new_version:.*$", re.MULTILINE)


def open_to_all(api: HfApi, repos: Sequence[str]) -> list[str]:
    """Make repos public, in their order; returns those that were private.

    Raises:
        CheckFailedError: the Hub says yes and leaves one private.
        UnavailableError: the token may not do it.
    """
    return [repo for repo in repos if _open(api, repo)]


def _open(api: HfApi, repo: str) -> bool:
    """Make one repo public; returns whether it was private."""
    with hub_errors(api.endpoint, f"make {repo} public"):
        if not patiently(lambda: api.model_info(repo), endpoint=api.endpoint).private:
            return False
        patiently(lambda: api.update_repo_settings(repo, private=False), endpoint=api.endpoint)
        if patiently(lambda: api.model_info(repo), endpoint=api.endpoint).private:
            raise CheckFailedError(f"{repo}: the Hub left it private; change its settings by hand, then run again")
    return True


def set_gated(api: HfApi, repo: str, gated: Gated) -> bool:
    """Ask readers of a repo for their agreement, or no longer; returns whether that changed."""
    with hub_errors(api.endpoint, f"change who may read {repo}"):
        if patiently(lambda: api.model_info(repo), endpoint=api.endpoint).gated == gated:
            return False
        patiently(lambda: api.update_repo_settings(repo, gated=gated), endpoint=api.endpoint)
    return True


def require_collection(api: HfApi, collection: str) -> None:
    """Raise UnavailableError when a collection that is named by its slug does not exist."""
    if "/" in collection:
        with hub_errors(api.endpoint, f"find the collection {collection}"):
            patiently(lambda: api.get_collection(collection), endpoint=api.endpoint)


def collect(api: HfApi, collection: str, repos: Sequence[str]) -> str:
    """Put repos into a collection and return its slug.

    Args:
        api: the client.
        collection: the slug of one that exists ("org/title-0123…"), or a title: that of the first repo's owner, made if needed.
        repos: what to add; what is in it already stays where it is.
    """
    owner = repos[0].partition("/")[0]
    with hub_errors(api.endpoint, f"add {', '.join(repos)} to the collection {collection}"):
        slug = collection
        if "/" not in collection:
            slug = patiently(
                lambda: api.create_collection(collection, namespace=owner, exists_ok=True), endpoint=api.endpoint
            ).slug
        for repo in repos:
            _add(api, slug, repo)
    return slug


def _add(api: HfApi, slug: str, repo: str) -> None:
    patiently(lambda: api.add_collection_item(slug, repo, "model", exists_ok=True), endpoint=api.endpoint)


def with_new_version(card: str, successor: str) -> str:
    """A card whose metadata names the repo that replaces it; nothing else of it changes.

    Raises:
        CheckFailedError: the metadata cannot be read, so that nothing can be added to it safely.
    """
    if problems := card_metadata(card).errors:
        raise CheckFailedError(f"its metadata is damaged: {problems[0]}; mend it first")
    line = f"new_version: {successor}"
    match = FRONT_MATTER.match(card)
    if match is None:
        return f"---\n{line}\n---\n{card}"
    block = match[1]
    changed = NEW_VERSION.sub(line, block) if NEW_VERSION.search(block) else f"{block}{line}\n"
    return card[: match.start(1)] + changed + card[match.end(1) :]


def supersede(
    api: HfApi, old: str, new: str, *, progress: Progress = SILENT, pause: Callable[[float], None] = time.sleep
) -> int | None:
    """Propose that an older repo's card names its successor; returns the pull request, None when it does already.

    Raises:
        CheckFailedError: the old card's metadata is damaged, or it is too large to be a card.
        UnavailableError: the old repo does not exist, or takes no pull request from this token.
    """
    tree = require_repo(api, old)
    card = remote_text(api, old, tree, CARD, LARGEST_CARD) or ""
    if card_metadata(card).data.get("new_version") == new:
        return None
    try:
        text = with_new_version(card, new)
    except CheckFailedError as error:
        raise CheckFailedError(f"{old}: {error}") from None
    data = text.encode()
    with tempfile.TemporaryDirectory() as folder, hub_errors(api.endpoint, f"propose to {old}"), quiet_client(progress):
        local = Path(folder) / CARD
        local.write_bytes(data)
        require_valid_card(api, text)
        job = Job(api, old, {CARD: local}, {CARD: sha256_bytes(data)}, pause)
        plan = job.plan(tree)
        return propose(job, plan, lambda ref: operations(job, plan, progress, ref), f"new_version: {new}").number


def require_repo(api: HfApi, repo: str) -> RemoteTree:
    """What a repo that must exist holds on its main branch."""
    tree = remote_tree(api, repo)
    if tree is None:
        raise UnavailableError(
            f"{endpoint_of(api.endpoint)}: {repo} does not exist or may not be seen; correct the manifest's publish section"
        )
    return tree
