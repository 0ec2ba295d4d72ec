"""Whether the published quants are what the recipe makes: as locked, cut from the base's GGUFs, or quantized again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from pruner.digest_cache import DigestCache
from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.hub_source import COMMIT
from pruner.progress import SILENT, Progress
from pruner.wording import counted, some
from release import reproduce
from release.gguf.cut_proof import prove_cut
from release.gguf.located import LocatedGguf, locate_on_hub
from release.gguf.names import imatrix_file, wrong_tag
from release.gguf.split_plan import split_plan
from release.hub.published import Published, PublishedRepository, open_repository
from release.manifest import BaseQuant, Quant
from release.verdict import Finding, Pieces, Verdict
from release.verification.listing import check_gguf_files
from release.verification.request import Request

PART = "ggufs"
NOT_REBUILT = "as locked; not rebuilt: use --requantize, which makes it again here with llama.cpp, to know"


def check_ggufs(published: Published, request: Request, *, progress: Progress = SILENT) -> Finding | None:
    """The finding on the GGUF repository; None when the release has none.

    A file that is not the locked one is BAD, and so is a tag that finds another file than its quant's.  A quant that was cut is
    proved by streaming the base's GGUF.  Others are UNKNOWN unless they are made again; where a toolchain is not bit-exact, a
    difference proves nothing and stays UNKNOWN.
    """
    manifest = published.manifest.content
    if manifest.publish is None or manifest.publish.gguf is None or manifest.gguf is None:
        return None
    try:
        repository = open_gguf_repository(published, request)
    except (InputError, UnavailableError) as error:
        return Finding(PART, Verdict.UNKNOWN, str(error))
    listing = check_gguf_files(published, repository, PART)
    pieces = Pieces(PART, published.folder)
    _check_tags(published, repository, pieces)
    _check_locked_quants(published, pieces)
    if listing.verdict is not Verdict.GOOD:
        more = "".join(f"; {name}: {reason}" for name, verdict, reason in pieces.items if verdict is Verdict.BAD)
        return replace(listing, reason=f"{listing.reason}{more}", items=(*listing.items, *pieces.items))
    for quant in manifest.gguf.quants:
        if quant.from_ is not None:
            with pieces.checking(quant.name):
                _prove(published, repository, quant, quant.from_, request, progress)
                pieces.add(quant.name, Verdict.GOOD, f"cut from {quant.from_.label}")
        elif not request.requantize:
            pieces.add(quant.name, Verdict.UNKNOWN, NOT_REBUILT)
    for source in manifest.gguf.mmproj:
        with pieces.checking(source.name):
            _check_projector(published, source, request)
            pieces.add(source.name, Verdict.GOOD, f"copied from {source.label}")
    if request.requantize and manifest.gguf.quantized:
        _requantize(published, repository, request, pieces, progress)
    return pieces.finding(f"{listing.reason}; {counted(len(manifest.gguf.quants), 'quant')} made again with the same bytes")


def open_gguf_repository(published: Published, request: Request) -> PublishedRepository:
    """The release's GGUF repository at the branch or tag that the weights are read at.

    A commit of the weights names none of the quants: then they are read at the release's tag, where it has one.

    Raises:
        InputError: the release names none, or a name that is none.
        UnavailableError: it cannot be reached.
    """
    publish = published.manifest.content.publish
    if publish is None or publish.gguf is None:
        raise InputError(f"{published.weights.source.label}: the release has no GGUF repository")
    revision = (publish.tag or "main") if COMMIT.match(request.revision) else request.revision
    return open_repository(publish.gguf, revision, endpoint=request.endpoint, token=request.token)


def _prove(
    published: Published,
    repository: PublishedRepository,
    quant: Quant,
    source: BaseQuant,
    request: Request,
    progress: Progress,
) -> None:
    """Raise CheckFailedError unless a quant is the cut of the base's GGUF, UnavailableError when that is not to be had."""
    where = {"endpoint": request.endpoint, "token": request.token}
    base = _base_of(source, request)
    files = published.lock.quant_files(quant.name)
    target = locate_on_hub(repository.repo, repository.source.commit, files[0], **where)
    if files != [part.name for part in target.parts]:
        raise CheckFailedError(f"the lock lists {some(files)}, which are not the files of one GGUF")
    drop_map = read_drop_map(published.path(reproduce.DROP_MAP))
    cache = DigestCache(request.cache) if request.cache else None
    cap = published.manifest.content.gguf.max_shard_size if published.manifest.content.gguf else None
    shards = partial(split_plan, max_bytes=cap)
    proof = prove_cut(target, base, drop_map=drop_map, shards=shards, progress=progress, cache=cache)
    for verdict in proof.verdicts:
        if verdict.reason is not None:
            shown = f"{verdict.name}: " if len(proof.verdicts) > 1 else ""
            raise CheckFailedError(f"{shown}{verdict.reason}")


