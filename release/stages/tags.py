"""The tags of quants in the repository as a commit would leave it: files of others, and older ones, answer to tags too."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from release.context import Context
from release.gguf.names import wrong_tag
from release.stages.quantize import model_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from release.hub.publication_plan import PublicationPlan


def require_tags(context: Context, plan: PublicationPlan) -> None:
    """Require that every tag of the release would find its own file once `plan` is done.

    Raises:
        CheckFailedError: a file that stays in the repository would be found instead, or beside it.
    """
    for problem in wrong_tags(context, plan):
        raise CheckFailedError(f"{problem}; nothing was committed")


def require_free_tags(context: Context, api: HfApi) -> None:
    """Require the same before anything is built, as far as file names tell it: what is no release of ours stays there.

    Raises:
        CheckFailedError: see `require_tags`.
        UnavailableError: the Hub cannot be reached.
    """
    from release.hub.earlier import stale_files
    from release.hub.remote import remote_tree

    repo = context.publish.gguf
    if repo is None or context.options.prune_remote or (tree := remote_tree(api, repo)) is None:
        return
    own = {quant.name: context.gguf_file(quant.name).name for quant in context.gguf.quants}
    shards = tuple(f"{name.removesuffix('.gguf')}-0" for name in own.values())
    foreign = tree.files.keys() - {*own.values()} - {*stale_files(api, repo, tree, own.values())}
    paths = {*own.values(), *(path for path in foreign if not path.startswith(shards))}
    for problem in _wrong(repo, own, paths):
        raise CheckFailedError(problem)


def require_standing_tags(context: Context, api: HfApi) -> None:
    """Require the same of what stands there now, whoever put it there since.

    Raises:
        CheckFailedError: see `require_tags`.
        UnavailableError: the Hub cannot be reached.
    """
    from release.hub.remote import remote_tree

    repo = context.publish.gguf
    if repo is None or (tree := remote_tree(api, repo)) is None:
        return
    files = {quant.name: model_file(context, quant.name).name for quant in context.gguf.quants}
    for problem in _wrong(repo, files, tree.files):
        raise CheckFailedError(f"{problem}; nothing was made public")


def wrong_tags(context: Context, plan: PublicationPlan) -> Iterator[str]:
    """What is wrong with tags, by llama.cpp's rule and the Hub's; nothing for another repository than that of the quants."""
    if context.manifest.gguf is None or plan.repo != context.publish.gguf:
        return
    own = {file.path for file in (*plan.unchanged, *plan.changes)}
    files = {quant.name: model_file(context, quant.name).name for quant in context.gguf.quants}
    yield from _wrong(plan.repo, files, own | (set(plan.foreign) - set(plan.pruned)), own)


def _wrong(repo: str, files: Mapping[str, str], paths: Collection[str], own: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with the tags of `files` among all `paths` of a repository, of which `own` are the release's."""
    for quant, file in files.items():
        if (problem := wrong_tag(quant, file, paths)) is None:
            continue
        remedy = problem.remedy
        if problem.found is not None and problem.found not in {*files.values(), *own}:
            remedy = f"remove {problem.found} there, or all that is not of this release with --prune-remote"
        yield f"{repo}: quant {quant}: {problem.reason}; {remedy}"
