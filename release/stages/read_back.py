"""Read back: every digest from the Hub, and an answer of the published quant loaded from there; then the world may see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruner.files import canonical_json, write_atomic
from pruner.wording import counted
from release.context import Context
from release.records import read_made
from release.stages.kept_card import with_kept_card
from release.stages.publication import Repository, repositories
from release.stages.publish import PUBLISHED, skip_unpublished
from release.stages.quantize import model_file, quant_files
from release.stages.stage import Stage


def _run(context: Context) -> str:
    from release.hub.read_back import read_back

    hub = context.options.hub
    commits = read_made(context.work / PUBLISHED, dict[str, str])
    published = _published(context)
    for repository in published:
        with context.progress.task(f"reading back {repository.repo}", None):
            read_back(repository.repo, commits[repository.repo], repository.digests, endpoint=hub.endpoint, token=hub.token)
    count = sum(len(repository.files) for repository in published)
    if context.options.pull_request:
        return f"{counted(count, 'file')} as locked, to be merged on the Hub"
    answer = _answer(context, published)
    public = "" if context.publish.private else announce(context)
    return f"{counted(count, 'file')} as locked{answer}{public}"


def announce(context: Context) -> str:
    """Show a release that was read back to everybody: weights first, since the GGUFs' card links to them.

    Returns:
        what was done, in words that follow a finding; empty when everything was so already.
    """
    from release.hub.announce import collect, open_to_all, supersede
    from release.hub.remote import hub_api

    publish, hub = context.publish, context.options.hub
    api = hub_api(hub.endpoint, hub.token)
    repos = [publish.weights, *([publish.gguf] if publish.gguf else [])]
    done = [f"{repo} is public now" for repo in open_to_all(api, repos)]
    if hub.label == "local":  # collections and older repositories are the real Hub's
        return "".join(f"; {each}" for each in done)
    if publish.collection:
        done.append(f"in the collection {collect(api, publish.collection, repos)}")
    pairs = (
        [(publish.supersedes.weights, publish.weights), (publish.supersedes.gguf, publish.gguf)] if publish.supersedes else []
    )
    for old, new in pairs:
        if old and new and (number := supersede(api, old, new, progress=context.progress)):
            done.append(f"pull request {number} at {old} names {new} as its new version")
    return "".join(f"; {each}" for each in done)


def _published(context: Context) -> list[Repository]:
    """What was sent, with the cards that were merged."""
    return [with_kept_card(context, repository) for repository in repositories(context)]


def _answer(context: Context, published: list[Repository]) -> str:
    """Load the first quant with `llama-server -hf`, from the very Hub that it was published to, and ask it something."""
    if not context.publish.gguf:
        return ""
    from release.hub.download_check import check_download
    from release.hub.remote import hub_api

    quant = context.gguf.quants[0].name
    repository = next(each for each in published if each.repo == context.publish.gguf)
    hub = context.options.hub
    with context.progress.task("llama-server -hf", None):
        check = check_download(
            context.toolchain.binary("llama-server"),
            repository.repo,
            quant,
            endpoint=hub_api(hub.endpoint, hub.token).endpoint,
            token=hub.token,
            log=context.logs / "llama-server-hf.log",
            digests=repository.digests,
            file=model_file(context, quant).name,
            question=context.publish.question,
            scratch=context.work,
            timeout=_patience(sum(path.stat().st_size for path in quant_files(context, quant))),
        )
    write_atomic(context.work / "readback.json", canonical_json({"quant": quant, "file": check.file, "answer": check.reply}))
    return f"; llama-server -hf {repository.repo}:{quant} answers"


def _patience(size: int) -> float:
    """Seconds for a download of `size` bytes at 2 MB/s, and ten minutes to load it."""
    return 600 + size / 2e6


def _inputs(context: Context) -> Any:
    published = read_made(context.work / PUBLISHED, dict[str, str])
    digests = [repository.digests for repository in _published(context)]
    return [context.options.hub.label, published, digests, context.publish.model_dump(), context.options.pull_request]


def _outputs(context: Context) -> list[Path]:
    return [context.work / "readback.json"] if context.publish.gguf and not context.options.pull_request else []


STAGE = Stage(
    name="readback",
    title="reading back",
    run=_run,
    inputs=_inputs,
    outputs=_outputs,
    skip=skip_unpublished,
    needs=("publish",),
)
