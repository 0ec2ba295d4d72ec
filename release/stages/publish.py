"""Publish: one commit per repository, only of what equals the lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.files import canonical_json, write_atomic
from release.context import Context
from release.reports.publication import plan_lines
from release.stages.kept_card import with_kept_parts
from release.stages.publication import Repository, repositories
from release.stages.sign import signed
from release.stages.stage import Stage
from release.stages.standing import release_title
from release.stages.tags import require_tags

if TYPE_CHECKING:
    from release.hub.publication_plan import PublicationPlan
    from release.hub.publish import Publication


def skip_unpublished(context: Context) -> str | None:
    """Reason to skip the stages that need a Hub."""
    return None if context.manifest.publish else "the manifest has no publish section"


def _run(context: Context) -> str:
    from release.hub.secret_scan import require_no_secrets

    planned = [with_kept_parts(context, repository) for repository in repositories(context)]
    planned[0] = signed(context, planned[0])
    for repository in planned:
        folders = (context.work.resolve(), context.loaded.root.resolve())
        require_no_secrets(repository.files, folders, _inherited(context, repository))
    for plan in [publication_plan(context, repository) for repository in planned]:
        for line in plan_lines(plan, base_on_hub=context.manifest.base.repo is not None):
            context.progress.note(line)
        require_tags(context, plan)
    done = [_published(context, repository) for repository in planned]
    commits = {each.repo: each.commit for each in done}
    write_atomic(context.work / "published.json", canonical_json(commits))
    return ", ".join(_said(each) for each in done)


def _inherited(context: Context, repository: Repository) -> frozenset[str]:
    """Paths of a repository whose bytes are the base's own."""
    from release.stages.resolve import locked_base

    base = {file.sha256 for file in locked_base(context).files.values()}
    return frozenset(path for path, digest in repository.digests.items() if digest in base)


def _said(done: Publication) -> str:
    proposed = f" as pull request {done.pull_request}" if done.pull_request else ""
    return f"{done.repo}@{done.commit[:12]}{proposed}{'' if done.changed else ' (nothing to change)'}"


def publication_plan(context: Context, repository: Repository) -> PublicationPlan:
    """What publishing one repository would change on the Hub that the context's options name."""
    from release.hub.publication_plan import plan_publication
    from release.hub.remote import hub_api

    api = hub_api(context.options.hub.endpoint, context.options.hub.token)
    prune = context.options.prune_remote
    return plan_publication(repository.files, repository.digests, api, repository.repo, prune=prune)


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
            message=release_title(context),
            tag=context.publish.tag,
            gated=context.publish.gated,
            inherited=_inherited(context, repository),
            prune_remote=context.options.prune_remote,
            pull_request=context.options.pull_request,
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
