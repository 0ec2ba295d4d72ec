"""Write the cards: every number computed from lock, headers and evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.drop_map import DropMap, read_drop_map
from pruner.files import atomic_folder, canonical_json, sha256_bytes
from release.card.claims import CONFIDENCE, Claim, claims_in
from release.card.compared import compared_entry, reference_of
from release.card.facts import (
    Facts,
    contamination_facts,
    earlier_facts,
    file_facts,
    imatrix_facts,
    prior_facts,
    protocol_facts,
    quality_facts,
    quant_facts,
    run_facts,
    self_test_facts,
    statistics_facts,
    weight_facts,
)
from release.card.front_matter import gguf_front_matter, license_of, weights_front_matter
from release.card.metadata import eval_results, leaderboard_yaml
from release.card.pictures.canvas import libraries
from release.card.prose import require_no_numbers
from release.card.render import own_templates, render, render_prose, template_folder
from release.card.table import Entry, rows
from release.context import Context
from release.evaluation.gates import require_reference
from release.evaluation.protocol import protocol_digest
from release.gguf.imatrix import read_imatrix
from release.gguf.quality import read_quality
from release.manifest import Leaderboard, LoadedManifest, Manifest, PinnedFile
from release.stages.calibrate import imatrix_of
from release.stages.evaluate import calibration_digests, evidence_of, protocol_of
from release.stages.lock_draft import draft_lock
from release.stages.pictures import draw_pictures, picture_facts, picture_files
from release.stages.prune import drop_map_path, plan_of, skip_base_release
from release.stages.quality import quality_path, wants_quality
from release.stages.quantize import read_summaries
from release.stages.stage import Stage
from release.stages.verify import read_verified

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

HELLO = "Say hello."
LEADERBOARD_FOLDER = "eval_results"


def card_folder(context: Context) -> Path:
    """Folder of the rendered cards."""
    return context.work / "card"


def _prose(context: Context) -> str:
    name = context.manifest.card.prose
    return context.loaded.file(PinnedFile(path=name)).read_text(encoding="utf-8") if name else ""


def _templates(context: Context) -> list[dict[str, str]]:
    own = own_templates(context.loaded.root, context.manifest.card.templates)
    return [{path.name: sha256_bytes(path.read_bytes()) for path in sorted(template_folder().glob("*.md.j2"))}, own]


def _inputs(context: Context) -> Any:
    lock = draft_lock(context).to_bytes()
    quality = quality_path(context)
    measured = sha256_bytes(quality.read_bytes()) if quality.exists() else None
    manifest = context.manifest.model_dump(by_alias=True)
    return [sha256_bytes(lock), manifest, _prose(context), _templates(context), libraries(), measured]


def _run(context: Context) -> str:
    manifest = context.manifest
    facts = collect_facts(context)
    prose = _prose(context)
    require_no_numbers(prose, context.manifest.card.prose or "prose")
    facts["prose"] = render_prose(prose, facts, context.manifest.card.prose or "prose")
    pictures = draw_pictures(context, table_entries(context) if manifest.eval else [])
    facts["pictures"] = picture_facts(pictures)
    own, results = own_templates(context.loaded.root, manifest.card.templates), _model_index(context)
    texts = {"README.md": weights_front_matter(manifest, facts["license"], results) + render("weights_card.md.j2", facts, own)}
    if manifest.gguf:
        texts["README.gguf.md"] = gguf_front_matter(manifest, facts["license"], results) + render("gguf_card.md.j2", facts, own)
    if manifest.eval:
        texts["results.md"] = render("results_table.md.j2", facts, own)
    if manifest.eval and manifest.card.leaderboard:
        texts |= _leaderboard(context, manifest.card.leaderboard)
    texts["claims.json"] = canonical_json(dict(claims_in(facts))).decode()
    files = {**{name: text.encode() for name, text in texts.items()}, **picture_files(pictures)}
    with atomic_folder(card_folder(context)) as folder:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    return str(card_folder(context) / "README.md")


def _model_index(context: Context) -> list[EvalResult]:
    """Scores for the front matter: of this release's own runs alone."""
    if not context.manifest.eval:
        return []
    protocol = protocol_of(context)
    return eval_results([*evidence_of(context).values()], protocol, protocol_digest(protocol), _weights_repository(context))


def _leaderboard(context: Context, leaderboard: Leaderboard) -> dict[str, str]:
    """The file for the Hub's leaderboard, by its place in the card's folder."""
    protocol, runs = protocol_of(context), [*evidence_of(context).values()]
    text = leaderboard_yaml(runs, protocol, protocol_digest(protocol), leaderboard, _weights_repository(context))
    return {f"{LEADERBOARD_FOLDER}/{protocol.name}.yaml": text}


