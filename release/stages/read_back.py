"""Read back: every digest from the Hub, and an answer of the published quant loaded from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pruner.files import canonical_json, write_atomic
from release.context import Context
from release.stages.publication import Repository, repositories
from release.stages.publish import skip_unpublished
from release.stages.quantize import model_file, quant_files
from release.stages.stage import Stage


def _run(context: Context) -> str:
    from release.hub.read_back import read_back

    hub = context.options.hub
    commits: dict[str, str] = json.loads((context.work / "published.json").read_bytes())
    published = repositories(context)
    for repository in published:
        with context.progress.task(f"reading back {repository.repo}", None):
            read_back(repository.repo, commits[repository.repo], repository.digests, endpoint=hub.endpoint, token=hub.token)
    count = sum(len(repository.files) for repository in published)
    answer = _answer(context, published)
    return f"{count} files as locked{answer}"


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
    published = json.loads((context.work / "published.json").read_bytes())
    return [context.options.hub.label, published, [repository.digests for repository in repositories(context)]]


def _outputs(context: Context) -> list[Path]:
    return [context.work / "readback.json"] if context.publish.gguf else []


STAGE = Stage(
    name="readback",
    title="reading back",
    run=_run,
    inputs=_inputs,
    outputs=_outputs,
    skip=skip_unpublished,
    needs=("publish",),
)
