"""Commands that write pruned weights and check them against locks and records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pruner.errors import InputError, printable
from pruner.places import require_file
from pruner.sources import HUB_PREFIX, require_no_near_address
from pruner.wording import counted
from release.commands.options import JsonOption, LlamaOption, WorkersOption, WorkOption
from release.commands.running import console_progress, context_of, proved_digests, run_stages


def prune(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST|BASE", help="A manifest; or a base (a folder, or hf://org/name@revision) …", show_default=False
        ),
    ],
    drop_map: Annotated[Path | None, typer.Argument(help="… with a drop map …", show_default=False)] = None,
    out: Annotated[Path | None, typer.Argument(help="… and the folder to write.", show_default=False)] = None,
    max_shard_size: Annotated[str, typer.Option(help="Cap of a shard in tensor bytes (without a manifest).")] = "5GiB",
    metadata: Annotated[str, typer.Option(help="none or pt (without a manifest).")] = "pt",
    lock: Annotated[
        Path | None, typer.Option(metavar="LOCK", help="The base must have the digests of this lock (without a manifest).")
    ] = None,
    work: WorkOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write pruned weights: of a manifest, or of BASE DROP_MAP OUT without one."""
    if drop_map is None:
        run_stages(Path(source), work=work, until="prune", workers=workers, as_json=as_json)
        return
    if out is None:
        raise InputError("prune: give MANIFEST, or BASE DROP_MAP OUT")
    from release.actions.direct_prune import prune_directly

    with console_progress() as progress:
        layout = {"max_shard_size": max_shard_size, "metadata": metadata}
        summary = prune_directly(source, drop_map, out, **layout, lock=lock, workers=workers, progress=progress)
    if summary["unchecked"]:
        typer.echo(printable(summary["unchecked"]), err=True)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        typer.echo("\n".join(f"{digest}  {name}" for name, digest in summary["files"].items()))


def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST|TARGET", help="A manifest; or weights (a folder, or hf://org/name@revision).", show_default=False
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="LOCK|SHA256SUMS|FOLDER|hf://org/name@revision", help="What the weights must equal.", show_default=False
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="A published release's base: a folder, or hf://…; default: its manifest's.")
    ] = None,
    signer: Annotated[
        Path | None, typer.Option("--signer", metavar="KEY.pem", help="The publisher's public key, to check model.sig with.")
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Also make the quants again, from the locked imatrix; needs llama.cpp.")
    ] = False,
    exam: Annotated[
        bool, typer.Option("--exam", help="Also take a published release's exam again; needs llama.cpp and the eval extra.")
    ] = False,
    exam_data: Annotated[
        Path | None, typer.Option("--exam-data", metavar="FILE", help="The exam's questions, when they are not published.")
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option("--imatrix", metavar="FILE", help="The locked imatrix, if it is not in the work folder.")
    ] = None,
    llama_cpp: LlamaOption = None,
    work: WorkOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a release on the Hub, part by part; a manifest's weights and quants against its lock; or any weights --against."""
    require_no_near_address(target)
    published = against is None and target.startswith(HUB_PREFIX)
    if not published and (base or signer or exam or exam_data):
        raise InputError("verify: --base, --signer and --exam are for a release on the Hub: hf://org/name@revision")
    if imatrix is not None and (published or not requantize):
        raise InputError("verify: --imatrix is for MANIFEST --requantize; a release on the Hub has its own, which is used")
    if requantize and against is not None:
        raise InputError("verify: --requantize compares a manifest's quants with its lock; leave out --against")
    for path, what in ((exam_data, "the exam's questions"), (imatrix, "an imatrix")):
        if path is not None:
            require_file(path, what)
    if published:
        chosen: dict[str, Any] = {"signer": signer, "requantize": requantize, "llama_cpp": llama_cpp, "work": work}
        chosen |= {"exam": exam, "exam_data": exam_data}
        _verify_published(target, as_json=as_json, base=base, workers=workers, **chosen)
    elif against is not None:
        _verify_against(target, against, workers, as_json=as_json)
    elif requantize:
        from release.commands.requantize import requantize_manifest

        requantize_manifest(Path(target), work, imatrix=imatrix, llama_cpp=llama_cpp, workers=workers, as_json=as_json)
    else:
        _verify_manifest(Path(target), work, as_json=as_json)


def _verify_against(target: str, against: str, workers: int | None, *, as_json: bool) -> None:
    from dataclasses import asdict

    from pruner.sources import open_source
    from release.references import compare, comparison_table, read_reference

    with console_progress() as progress:
        source, reference = open_source(target), read_reference(against)
        found = compare(source, reference, workers=workers, progress=progress)
    if as_json:
        shown = {"target": source.label, "against": reference.label, "files": [asdict(each) for each in found]}
        typer.echo(json.dumps(shown, indent=2))
    else:
        typer.echo(comparison_table(found, source.label, reference))
    if any(each.status != "equal" for each in found):
        raise typer.Exit(1)


def _verify_published(target: str, *, as_json: bool, **chosen: Any) -> None:
    from pruner.sources import parse_address
    from release.verification.request import Request
    from release.verification.run import verify_published

    repo, revision = parse_address(target)
    with console_progress() as progress:
        found = verify_published(Request(repo, revision, cache=proved_digests(), **chosen), progress=progress)
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else found.text())
    raise typer.Exit(found.exit_code)


def _verify_manifest(manifest: Path, work: Path | None, *, as_json: bool) -> None:
    from release.stages.verify import compare_weights, require_equal, weights_lock
    from release.verification.quants_here import compare_quants, quants_text, require_equal_quants, shown_differences

    if manifest.is_dir():
        raise InputError(f"{manifest}: a folder of weights: say with --against what it must equal")
    context = context_of(manifest, work)
    context.record("prune")
    with console_progress() as progress:
        context.progress = progress
        result, quants = compare_weights(context), compare_quants(context)
    if as_json:
        shown = {"differences": shown_differences(result), "quants": shown_differences(quants)}
        typer.echo(json.dumps({"name": context.manifest.name, **shown}, indent=2))
    require_equal(context, result)
    require_equal_quants(quants)
    if not as_json:
        typer.echo(f"{counted(len(weights_lock(context).outputs), 'file')} equal to: {', '.join(result)}")
        if quants:
            typer.echo(quants_text(context, quants))


def materialize(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="hf://org/name@revision, or a folder.", show_default=False)],
    base: Annotated[str, typer.Option("--base", help="The base: a folder, or hf://org/name@revision.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.", show_default=False)],
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild a published variant on this disk from a base that you have; every digest equals the published one."""
    from pruner.materialize import materialize as rebuild
    from pruner.sources import open_source

    with console_progress() as progress:
        result = rebuild(open_source(target), open_source(base), out, workers=workers, progress=progress)
    files = {file.name: file.sha256 for file in result.files}
    if as_json:
        typer.echo(json.dumps({"files": files}, indent=2))
    else:
        typer.echo("\n".join(f"{digest}  {name}" for name, digest in files.items()))
