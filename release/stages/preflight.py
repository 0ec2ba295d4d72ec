"""Preflight: tools, credentials, extras, names and space, before time is spent."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pruner.errors import UnavailableError
from pruner.files import path_inside, require_space
from release.base import base_folder
from release.context import Context
from release.evaluation.remote import check_url
from release.gguf.names import check_tags
from release.gguf.quantize import check_type
from release.gguf.tensor_types import read_tensor_types
from release.manifest import LoadedManifest, PinnedFile
from release.records import read_record
from release.stages.stage import Stage

MODULES = {"analysis": ("torch", "transformers"), "eval": ("lm_eval",)}
TOOLS = {"calibrate": "llama-imatrix", "quantize": "llama-quantize", "eval": "llama-server"}


def check_inputs(loaded: LoadedManifest) -> None:
    """Check every file that a manifest names, and the protocol, without doing anything else.

    Raises:
        InputError: a file is missing or is not the one that the manifest pins.
        CheckFailedError: the protocol wants a reference run, and there is none.
    """
    manifest = loaded.content
    if manifest.base.path is not None:
        base_folder(loaded)
    if manifest.prune and manifest.prune.drop_map:
        from pruner.drop_map import read_drop_map

        read_drop_map(loaded.file(manifest.prune.drop_map))
    dataset = manifest.prune.dataset if manifest.prune else None
    if dataset and dataset.path:
        loaded.file(PinnedFile(path=dataset.path, sha256=dataset.sha256))
    matrix = manifest.gguf.imatrix if manifest.gguf else None
    pinned = [matrix.text, matrix.file] if matrix else []
    pinned += [quant.tensor_types for quant in manifest.gguf.quants] if manifest.gguf else []
    for file in filter(
        None, [*pinned, *(prior.file for prior in manifest.prior), *(row.evidence or row.lm_eval for row in manifest.compare)]
    ):
        loaded.file(file)
    if manifest.eval:
        from release.evaluation.protocol import load_protocol

        protocol = load_protocol(path_inside(loaded.root, manifest.eval.protocol), loaded.root)
        if manifest.prune and protocol.gates.reference:
            from release.evaluation.gates import require_reference
            from release.stages.evaluate import reference_of

            require_reference(protocol, reference_of(loaded))
    if manifest.card.prose:
        loaded.file(PinnedFile(path=manifest.card.prose))


def _ahead(context: Context, stage: str) -> bool:
    """Whether this run will reach a stage that has never completed here: only then must its tools be there."""
    return stage in context.planned and read_record(context.work, stage) is None


def require_extra(extra: str) -> None:
    """Raise UnavailableError with the install command when an extra's packages are missing."""
    for module in MODULES[extra]:
        if importlib.util.find_spec(module) is None:
            raise UnavailableError(f"{module} is not installed; run: pip install 'moe-release[{extra}]'")


def _run(context: Context) -> str | None:
    check_inputs(context.loaded)
    manifest = context.manifest
    if manifest.prune and manifest.prune.analysis and _ahead(context, "analyze"):
        require_extra("analysis")
    if manifest.gguf:
        check_tags({quant.name: context.gguf_file(quant.name).name for quant in manifest.gguf.quants})
        _require_tools(context)
    if manifest.eval and _ahead(context, "eval"):
        require_extra("eval")
        _require_lm_eval(context)
    for url in context.options.server_urls:
        check_url(url)
    if manifest.publish and "publish" in context.planned:
        context.options.hub.require_token()
        _require_hub(context)
    _require_room(context)
    return context.notes.get("toolchain")


def _require_hub(context: Context) -> None:
    """Everything that the Hub can refuse at the end is asked at the beginning: rights, names, metadata, collection."""
    from release.card.front_matter import gguf_front_matter, weights_front_matter
    from release.hub.announce import require_collection, require_repo
    from release.hub.card_check import require_valid_card
    from release.hub.remote import hub_api
    from release.hub.rights import require_rights

    publish, hub = context.publish, context.options.hub
    api = hub_api(hub.endpoint, hub.token)
    repos = [publish.weights, *([publish.gguf] if publish.gguf else [])]
    account = require_rights(api, repos, pull_request=context.options.pull_request)
    context.notes["account"] = f"{account.name} at {api.endpoint}"
    license_name = context.manifest.card.license
    require_valid_card(api, weights_front_matter(context.manifest, license_name))
    if publish.gguf:
        require_valid_card(api, gguf_front_matter(context.manifest, license_name))
    if hub.label == "local":
        return  # older repositories and collections are the real Hub's
    if publish.collection:
        require_collection(api, publish.collection)
    for old in filter(None, [publish.supersedes.weights, publish.supersedes.gguf] if publish.supersedes else []):
        require_repo(api, old)


def _require_lm_eval(context: Context) -> None:
    from release.evaluation.harness import require_version
    from release.evaluation.protocol import load_protocol

    require_version(load_protocol(path_inside(context.loaded.root, context.eval.protocol), context.loaded.root))


def _require_tools(context: Context) -> None:
    """Tools and recipes of the GGUF stages: an unknown type is found now and not after hours."""
    wanted = [tool for stage, tool in TOOLS.items() if stage in context.planned]
    for tool in wanted:
        context.toolchain.binary(tool)
    if _ahead(context, "convert"):
        context.toolchain.converter()
        require_extra("analysis")
    if "quantize" in context.planned:
        for quant in context.gguf.quants:
            check_type(context.toolchain, quant.type)
            if quant.tensor_types:
                read_tensor_types(context.loaded.file(quant.tensor_types))
    if wanted:
        context.notes["toolchain"] = f"llama.cpp {context.toolchain.commit[:9]} ({context.toolchain.origin})"


def _require_room(context: Context) -> None:
    """Rough need: the weights once, a GGUF of the same size, and each quant at most as large."""
    manifest = context.manifest
    if manifest.base.path is None:
        return  # sizes are known once the base is resolved; the build checks again
    folder = context.loaded.root / manifest.base.path
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    copies = (1 if manifest.prune else 0) + (1 + len(manifest.gguf.quants) if manifest.gguf else 0)
    if not _anything_built(context.work):
        require_space(context.work, weights * copies, "this release")


def _anything_built(work: Path) -> bool:
    return (work / "records").exists()


STAGE = Stage(name="preflight", title="preflight checks", run=_run)
