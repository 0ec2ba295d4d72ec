"""Preflight: tools, credentials, extras, names and space, before time is spent."""

from __future__ import annotations

from pathlib import Path

from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import path_inside, require_space
from pruner.sources import LocalSource
from release.attestation.model_signature import public_key_of
from release.base import base_folder, has_snapshot
from release.card.compared import compared_entry, reference_of
from release.card.front_matter import license_of, read_base_card
from release.card.metadata import leaderboard_dataset
from release.card.written import check_texts
from release.context import Context
from release.evaluation.protocol import Protocol, load_protocol
from release.evaluation.remote import check_url
from release.extras import require_extra
from release.gguf.quantize import check_type
from release.hub.license_ids import odd_license
from release.manifest import Gguf, LoadedManifest, PinnedFile, Quant
from release.possible_experts import check_against_base
from release.records import read_record
from release.stages.evaluate import require_fold
from release.stages.projectors import check_projector
from release.stages.quant_recipes import check_cut, check_imatrix, check_recipes, check_tensor_types
from release.stages.questions import check_calibration, check_exam
from release.stages.stage import Stage
from release.stages.tags import require_free_tags

LARGEST_QUANT = 8.5 / 16
"""Size of a Q8_0 in relation to bf16: 34 bytes for 32 weights."""
UNQUANTIZED = ("F16", "BF16", "F32")
TOOLS = {"calibrate": "llama-imatrix", "quantize": "llama-quantize", "eval": "llama-server"}
SPLITTER, COMPARER = "llama-gguf-split", "llama-perplexity"


def check_inputs(loaded: LoadedManifest, *, examined: bool = True) -> None:
    """Check every file that a manifest names, and the protocol, without doing anything else.

    A run that is not to be `examined` needs neither questions nor a reference run yet.

    Raises:
        InputError: a file is missing or is not the one that the manifest pins.
        CheckFailedError: the protocol wants a reference run, and there is none.
    """
    manifest = loaded.content
    if loaded.local_base is not None:
        base_folder(loaded)
    _check_map_and_headers(loaded)
    check_calibration(loaded)
    matrix = manifest.gguf.imatrix if manifest.gguf else None
    pinned = [matrix.text] if matrix else []
    pinned += [manifest.gguf.quality.text] if manifest.gguf and manifest.gguf.quality else []
    check_imatrix(loaded)
    check_tensor_types(loaded)
    if manifest.gguf:
        _check_base_files(loaded, manifest.gguf, on_hub=False)
    for file in filter(
        None,
        [
            *pinned,
            *manifest.card.earlier_maps.values(),
            *(prior.file for prior in manifest.prior),
            *(file for row in manifest.compare for file in row.files),
        ],
    ):
        loaded.file(file)
    check_texts(loaded)
    for earlier in manifest.card.earlier_maps.values():
        read_drop_map(loaded.file(earlier))
    protocol = _checked_protocol(loaded, examined=examined)
    for row in manifest.compare if examined else ():
        compared_entry(loaded, protocol, row)


def _checked_protocol(loaded: LoadedManifest, *, examined: bool) -> Protocol | None:
    """The protocol, and what it wants of the manifest."""
    manifest = loaded.content
    if manifest.eval is None:
        return None
    loaded.file(PinnedFile(path=manifest.eval.protocol))
    protocol = load_protocol(path_inside(loaded.root, manifest.eval.protocol), loaded.root)
    if manifest.card.leaderboard:
        leaderboard_dataset(manifest.card.leaderboard, protocol)
    if examined:
        check_exam(loaded, protocol)
    if examined and manifest.prune and protocol.gates.reference:
        _check_reference(loaded, protocol)
    return protocol


def _check_reference(loaded: LoadedManifest, protocol: Protocol) -> None:
    from release.evaluation.gates import require_reference

    try:
        require_reference(protocol, reference_of(loaded))
    except CheckFailedError as error:
        raise CheckFailedError(f"{loaded.path}: {error}") from None


def _check_base_files(loaded: LoadedManifest, gguf: Gguf, *, on_hub: bool) -> None:
    """Check the base's GGUFs that quants are cut and projectors copied from; those on the Hub only if it is to be asked."""
    for name, source in gguf.cut.items():
        if on_hub or source.path is not None:
            check_cut(loaded, name, source)
    for source in gguf.mmproj:
        if on_hub or source.path is not None:
            check_projector(loaded, source)


