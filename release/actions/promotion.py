"""`moe-release promote`: a private release is verified on the Hub once more, then shown to everybody."""

from __future__ import annotations

from pruner.errors import CheckFailedError
from pruner.files import write_atomic
from pruner.wording import counted
from release.context import Context
from release.records import read_made
from release.stages.kept_card import with_kept_card
from release.stages.publication import repositories
from release.stages.publish import PROMOTED, PUBLISHED
from release.stages.read_back import announce
from release.stages.tags import require_standing_tags


def promote(context: Context) -> str:
    """Read every digest back from the main branches and from the tag, and what tags of quants find; then make all public.

    Returns:
        one line for the user.

    Raises:
        CheckFailedError: the release was not published from this work folder, or the Hub does not hold what the lock says,
            or a file of somebody else is found under the tag of a quant.
        UnavailableError: the Hub cannot be reached, or the token may not do it.
    """
    from release.hub.announce import set_gated
    from release.hub.read_back import read_back
    from release.hub.remote import hub_api
    from release.hub.rights import require_rights

    hub, publish = context.options.hub, context.publish
    hub.require_token()
    _require_published(context)
    planned = [with_kept_card(context, repository) for repository in repositories(context)]
    api = hub_api(hub.endpoint, hub.token)
    require_rights(api, [repository.repo for repository in planned])
    for repository in planned:
        for revision in ("main", *([publish.tag] if publish.tag else [])):
            with context.progress.task(f"reading back {repository.repo}@{revision}", None):
                read_back(repository.repo, revision, repository.digests, endpoint=hub.endpoint, token=hub.token)
    require_standing_tags(context, api)
    if publish.gated is not None:
        for repository in planned:
            set_gated(api, repository.repo, publish.gated)
    count = sum(len(repository.files) for repository in planned)
    shown = announce(context)
    write_atomic(context.work / PROMOTED, (context.work / PUBLISHED).read_bytes())
    return f"{counted(count, 'file')} as locked{shown or '; everything was public already'}"


def is_promoted(context: Context) -> bool:
    """Whether the repositories that were published from this work folder have been made public by `promote`."""
    return (context.work / PROMOTED).is_file()


def _require_published(context: Context) -> None:
    """The digests to compare with are those of the last publication, not of a build that went on since."""
    context.record("publish")
    published = context.work / PUBLISHED
    if not published.exists() or set(read_made(published, dict[str, str])) != {each.repo for each in repositories(context)}:
        raise CheckFailedError(
            f"{context.loaded.path}: its repositories were not published from {context.work}; run `moe-release cut` first"
        )
