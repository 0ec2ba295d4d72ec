"""The tags of quants in the repository as a commit would leave it: files of others, and older ones, answer to tags too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from release.context import Context
from release.gguf.names import wrong_tag
from release.stages.quantize import model_file

if TYPE_CHECKING:
    from release.hub.publication_plan import PublicationPlan


def require_tags(context: Context, plan: PublicationPlan) -> None:
    """Require that every tag of the release would find its own file once `plan` is done.

    Raises:
        CheckFailedError: a file that stays in the repository would be found instead, or beside it.
    """
    for problem in wrong_tags(context, plan):
        raise CheckFailedError(f"{problem}; nothing was committed")


def wrong_tags(context: Context, plan: PublicationPlan) -> Iterator[str]:
    """What is wrong with tags, by llama.cpp's rule and the Hub's; nothing for another repository than that of the quants."""
    if context.manifest.gguf is None or plan.repo != context.publish.gguf:
        return
    own = {file.path for file in (*plan.unchanged, *plan.changes)}
    paths = own | (set(plan.foreign) - set(plan.pruned))
    for quant in context.gguf.quants:
        if (problem := wrong_tag(quant.name, model_file(context, quant.name).name, paths)) is None:
            continue
        remedy = problem.remedy
        if problem.found is not None and problem.found not in own:
            remedy = f"remove {problem.found} there, or all that is not of this release with --prune-remote"
        yield f"{plan.repo}: quant {quant.name}: {problem.reason}; {remedy}"
