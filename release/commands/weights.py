"""Commands that write pruned weights and check them against locks and records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pruner.errors import InputError, printable
from pruner.places import require_file, require_possible
from pruner.sources import HUB_PREFIX, require_no_near_address, require_no_repository
from pruner.wording import counted
from release.commands.options import JsonOption, LlamaOption, WorkersOption, WorkOption
from release.commands.running import console_progress, context_of, proved_digests, run_stages

if TYPE_CHECKING:
    from release.references import Comparison

AgainstOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOCK|SHA256SUMS|FOLDER|hf://org/name@revision", help="What the weights must equal.", show_default=False
    ),
]


def prune(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST|BASE", help="A manifest; or a base (a folder, or hf://org/name@revision) …", show_default=False
        ),
    ],
    drop_map: Annotated[Path | None, typer.Argument(help="… with a drop map …", show_default=False)] = None,
    out: Annotated[Path | None, typer.Argument(help="… and the folder to write.", show_default=False)] = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Cap of a shard in tensor bytes, default the lock's or 5GiB (without a manifest)."),
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option(metavar="none|pt", help="Metadata of the shards, default the lock's or pt (without a manifest)."),
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option(
            metavar="LOCK", help="The base must have its digests; its own map is packed as it was (without a manifest)."
        ),
    ] = None,
    base: Annotated[
        Path | None, typer.Option("--base", metavar="FOLDER", help="Your own copy of the base (of a manifest).")
    ] = None,
    work: WorkOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write pruned weights: of a manifest, or of BASE DROP_MAP OUT without one."""
    _require_in_order(source, drop_map, out)
    if drop_map is None:
        given = {"--max-shard-size": max_shard_size, "--metadata": metadata, "--lock": lock}
        _require_absent(given, f"{source} is taken as a manifest, which says this itself", "give BASE DROP_MAP OUT")
        run_stages(Path(source), work=work, base=base, until="prune", workers=workers, as_json=as_json)
        return
    assert out is not None  # noqa: S101  # `_require_in_order` saw to it
    _require_absent({"--work": work, "--base": base}, f"the base is {source}, and all is written to {out}", "leave it out")
    from release.actions.direct_prune import prune_directly

    with console_progress() as progress:
        layout = {"max_shard_size": max_shard_size, "metadata": metadata}
        summary = prune_directly(source, drop_map, out, **layout, lock=lock, workers=workers, progress=progress)
    for line in filter(None, [summary["unchecked"], *summary["remarks"]]):
        typer.echo(printable(line), err=True)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        typer.echo("\n".join(f"{digest}  {name}" for name, digest in summary["files"].items()))


def _require_in_order(source: str, drop_map: Path | None, out: Path | None) -> None:
    """Raise InputError when the words can be neither MANIFEST nor BASE DROP_MAP OUT, and say which of them is what."""
    require_no_near_address(source)
    for path in (None if source.startswith(HUB_PREFIX) else Path(source), drop_map):
        if path is not None:
            require_possible(path)
    is_base = source.startswith(HUB_PREFIX) or Path(source).is_dir()
    if source.endswith((".yaml", ".yml")) and drop_map is not None and not is_base:
        raise InputError(
            f"prune: {source} is a manifest, which names base and drop map itself: give it alone, or BASE DROP_MAP OUT"
        )
    if is_base and out is None:
        kind = "repository" if source.startswith(HUB_PREFIX) else "folder"
        raise InputError(
            f"prune: {source} is a {kind}, not a manifest: give a YAML file alone, "
            f"or a base as BASE DROP_MAP OUT, here {source} {drop_map or 'DROP_MAP'} OUT"
        )
    if drop_map is not None and drop_map.is_dir() and Path(source).is_file():
        raise InputError(f"prune: {drop_map} is a folder and no drop map: give BASE DROP_MAP OUT, here {drop_map} {source} OUT")
    if drop_map is not None and out is None:
        raise InputError("prune: give MANIFEST, or BASE DROP_MAP OUT")


def _require_absent(options: Mapping[str, object], why: str, remedy: str) -> None:
    """Raise InputError for an option that would do nothing."""
    for option, value in options.items():
        if value is not None:
            raise InputError(f"prune: {option} would do nothing: {why}; {remedy}")


def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST|TARGET",
            help="A manifest; or weights (a folder, one file, or hf://org/name@revision).",
            show_default=False,
        ),
    ],
    against: AgainstOption = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="A published release's base: a folder, or hf://…; or, to verify it too, a manifest's."),
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
    _require_sensible(
        published=published,
        published_only=bool(signer or exam or exam_data),
        requantize=requantize,
        against=against is not None,
        base=base is not None,
        imatrix=imatrix is not None,
    )
    for path, what in ((exam_data, "the exam's questions"), (imatrix, "an imatrix")):
        if path is not None:
            require_file(path, what)
    if published:
        exams: dict[str, Any] = {"exam": exam, "exam_data": exam_data, "llama_cpp": llama_cpp, "work": work}
        _verify_published(target, as_json=as_json, base=base, workers=workers, signer=signer, requantize=requantize, **exams)
    elif against is not None:
        _verify_against(target, against, workers, as_json=as_json)
    elif requantize:
        from release.commands.requantize import requantize_manifest

        requantize_manifest(Path(target), work, imatrix=imatrix, llama_cpp=llama_cpp, workers=workers, as_json=as_json)
    else:
        _verify_manifest(Path(target), work, base, as_json=as_json)


