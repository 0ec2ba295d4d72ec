"""What a card is made of, recollected from what is published: the same value that the release had, as far as it is public."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruner.checkpoint import open_checkpoint
from pruner.drop_map import read_drop_map
from pruner.errors import InputError, UnavailableError
from pruner.files import path_inside, write_atomic
from pruner.plan import plan_build
from pruner.sources import Source, read_small
from release import reproduce
from release.card.inputs import CardInputs
from release.evaluation.evidence import read_evidence
from release.evaluation.protocol import load_protocol
from release.gguf.cut_plan import plan_cut
from release.gguf.golden import SelfTest
from release.gguf.imatrix import ImatrixSummary, read_imatrix
from release.gguf.located import LocatedGguf, locate_on_hub
from release.gguf.quality import Quality, read_quality
from release.gguf.summary import GgufSummary, TensorSummary, fallbacks
from release.gguf.tensor_types import assign, read_tensor_types
from release.hub.published import Published, PublishedRepository
from release.lock import Lock
from release.manifest import Prior, Quant
from release.references import listing, read_reference
from release.stages.cut_quant import origin_of
from release.verification.ggufs import fetch_imatrix, open_gguf_repository
from release.verification.request import Request

QUALITY, QUALITY_LIMIT = "quality.json", 16 << 20
SELF_TEST = "golden self-test"


@dataclass(frozen=True)
class _Quants:
    """What is read of the GGUF repository: headers by ranges, the imatrix, the quality check."""

    summaries: dict[str, dict[str, Any]]
    quality: Quality | None
    imatrix: ImatrixSummary | None


def recollect(published: Published, base: Source, request: Request) -> CardInputs:
    """The card's inputs.

    Raises:
        UnavailableError: something is not public, or cannot be had.
        InputError, CheckFailedError: something that is published cannot be used.
    """
    loaded, lock = published.manifest, published.lock
    manifest = loaded.content
    if manifest.prune is None:
        raise InputError("the release prunes nothing")
    checkpoint = open_checkpoint(base)
    drop_map = read_drop_map(published.path(reproduce.DROP_MAP))
    name = {"name": manifest.base.label, **({"revision": manifest.base.revision} if manifest.base.revision else {})}
    plan = plan_build(
        checkpoint,
        drop_map,
        base_name=name,
        max_shard_size=manifest.weights.max_shard_size,
        metadata=manifest.weights.metadata,
    )
    quants = _read_quants(published, request) if manifest.gguf else _Quants({}, None, None)
    section = manifest.eval
    protocol = load_protocol(path_inside(loaded.root, section.protocol), loaded.root) if section else None
    runs = section.quants if section else []
    quantized = bool(manifest.gguf and manifest.gguf.quantized)
    return CardInputs(
        loaded=loaded,
        lock=lock,
        base=checkpoint,
        plan=plan,
        drop_map=drop_map,
        prior={prior.label: _equal_shards(published, prior) for prior in manifest.prior},
        summaries=quants.summaries,
        quality=quants.quality,
        self_test=_self_test(lock) if quantized else None,
        imatrix=quants.imatrix,
        protocol=protocol,
        evidence={quant: read_evidence(published.path(reproduce.evidence_name(quant))) for quant in runs},
        calibration=None,
    )


def _self_test(lock: Lock) -> SelfTest:
    found = lock.inputs.tools.get(SELF_TEST, "not made")
    return SelfTest() if found == "bit-exact" else SelfTest(reason=found)


def _equal_shards(published: Published, prior: Prior) -> tuple[int, int]:
    """Shards of the lock that an earlier build has too, and how many there are."""
    if prior.file is not None:
        files = read_reference(published.manifest.file(prior.file)).files
    else:
        from pruner.hub_source import hub_source

        files = listing(hub_source(str(prior.repo), str(prior.revision))).files
    shards = {name: file.sha256 for name, file in published.lock.weights().items() if name.endswith(".safetensors")}
    return sum(name in files and files[name].sha256 == digest for name, digest in shards.items()), len(shards)


def _read_quants(published: Published, request: Request) -> _Quants:
    section = published.manifest.content.gguf
    if section is None:
        raise InputError("the release has no quants")
    repository = open_gguf_repository(published, request)
    summaries = {quant.name: _summary(published, repository, quant, request) for quant in section.quants}
    with tempfile.TemporaryDirectory() as folder:
        matrix = fetch_imatrix(published, repository, Path(folder) / "imatrix.gguf")
        imatrix = read_imatrix(matrix) if matrix else None
        quality = None
        if section.quality is not None:
            path = Path(folder) / QUALITY
            write_atomic(path, read_small(repository.source, QUALITY, "the quality check", QUALITY_LIMIT))
            quality = read_quality(path)
    return _Quants(summaries, quality, imatrix)


def _summary(published: Published, repository: PublishedRepository, quant: Quant, request: Request) -> dict[str, Any]:
    """What the card says of a quant, from the headers of its files and from the lock."""
    names = published.lock.quant_files(quant.name)
    where = {"endpoint": request.endpoint, "token": request.token}
    opened = locate_on_hub(repository.repo, repository.source.commit, names[0], **where)
    locked = {name: published.lock.outputs[f"gguf/{name}"] for name in names}
    files = [{"name": name, "size": locked[name].size, "sha256": locked[name].sha256} for name in names]
    summary = _header_summary(opened)
    shown = {"files": files, "file_size": sum(file.size for file in locked.values())}
    shown |= {"bits_per_weight": round(summary.bits_per_weight, 4), "types": dict(summary.types)}
    if quant.from_ is None:
        if quant.tensor_types is not None:
            path = published.manifest.file(quant.tensor_types)
            chosen = assign(path, read_tensor_types(path), [tensor.name for tensor in summary.tensors])
            obeyed = {each.name for each in summary.tensors if each.name in chosen and each.type == chosen[each.name].type}
            summary = _header_summary(opened, frozenset(obeyed))
        return {**shown, "composition": fallbacks(summary, str(quant.type))}
    if quant.from_.repo is None:
        raise UnavailableError(f"{quant.name} was cut from {quant.from_.label}, a file that is not public")
    base = locate_on_hub(quant.from_.repo, quant.from_.at, str(quant.from_.file), **where)
    drop_map = read_drop_map(published.path(reproduce.DROP_MAP))
    plan = plan_cut(base, drop_map, name=published.manifest.content.name, where=reproduce.DROP_MAP)
    origin = origin_of(quant.from_, plan)
    return {**shown, "composition": fallbacks(summary, plan.file_type or quant.name), "cut_from": origin}


def _header_summary(file: LocatedGguf, chosen: frozenset[str] = frozenset()) -> GgufSummary:
    """A summary without digests of a quant in one file or several."""
    header = file.header
    tensors = header.tensors
    parameters = sum(tensor.elements for tensor in tensors)
    stored = sum(tensor.size for tensor in tensors)
    return GgufSummary(
        architecture=header.architecture,
        name=str(header.value("general.name") or ""),
        tensor_count=len(tensors),
        types=dict(sorted(Counter(tensor.type.name for tensor in tensors).items())),
        parameters=parameters,
        file_size=header.file_size,
        bits_per_weight=8 * stored / parameters if parameters else 0.0,
        sha256="",
        tensor_digest="",
        metadata={},
        tensors=tuple(TensorSummary(each.name, each.type.name, each.shape, each.size, "") for each in tensors),
        chosen=chosen,
    )
