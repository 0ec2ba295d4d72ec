"""Publish: one commit per repository, only of what equals the lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.files import canonical_json, write_atomic
from release.context import Context
from release.stages.kept_card import with_kept_parts
from release.stages.publication import Repository, repositories
from release.stages.stage import Stage

if TYPE_CHECKING:
    from release.hub.publish import Publication


def skip_unpublished(context: Context) -> str | None:
    """Reason to skip the stages that need a Hub."""
    return None if context.manifest.publish else "the manifest has no publish section"


def _run(context: Context) -> str:
    from release.hub.secret_scan import require_no_secrets

    planned = [with_kept_parts(context, repository) for repository in repositories(context)]
    for repository in planned:
        require_no_secrets(repository.files, folders=(context.work.resolve(), context.loaded.root.resolve()))
    done = [_published(context, repository) for repository in planned]
    commits = {each.repo: each.commit for each in done}
    write_atomic(context.work / "published.json", canonical_json(commits))
    return ", ".join(f"{each.repo}@{each.commit[:12]}{'' if each.changed else ' (nothing to change)'}" for each in done)


def _published(context: Context, repository: Repository) -> Publication:
    from release.hub.publish import publish

    hub = context.options.hub
    try:
        return publish(
            repository.repo,
            repository.files,
            repository.digests,
            endpoint=hub.endpoint,
            token=hub.token,
            private=context.publish.private,
            message=f"{context.manifest.name}: release",
            tag=context.publish.tag,
            progress=context.progress,
        )
    except CheckFailedError as error:
        if hub.label != "local":
            raise
        raise CheckFailedError(f"{error}; this is a rehearsal: remove {context.work.parent / 'hub'} to start it anew") from None


STAGE = Stage(
    name="publish",
    title="publishing",
    run=_run,
    outputs=lambda context: (context.work / "published.json",),
    skip=skip_unpublished,
    needs=("verify", "quantize", "eval", "card", "lock"),
)