def _weights_repository(context: Context) -> str | None:
    return context.manifest.publish.weights if context.manifest.publish else None


def collect_facts(context: Context) -> Facts:
    """Every fact that a template may print.

    Raises:
        InputError: evidence that the manifest asks for is missing.
    """
    manifest = context.manifest
    lock = draft_lock(context)
    drop_map = read_drop_map(drop_map_path(context))
    facts: Facts = {
        "name": manifest.name,
        "base": {"name": manifest.base.label, "repo": manifest.base.repo, "revision": manifest.base.revision},
        "license": license_of(manifest, context.base_source),
        "layout": {
            "max_shard_size": Claim(str(manifest.weights.max_shard_size), "text", "manifest.yaml: weights.max_shard_size"),
            "metadata": Claim(manifest.weights.metadata, "text", "manifest.yaml: weights.metadata"),
        },
        "publish": manifest.publish.model_dump() if manifest.publish else None,
        "drop_map_digest": Claim(drop_map.digest, "digest", "drop_map.json: digest"),
        "statistics": statistics_facts(drop_map),
        "files": file_facts(lock, "weights/"),
        "tools": lock.inputs.tools,
        "draft": None,
        "question": question_of(manifest),
        "confidence": CONFIDENCE,
        "earlier": earlier_facts(drop_map, context.base.architecture.experts, earlier_maps(context.loaded)),
        "prior": prior_facts(read_verified(context)),
        "pictures": {},
        "quants": [],
        "imatrix": [],
        "self_test": None,
        "quality": None,
        "calibration": None,
        "runs": [],
        "rows": [],
        "protocol": None,
        "contamination": None,
        **weight_facts(context.base, plan_of(context, drop_map), _method(context)),
    }
    if manifest.gguf:
        names = [quant.name for quant in manifest.gguf.quants]
        facts["quants"] = quant_facts(read_summaries(context), names)
        facts["quality"] = quality_facts(read_quality(quality_path(context)), names) if wants_quality(context) else None
        if manifest.gguf.quantized:
            facts["self_test"] = self_test_facts(context.self_test, read_summaries(context))
        matrix = imatrix_of(context)
        facts["calibration"] = imatrix_facts(read_imatrix(matrix)) if matrix else None
        facts["imatrix"] = file_facts(lock, "imatrix/")
    if manifest.eval:
        facts |= _evaluation(context)
    return facts


def _method(context: Context) -> str:
    """The ranking with its parameters, or that the map was pinned."""
    prune = context.manifest.prune
    if prune is None or prune.analysis is None:
        return "a pinned drop map"
    parameters = prune.ranking.model_dump(exclude={"method"}, exclude_none=True)
    words = [
        f"with {name.replace('_', ' ')}" if isinstance(value, dict) else f"{name} {value}" for name, value in parameters.items()
    ]
    return ", ".join([prune.ranking.method, *words])


def question_of(manifest: Manifest) -> str:
    """What the card's example asks, as a string literal of Python."""
    return json.dumps(manifest.publish.question if manifest.publish else HELLO, ensure_ascii=False)


def earlier_maps(loaded: LoadedManifest) -> dict[str, DropMap]:
    """Drop maps of earlier variants by what the manifest calls them."""
    return {label: read_drop_map(loaded.file(pinned)) for label, pinned in loaded.content.card.earlier_maps.items()}


def table_entries(context: Context) -> list[Entry]:
    """What the rows of the results table are made of: those of other variants first, then this one's quants."""
    protocol, runs = protocol_of(context), evidence_of(context)
    own = [Entry(context.manifest.name, f"evidence/{quant}.json", evidence) for quant, evidence in runs.items()]
    return [*(compared_entry(context.loaded, protocol, row) for row in context.manifest.compare), *own]


def _evaluation(context: Context) -> Facts:
    protocol = protocol_of(context)
    require_reference(protocol, reference_of(context.loaded))
    found = evidence_of(context)
    calibration = calibration_digests(context)
    return {
        "runs": [run_facts(evidence, len(protocol.data.option_columns)) for evidence in found.values()],
        "rows": rows(table_entries(context)),
        "protocol": protocol_facts(protocol, protocol_digest(protocol), list(found.values())),
        "contamination": contamination_facts(calibration, next(iter(found.values()))) if calibration and found else None,
    }


STAGE = Stage(
    name="card",
    title="writing cards",
    run=_run,
    inputs=_inputs,
    outputs=lambda context: (card_folder(context),),
    skip=skip_base_release,
    needs=("prune", "quantize", "quality", "eval"),
)
