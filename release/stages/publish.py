"""Publish: one commit per repository, only of what equals the lock."""

from __future__ import annotations

import tempfile
from pathlib import Path
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
    from release.hub.publish import Prepared, Publication

EVERYBODYS = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108  # nothing is written there
"""Temporary folders that every machine has: naming them tells nothing of this one."""

PUBLISHED, PROMOTED = "published.json", "promoted.json"
"""In a work folder: the commits that were published, and those that `promote` made public; none since others were made."""


def skip_unpublished(context: Context) -> str | None:
    """Reason to skip the stages that need a Hub."""
    return None if context.manifest.publish else "the manifest has no publish section"


def _run(context: Context) -> str:
    from release.hub.publish import commit_prepared

    planned = [with_kept_parts(context, repository) for repository in repositories(context)]
    planned[0] = signed(context, planned[0])
    prepared = [_prepared(context, repository) for repository in planned]  # all of them before the first commit
    for each in prepared:
        for line in plan_lines(each.plan, base_on_hub=context.manifest.base.repo is not None):
            context.progress.note(line)
        require_tags(context, each.plan)
    done = [commit_prepared(each, context.progress) for each in prepared]
    commits = {each.repo: each.commit for each in done}
    if any(each.changed for each in done):
        (context.work / PROMOTED).unlink(missing_ok=True)
    write_atomic(context.work / PUBLISHED, canonical_json(commits))
    return ", ".join(_said(each) for each in done)


def _folders(context: Context) -> list[Path]:
    """Folders of this machine that no published file may name: where a release is made, from what, and with which tools."""
    from huggingface_hub import constants

    options, loaded = context.options, context.loaded
    named = [context.work, loaded.root, loaded.local_base, loaded.base_copy, options.llama_cpp, Path(constants.HF_HOME)]
    named += [folder for folder in [Path(tempfile.gettempdir())] if folder not in EVERYBODYS]
    found = [form for folder in named if folder is not None for form in (folder.absolute(), folder.resolve())]
    return sorted(set(found))


def _inherited(context: Context, repository: Repository) -> frozenset[str]:
    """Paths of a repository whose bytes are the base's own."""
    from release.stages.resolve import locked_base

    base = {file.sha256 for file in locked_base(context).files.values()}
    if context.manifest.gguf:
        base |= {digest for source in context.gguf.mmproj for digest in source.digests}
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


def _prepared(context: Context, repository: Repository) -> Prepared:
    from release.hub.publish import Terms, prepare

    hub, publish, options = context.options.hub, context.publish, context.options
    terms = Terms(
        private=publish.private,
        message=release_title(context),
        tag=publish.tag,
        gated=publish.gated,
        prune_remote=options.prune_remote,
        pull_request=options.pull_request,
    )
    try:
        return prepare(
            repository.repo,
            repository.files,
            repository.digests,
            terms,
            endpoint=hub.endpoint,
            token=hub.token,
            inherited=_inherited(context, repository),
            folders=_folders(context),
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
    outputs=lambda context: (context.work / PUBLISHED,),
    skip=skip_unpublished,
    needs=("verify", "quantize", "eval", "card", "lock"),
)