def _check_map_and_headers(loaded: LoadedManifest) -> None:
    from release.base_headers import described_base

    prune, headers = loaded.content.prune, loaded.content.base.headers
    if prune and prune.drop_map and not absent_map(loaded):
        read_drop_map(loaded.file(prune.drop_map))
    if headers:
        described_base(loaded.file(headers))
    check_against_base(loaded)


def absent_map(loaded: LoadedManifest) -> str | None:
    """Why the pinned drop map is not here, when the manifest says so and it is not."""
    pinned = loaded.content.prune.drop_map if loaded.content.prune else None
    if pinned is None or pinned.absent is None or path_inside(loaded.root, pinned.path).exists():
        return None
    return pinned.absent


def not_buildable(loaded: LoadedManifest) -> list[str]:
    """What a manifest says that it does not know, and without which nothing can be built: it can be planned and rendered."""
    base, reasons = loaded.content.base, []
    if base.repo is not None and base.revision is None:
        reasons.append(f"the commit of {base.repo} is UNKNOWN")
    if (absent := absent_map(loaded)) is not None:
        reasons.append(f"the drop map is absent: {absent}")
    return reasons


def license_warning(loaded: LoadedManifest) -> str | None:
    """What to do about the license of a base by path that nobody states or the Hub has no id for, or None.

    A base on the Hub brings its own.
    """
    if loaded.content.base.path is None or loaded.content.prune is None:
        return None
    card = read_base_card(LocalSource(base_folder(loaded)))
    stated = loaded.content.card.license
    where = "the base's card" if card.licenses else f"{loaded.path}: card.license"
    if odd := next(filter(None, map(odd_license, card.licenses or filter(None, [stated]))), None):
        return f"{where}: {odd}"
    if license_of(loaded.content, card):
        return None
    return f"{loaded.path}: the license of the base is unknown, so cards will name none; give card.license, such as apache-2.0"


def _ahead(context: Context, stage: str) -> bool:
    """Whether this run will reach a stage that has never completed here: only then must its tools be there."""
    return stage in context.planned and read_record(context.work, stage) is None


def _require_buildable(loaded: LoadedManifest) -> None:
    """Raise InputError for a manifest of which it says itself that nothing can be built from it."""
    if reasons := not_buildable(loaded):
        remedy = "give what is missing, or use --from-headers with `plan` or `card`"
        raise InputError(f"{loaded.path}: cannot be built: {'; '.join(reasons)}; {remedy}")


def _run(context: Context) -> str | None:
    _require_buildable(context.loaded)
    check_inputs(context.loaded, examined=bool({"eval", "card"} & context.planned))
    manifest = context.manifest
    if manifest.prune and manifest.prune.analysis and _ahead(context, "analyze"):
        require_extra("analysis")
    if manifest.gguf:
        _require_tools(context)  # first: a name is often the type too, and an unknown type is what is wrong with it
        check_recipes(context.loaded)
    require_fold(context)
    if manifest.eval and _ahead(context, "eval"):
        require_extra("eval")
        _require_lm_eval(context)
    for url in context.options.server_urls:
        check_url(url)
    if context.options.sign is not None:
        public_key_of(context.options.sign)
    if manifest.publish and "publish" in context.planned:
        context.options.hub.require_token()
        _require_hub(context)
    if _ahead(context, "verify"):
        _require_priors(context)
    _require_room(context)
    return context.notes.get("toolchain")


def _require_hub(context: Context) -> None:
    """Everything that the Hub can refuse at the end is asked at the beginning: rights, names, metadata, collection."""
    from pruner.hub_failures import endpoint_of
    from release.card.front_matter import gguf_front_matter, weights_front_matter
    from release.hub.announce import require_collection, require_repo
    from release.hub.card_check import require_valid_card
    from release.hub.remote import hub_api
    from release.hub.rights import require_rights
    from release.stages.place import require_place

    publish, hub = context.publish, context.options.hub
    api = hub_api(hub.endpoint, hub.token)
    repos = [publish.weights, *([publish.gguf] if publish.gguf else [])]
    account = require_rights(api, repos, pull_request=context.options.pull_request)
    require_free_tags(context, api)
    context.notes["account"] = f"{account.name} at {endpoint_of(api.endpoint)}"
    license_name = context.manifest.card.license
    require_valid_card(api, weights_front_matter(context.manifest, license_name))
    if publish.gguf:
        require_valid_card(api, gguf_front_matter(context.manifest, license_name))
    if hub.label == "local":
        return  # older repositories and collections are the real Hub's
    require_place(context, api)
    if publish.collection:
        require_collection(api, publish.collection)
    for old in filter(None, [publish.supersedes.weights, publish.supersedes.gguf] if publish.supersedes else []):
        require_repo(api, old)


