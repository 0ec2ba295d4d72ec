"""How a command runs stages of the pipeline: its context, its progress on the screen, its summary."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pruner.errors import InputError
from pruner.folds import parse_part
from release.commands.options import BASE

if TYPE_CHECKING:
    from release.console import ConsoleProgress
    from release.context import Context
    from release.pipeline import StageResult


def context_of(manifest: Path, work: Path | None, base: Path | None = None) -> Context:
    """A loaded manifest with its work folder, which is build/<name> unless the user says otherwise."""
    from release.context import Context
    from release.manifest import load_manifest

    named = os.environ.get(BASE)  # for the commands that have no --base
    loaded = load_manifest(manifest, base or (Path(named) if named else None))
    return Context(loaded, work or Path("build") / loaded.content.name)


def console_progress() -> ConsoleProgress:
    """Progress on the screen: a context manager."""
    from release.console import ConsoleProgress

    return ConsoleProgress()


def proved_digests() -> Path:
    """The user's folder that remembers digests of proved shards."""
    from release.gguf.toolchain import cache_folder

    return cache_folder() / "planned-digests"


@contextmanager
def running(
    manifest: Path,
    *,
    work: Path | None,
    base: Path | None = None,
    skip: str = "",
    until: str | None = None,
    hub: str | None = None,
    update_lock: bool = False,
    replace_card: bool = False,
    llama_cpp: Path | None = None,
    offload: str = "none",
    pull_request: bool = False,
    prune_remote: bool = False,
    sign: Path | None = None,
    rehearsal: bool = False,
    hub_folder: Path | None = None,
    workers: int | None = None,
    servers: int = 1,
    server_urls: tuple[str, ...] = (),
    limit: int | None = None,
    fold: str | None = None,
    memory: str | None = None,
) -> Iterator[Context]:
    """A manifest's context with what the command line says, progress on the screen, and its Hub."""
    from release.context import Options
    from release.hub.endpoint import open_hub

    if server_urls and servers != 1:
        raise InputError("--servers starts servers here, --server names running ones; give one of the two")
    if fold is not None and limit is not None:
        raise InputError("--fold asks all questions of its fold, --limit the first few of all; give one of the two")
    part = None if fold is None else _fold(fold)
    context = context_of(manifest, work, base)
    place = hub_folder or context.work.parent / "hub"
    last = "eval" if limit is not None and until is None else until
    with console_progress() as progress, open_hub(hub, place, serve=asks_hub(last)) as target:
        context.options = Options(
            skip=frozenset(filter(None, skip.split(","))),
            until=last,
            hub=target,
            update_lock=update_lock,
            replace_card=replace_card,
            llama_cpp=llama_cpp,
            workers=workers,
            servers=servers,
            server_urls=server_urls,
            limit=limit,
            fold=part,
            memory=_size(memory),
            offload=offload == "layers",
            pull_request=pull_request,
            prune_remote=prune_remote,
            sign=sign,
            rehearsal=rehearsal,
        )
        context.progress = progress
        yield context


def asks_hub(last: str | None) -> bool:
    """Whether a run that ends with a stage asks the release's Hub: the card is the first that does."""
    from release.pipeline import stage_names

    names = stage_names()
    return last not in names or names.index(last) >= names.index("card")


def _fold(text: str) -> tuple[int, int]:
    index, count = parse_part(text, "--fold")
    if count < 2:  # noqa: PLR2004 - that is what folding takes
        raise InputError(f"--fold {text}: one fold is the whole exam; leave --fold out, or give as many as `rank --folds` made")
    return index, count


def _size(text: str | None) -> int | None:
    """Bytes of an option such as `8GiB`."""
    from release.manifest import parse_size

    try:
        return None if text is None else int(parse_size(text))
    except ValueError as error:
        raise InputError(f"--memory: {error}") from None


def run_stages(manifest: Path, *, as_json: bool = False, **options: Any) -> None:
    """Run the pipeline and print its summary; the options are those of `running`."""
    from release.actions.summary import summary_json, summary_text
    from release.pipeline import run_pipeline

    with running(manifest, **options) as context:
        results = run_pipeline(context, lambda result: context.progress.note(console_line(result)))
    typer.echo(json.dumps(summary_json(context, results), indent=2) if as_json else summary_text(context, results))


def console_line(result: StageResult) -> str:
    """One finished stage on the screen."""
    mark = {"done": "✓", "up to date": "=", "skipped": "-"}[result.status]
    detail = f"  {result.detail}" if result.detail else ""
    time = f"{result.seconds:10.1f} s" if result.status == "done" else f"{result.status:>12}"
    return f"{mark} {result.title:<37}{time}{detail}"
