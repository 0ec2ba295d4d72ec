"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

BASE = "MOE_RELEASE_BASE"
"""Environment variable of the user's own copy of the base."""

ManifestArgument = Annotated[Path, typer.Argument(metavar="MANIFEST", help="The variant's YAML file.", show_default=False)]
WorkOption = Annotated[Path | None, typer.Option("--work", metavar="DIR", help="Work folder; default build/<name>.")]
BaseOption = Annotated[
    Path | None,
    typer.Option(
        "--base",
        metavar="FOLDER",
        envvar=BASE,
        help="Your own copy of the base, wherever it lies; every file must be the pinned one.",
    ),
]
HubOption = Annotated[
    str | None, typer.Option("--hub", metavar="URL|local", help="Hub to publish to; default: the public one.")
]
LlamaOption = Annotated[Path | None, typer.Option("--llama-cpp", metavar="DIR", help="Use this llama.cpp build.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
UpdateLockOption = Annotated[bool, typer.Option("--update-lock", help="Accept what was built as the new lock.")]
ReplaceCardOption = Annotated[
    bool, typer.Option("--replace-card", help="Overwrite a card on the Hub that somebody else changed.")
]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Parallel workers; default one per core.")]
ServersOption = Annotated[
    int, typer.Option("--servers", min=1, help="llama-servers to start here, one slot each; they share the GPUs evenly.")
]
ServerOption = Annotated[
    list[str] | None, typer.Option("--server", metavar="URL", help="A llama-server that runs elsewhere; repeatable.")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="Ask only the first questions: a smoke test, which ends after eval.")
]
FoldOption = Annotated[
    str | None,
    typer.Option(
        "--fold", metavar="I/K", help="Ask only the questions that the map of `rank --folds K` left out; ends after eval."
    ),
]
PullRequestOption = Annotated[bool, typer.Option("--pr", help="Propose as pull requests instead of committing.")]
PruneRemoteOption = Annotated[
    bool, typer.Option("--prune-remote", help="Also remove files there that are not of this release; each is listed first.")
]
SignOption = Annotated[
    Path | None,
    typer.Option("--sign", metavar="KEY.pem", help="Sign the weights repository as model.sig with this ECDSA key."),
]
MemoryOption = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="Memory for quants that run side by side; default half of the free."),
]
OffloadOption = Annotated[
    Literal["none", "layers"],
    typer.Option("--offload", help="layers: for a base larger than memory, measure one decoder layer at a time."),
]
HeadersOption = Annotated[
    bool,
    typer.Option("--from-headers", help="From the base's headers and what others reported; needs no base, builds nothing."),
]