def _require_sensible(
    *, published: bool, published_only: bool, requantize: bool, against: bool, base: bool, imatrix: bool
) -> None:
    """Raise InputError for options of `verify` that would do nothing."""
    if not published and published_only:
        raise InputError("verify: --signer and --exam are for a release on the Hub: hf://org/name@revision")
    if not published and base and (requantize or against):
        raise InputError("verify: --base is for a release on the Hub, or for a manifest alone; leave it out")
    if imatrix and (published or not requantize):
        raise InputError("verify: --imatrix is for MANIFEST --requantize; a release on the Hub has its own, which is used")
    if requantize and against:
        raise InputError("verify: --requantize compares a manifest's quants with its lock; leave out --against")


def _verify_against(target: str, against: str, workers: int | None, *, as_json: bool) -> None:
    from dataclasses import asdict

    from pruner.sources import open_source
    from release.references import compare, compare_file, comparison_table, read_reference

    path = Path(target)
    alone = path.is_file() and path.suffix not in (".yaml", ".yml")
    found: tuple[Comparison, ...]
    with console_progress() as progress:
        if alone:
            label, reference = path.name, read_reference(against, quants=True)
            found = (compare_file(path, reference, progress=progress),)
        else:
            source, reference = open_source(target), read_reference(against)
            label, found = source.label, compare(source, reference, workers=workers, progress=progress)
    if as_json:
        shown = {"target": label, "against": reference.label, "files": [asdict(each) for each in found]}
        typer.echo(json.dumps(shown, indent=2))
    else:
        typer.echo(comparison_table(found, label, reference))
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


def _verify_manifest(manifest: Path, work: Path | None, base: str | None, *, as_json: bool) -> None:
    from pruner.sources import open_source
    from release.references import Reference, comparison_table
    from release.stages.verify import BASE, BUILD, INPUTS, NOTHING, compare_base, compare_weights, require_equal
    from release.verification.quants_here import compare_quants, quants_text, require_equal_quants, shown_differences

    require_no_repository(str(manifest))
    if manifest.suffix in (".gguf", ".safetensors") and manifest.is_file():
        raise InputError(f"{manifest}: a file of weights: say with --against what it must equal")
    if manifest.is_dir():
        raise InputError(f"{manifest}: a folder of weights: say with --against what it must equal")
    context = context_of(manifest, work)
    context.record("prune")
    with console_progress() as progress:
        context.progress = progress
        result = {**compare_base(context, open_source(base))} if base else {}
        result |= compare_weights(context, everything=True)
        quants = compare_quants(context)
    if as_json:
        quants_shown = {"quants": shown_differences(quants)}
        typer.echo(json.dumps({**_verified_json(context.manifest.name, result), **quants_shown}, indent=2))
    else:
        for name, found in result.items():
            typer.echo(f"{comparison_table(found, context.manifest.name, Reference(name, {}, complete=True))}\n")
    require_equal(context, result)
    require_equal_quants(quants)
    if not as_json:
        against = [name for name in result if name not in (BASE, INPUTS)]
        outcome = f"equal to: {', '.join(against)}" if len(against) > 1 else f"as they were built; compared with {NOTHING}"
        typer.echo(f"{counted(len(result[BUILD]), 'file')} {outcome}")
        if quants:
            typer.echo(quants_text(context, quants))


def _verified_json(name: str, result: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """Every file with both digests by reference, and those that differ by themselves."""
    from dataclasses import asdict

    other = {
        reference: [{"path": each.name, "kind": each.status} for each in found if each.status != "equal"]
        for reference, found in result.items()
    }
    references = {reference: [asdict(each) for each in found] for reference, found in result.items()}
    return {"name": name, "differences": other, "references": references}


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
        result = rebuild(open_source(target), open_source(base), out, take=True, workers=workers, progress=progress)
    for what, names in (("taken as published", result.taken), ("left out, as the target has none", result.left_out)):
        if names:
            typer.echo(printable(f"{what}: {', '.join(names)}"), err=True)
    files = {file.name: file.sha256 for file in result.files}
    if as_json:
        typer.echo(json.dumps({"files": files, "taken": result.taken, "left_out": result.left_out}, indent=2))
    else:
        typer.echo("\n".join(f"{digest}  {name}" for name, digest in files.items()))