def _require_lm_eval(context: Context) -> None:
    from release.evaluation.harness import require_version

    require_version(load_protocol(path_inside(context.loaded.root, context.eval.protocol), context.loaded.root))


def _require_tools(context: Context) -> None:
    """Tools and recipes of the GGUF stages: an unknown type is found now and not after hours."""
    wanted = [tool for stage, tool in TOOLS.items() if stage in context.planned and _uses(context, stage)]
    wanted += [SPLITTER] if context.gguf.max_shard_size and context.gguf.quantized and "quantize" in context.planned else []
    wanted += [COMPARER] if context.gguf.quality and "quality" in context.planned else []
    for tool in wanted:
        context.toolchain.binary(tool)
    if (context.gguf.quantized or context.gguf.quality) and _ahead(context, "convert"):
        context.toolchain.converter()
        require_extra("analysis")
    if "quantize" in context.planned:
        for quant in context.gguf.quantized:
            check_type(context.toolchain, str(quant.type))
    if _ahead(context, "quantize"):
        _check_base_files(context.loaded, context.gguf, on_hub=True)
    if wanted:
        context.notes["toolchain"] = f"llama.cpp {context.toolchain.commit[:9]} ({context.toolchain.origin})"
    if context.gguf.quantized and "quantize" in context.planned and not context.self_test.bit_exact:
        context.notes["toolchain"] += f", {context.self_test}"


def _require_priors(context: Context) -> None:
    """Earlier builds on the Hub are compared after the build; that they are there is asked before it."""
    from huggingface_hub import get_token

    from pruner.hub_source import hub_source

    for prior in context.manifest.prior:
        if prior.repo is not None:
            hub_source(prior.repo, str(prior.revision), endpoint=None, token=get_token())


def _uses(context: Context, stage: str) -> bool:
    """Whether a stage needs its tool; without quants to make, llama-server is for an exam and for reading back."""
    publish = context.manifest.publish
    reads_back = publish is not None and publish.gguf is not None and "readback" in context.planned
    serves = context.manifest.eval is not None or reads_back
    return bool(context.gguf.quantized or context.gguf.quality) or (stage == "eval" and serves)


def _require_room(context: Context) -> None:
    """Rough need: the weights once, a GGUF of the same size, and each quant as large as its type can be."""
    manifest = context.manifest
    if _anything_built(context.work):
        return
    copies = 1.0 if manifest.prune else 0.0
    if manifest.gguf:
        copies += bool(manifest.gguf.quantized) + sum(_largest_share(quant) for quant in manifest.gguf.quants)
    needed = round(_base_weights(context) * copies)
    require_space(context.work, needed, "this release", "choose another folder with --work")


def _largest_share(quant: Quant) -> float:
    """How large a quant can be, as a share of the base's weights; one cut from the base's file is no larger than those."""
    return LARGEST_QUANT if quant.type and quant.type.upper() not in UNQUANTIZED else 1.0


def _base_weights(context: Context) -> int:
    """Bytes of the base's shards; of a base on the Hub as it lists them, 0 when it cannot be asked now."""
    base = context.manifest.base
    if context.loaded.local_base is not None:
        return sum(path.stat().st_size for path in base_folder(context.loaded).glob("*.safetensors"))
    from huggingface_hub import constants, get_token

    from pruner.hub_source import hub_source

    if constants.HF_HUB_OFFLINE:
        return 0
    try:
        listed = hub_source(str(base.repo), str(base.revision), endpoint=None, token=get_token()).files
    except UnavailableError:
        if has_snapshot(str(base.repo), str(base.revision)):  # it may do; the next stage says what is wrong
            return 0
        raise
    return sum(file.size for name, file in listed.items() if name.endswith(".safetensors"))


def _anything_built(work: Path) -> bool:
    return (work / "records").exists()


STAGE = Stage(name="preflight", title="preflight checks", run=_run)
