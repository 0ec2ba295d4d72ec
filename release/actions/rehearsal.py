"""`moe-release rehearse`: the whole release against a local Hub in a scratch folder, and what the real one will do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.errors import CheckFailedError, InputError, MoeReleaseError, UnavailableError
from pruner.hub_failures import endpoint_of
from release.card.claims import format_bytes
from release.context import Context
from release.hub.endpoint import HubTarget
from release.manifest import LoadedManifest
from release.reports.publication import plan_json, plan_lines
from release.stages import tags
from release.stages.kept_card import with_kept_parts
from release.stages.publication import Repository, repositories
from release.stages.publish import publication_plan
from release.stages.sign import signed

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from release.hub.publication_plan import PublicationPlan


@dataclass(frozen=True)
class Outlook:
    """What the real release will do.

    Attributes:
        endpoint: the real Hub.
        base_on_hub: whether Xet storage may know the base's bytes.
        plans: one for each repository, in the order of the commits.
        then: what follows the commits, in words.
        problems: why the real release would stop.
        unknown: what the real Hub could not be asked.
    """

    endpoint: str
    base_on_hub: bool
    plans: tuple[PublicationPlan, ...]
    then: tuple[str, ...]
    problems: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The outlook for machines."""
        return {
            "hub": self.endpoint,
            "repositories": [plan_json(plan, base_on_hub=self.base_on_hub) for plan in self.plans],
            "new_bytes": sum(plan.new_bytes for plan in self.plans),
            "estimated_bytes": sum(plan.estimated_bytes(base_on_hub=self.base_on_hub) for plan in self.plans),
            "then": list(self.then),
            "problems": list(self.problems),
            "unknown": list(self.unknown),
        }

    def text(self) -> str:
        """The outlook for a person."""
        lines = ["", f"The real release, at {self.endpoint}, will make one commit in each of:"]
        lines += [f"  {line}" for plan in self.plans for line in plan_lines(plan, base_on_hub=self.base_on_hub)]
        lines.append(f"{format_bytes(sum(plan.new_bytes for plan in self.plans))} to send at most")
        lines += [f"then       {each}" for each in self.then]
        lines += [f"not known  {each}" for each in self.unknown]
        lines += [f"PROBLEM    {each}" for each in self.problems]
        return "\n".join(lines)


def scratch_hub(scratch: Path) -> Path:
    """An empty folder for the rehearsal's Hub; that of an earlier rehearsal is removed, nothing else is.

    Raises:
        CheckFailedError: there is a folder of that name which is no Hub.
    """
    folder = scratch / "hub"
    if folder.exists():
        if not (folder / "hub.json").exists():
            raise CheckFailedError(f"{folder}: exists and is no rehearsal Hub; move it away or choose another --scratch")
        shutil.rmtree(folder)
    return folder


def rehearsable(loaded: LoadedManifest) -> None:
    """Raise InputError for a manifest that publishes nothing."""
    if loaded.content.publish is None:
        raise InputError(f"{loaded.path}: has no publish section: there is nothing to rehearse")


def outlook(context: Context, real: HubTarget, *, pull_request: bool = False) -> Outlook:
    """Compare a release that was rehearsed with what the real Hub holds; nothing is written there.

    Args:
        context: the finished rehearsal.
        real: the Hub that the release is meant for.
        pull_request: the real release will be a pull request (a rehearsal has no repo to propose to).
    """
    from release.hub.publication_plan import compare_tree
    from release.hub.remote import hub_api

    api = hub_api(real.endpoint, real.token)
    plans: list[PublicationPlan] = []
    problems: list[str] = []
    unknown: list[str] = []
    there = replace(context, options=replace(context.options, hub=real, pull_request=pull_request))
    for number, made in enumerate(repositories(context)):
        repository = made
        try:
            repository = with_kept_parts(there, made)
            repository = repository if number else signed(there, repository)
            plan = publication_plan(there, repository)
        except UnavailableError as error:
            unknown.append(f"{error}; counted as empty")
            plan = compare_tree(repository.files, repository.digests, None, repository.repo)
        except CheckFailedError as error:
            problems.append(str(error))
            plan = publication_plan(there, repository)
        else:
            problems += _problems(context, api, repository, plan, pull_request=pull_request)
        problems += tags.wrong_tags(there, plan)
        plans.append(plan)
    if real.token is None:
        unknown.append("no Hub token: its rights, and private repositories")
    elif not unknown:
        problems += _rights(context, api, pull_request=pull_request)
    return Outlook(
        endpoint_of(api.endpoint),
        context.manifest.base.repo is not None,
        tuple(plans),
        tuple(_then(context, pull_request=pull_request)),
        tuple(problems),
        tuple(unknown),
    )


def _problems(
    context: Context, api: HfApi, repository: Repository, plan: PublicationPlan, *, pull_request: bool
) -> Iterator[str]:
    """Why this repository would be refused, though nothing is wrong with the release."""
    from release.hub.publication_plan import compare_tree
    from release.hub.remote import tag_tree

    publish = context.publish
    if plan.head is None or plan.settled:
        return
    if publish.private and plan.private is False and not pull_request:
        yield f"{plan.repo}: is public, and the release was to stay private"
    named = tag_tree(api, plan.repo, publish.tag) if publish.tag and not pull_request else None
    if named and compare_tree(repository.files, repository.digests, named, plan.repo).changes:
        yield f"{plan.repo}: the tag {publish.tag} names commit {named.commit[:12]}, which holds other files"


def _rights(context: Context, api: HfApi, *, pull_request: bool) -> Iterator[str]:
    from release.hub.announce import require_collection, require_repo
    from release.hub.rights import require_rights

    publish = context.publish
    older = [publish.supersedes.weights, publish.supersedes.gguf] if publish.supersedes else []
    try:
        require_rights(api, [each for each in (publish.weights, publish.gguf) if each], pull_request=pull_request)
        if publish.collection:
            require_collection(api, publish.collection)
        for old in filter(None, older):
            require_repo(api, old)
    except MoeReleaseError as error:
        yield str(error)


def _then(context: Context, *, pull_request: bool) -> Iterator[str]:
    """What follows the commits."""
    publish = context.publish
    if pull_request:
        yield "open the pull requests, once they were read back"
        return
    yield "read every digest back" + (f", and set the tag {publish.tag}" if publish.tag else "")
    if publish.gguf:
        yield f"load {publish.gguf}:{context.gguf.quants[0].name} with `llama-server -hf` and ask it"
    if publish.private:
        yield "stay private until `moe-release promote`"
        return
    yield "make the repositories public, weights first"
    if publish.collection:
        yield f"add them to the collection {publish.collection}"
    for old in filter(None, [publish.supersedes.weights, publish.supersedes.gguf] if publish.supersedes else []):
        yield f"propose to {old} that its card names the new version"