def _base_of(source: BaseQuant, request: Request) -> LocatedGguf:
    """The base's GGUF as the manifest pins it, by the Hub's listing."""
    if source.repo is None:
        raise UnavailableError(f"comes from {source.label}, a file beside the publisher's manifest that nobody else has")
    base = locate_on_hub(source.repo, source.at, str(source.file), endpoint=request.endpoint, token=request.token)
    for part, pinned in zip(base.parts, source.digests, strict=True):
        if part.listed != pinned:
            other = f"{part.label} has SHA-256 {part.listed}, the manifest pins {pinned}"
            if source.revision is None:
                raise UnavailableError(f"{other}: the file was replaced since, and the manifest names no revision")
            raise CheckFailedError(other)
    return base


def _check_projector(published: Published, source: BaseQuant, request: Request) -> None:
    """Raise CheckFailedError unless a projector, which is as locked, is the base's, UnavailableError when nobody can know."""
    locked = published.lock.outputs.get(f"gguf/{source.name}")
    if locked is None:
        raise CheckFailedError("the lock lists no such file")
    if locked.sha256 != source.digests[0]:
        raise CheckFailedError(f"has SHA-256 {locked.sha256}, the manifest pins {source.digests[0]}")
    _base_of(source, request)


def _check_tags(published: Published, repository: PublishedRepository, pieces: Pieces) -> None:
    """BAD for each quant that its tag does not find alone among all files of the repository, whoever put them there."""
    gguf = published.manifest.content.gguf
    for quant in gguf.quants if gguf else ():
        with pieces.checking(quant.name):
            problem = wrong_tag(quant.name, published.lock.quant_files(quant.name)[0], repository.files.keys())
            if problem is not None:
                raise CheckFailedError(problem.reason)


def _check_locked_quants(published: Published, pieces: Pieces) -> None:
    """BAD for a GGUF that the lock lists and that is none of the manifest's quants and projectors, nor its imatrix."""
    gguf = published.manifest.content.gguf
    ours = {source.name for source in gguf.mmproj} if gguf else set()
    matrix = imatrix_file(published.manifest.content.name) if gguf and gguf.imatrix else None
    for quant in gguf.quants if gguf else ():
        with suppress(CheckFailedError):  # a quant that the lock does not list was told already
            ours.update(published.lock.quant_files(quant.name))
    for path in published.lock.outputs:
        folder, _, name = path.partition("/")
        if folder == "gguf" and name not in ours:
            pieces.add(name, Verdict.BAD, "is locked, and no quant or projector of the manifest")
        if folder == "imatrix" and name != matrix:
            pieces.add(name, Verdict.BAD, "is locked, and not the imatrix of the manifest")


def _requantize(
    published: Published, repository: PublishedRepository, request: Request, pieces: Pieces, progress: Progress
) -> None:
    """Rebuild the weights, convert them, and make every quant again from the published imatrix."""
    names = [quant.name for quant in published.manifest.content.gguf.quantized] if published.manifest.content.gguf else []
    found: list[tuple[str, Verdict, str]] = []
    reason = _attempt(lambda: found.extend(_made_again(published, repository, request, progress)))
    if reason is not None:
        found = [(name, Verdict.UNKNOWN, f"could not be made again: {published.shown(reason)}") for name in names]
    for piece in found:
        pieces.add(*piece)


def _attempt(work: Callable[[], None]) -> Exception | None:
    """Why something could not be done here: that says nothing of the release."""
    try:
        work()
    except (InputError, CheckFailedError, UnavailableError) as error:
        return error
    return None


def _made_again(
    published: Published, repository: PublishedRepository, request: Request, progress: Progress
) -> list[tuple[str, Verdict, str]]:
    from release.context import Context, Options
    from release.verification.rebuilt import convert_once, rebuild_weights, rebuilding
    from release.verification.requantize import requantize_made

    with rebuilding(published, request) as work:
        options = Options(llama_cpp=request.llama_cpp, workers=request.workers)
        context = Context(published.manifest, work, options, progress)
        context.toolchain.binary("llama-quantize")  # before the hours
        rebuild_weights(published, request, work / "weights", progress)
        convert_once(context)
        imatrix = fetch_imatrix(published, repository, work / "published-imatrix.gguf")
        results = requantize_made(context, imatrix)
    verdicts = {"GOOD": Verdict.GOOD, "BAD": Verdict.BAD, "NOT BIT-EXACT": Verdict.UNKNOWN}
    return [(each.file, verdicts[each.verdict], each.detail) for each in results]


IMATRIX_LIMIT = 1 << 30


def fetch_imatrix(published: Published, repository: PublishedRepository, target: Path) -> Path | None:
    """Copy the published importance matrix, whose digest the lock has; None when the release has none.

    Raises:
        InputError: it is larger than any.
        UnavailableError: it cannot be had, or arrived damaged.
    """
    from pruner.files import write_atomic
    from pruner.sources import read_small

    locked = [path for path in published.lock.outputs if path.startswith("imatrix/")]
    if not locked:
        return None
    name = locked[0].removeprefix("imatrix/")
    write_atomic(target, read_small(repository.source, name, "the importance matrix", IMATRIX_LIMIT))
    return target
