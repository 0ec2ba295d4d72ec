"""What a card is made of, as one value: from the work folder of a release, or from what is published of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pruner.checkpoint import Checkpoint
from pruner.drop_map import DropMap, read_drop_map
from pruner.plan import Plan
from release.card.claims import CONFIDENCE, Claim, SourcedText
from release.card.compared import compared_entry
from release.card.facts import (
    Facts,
    contamination_facts,
    earlier_facts,
    file_facts,
    imatrix_facts,
    prior_facts,
    projector_facts,
    protocol_facts,
    quality_facts,
    quant_facts,
    rebuild_facts,
    run_facts,
    self_test_facts,
    statistics_facts,
    weight_facts,
)
from release.card.front_matter import BaseCard, gguf_front_matter, license_of, read_base_card, weights_front_matter
from release.card.metadata import eval_results, leaderboard_yaml
from release.card.prose import require_no_numbers
from release.card.render import own_templates, render, render_prose
from release.card.table import Entry, rows
from release.evaluation.evidence import Evidence
from release.evaluation.protocol import Protocol, protocol_digest
from release.gguf.golden import SelfTest
from release.gguf.imatrix import ImatrixSummary
from release.gguf.quality import Quality
from release.lock import Lock
from release.manifest import LoadedManifest, Manifest, PinnedFile

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

HELLO = "Say hello."


@dataclass(frozen=True)
class CardInputs:
    """Everything that a card's numbers follow from.

    `prior` gives equal shards and all shards by earlier build; `summaries` what was read back from each quant; `calibration`
    the digests of the questions that the drop map was made from; `rebuilds` the parties that rebuilt the release with the
    same result and with another.
    """

    loaded: LoadedManifest
    lock: Lock
    base: Checkpoint
    plan: Plan
    drop_map: DropMap
    prior: Mapping[str, tuple[int, int]]
    summaries: Mapping[str, Mapping[str, Any]]
    quality: Quality | None
    self_test: SelfTest | None
    imatrix: ImatrixSummary | None
    protocol: Protocol | None
    evidence: Mapping[str, Evidence]
    calibration: Sequence[str] | None
    rebuilds: tuple[int, int] | None = None

    @property
    def manifest(self) -> Manifest:
        """The manifest's content."""
        return self.loaded.content

    @cached_property
    def base_card(self) -> BaseCard:
        """What the base's own card says."""
        base = self.manifest.base
        return read_base_card(self.base.source, base.repo, base.revision)


def facts_of(inputs: CardInputs) -> Facts:
    """Every fact that a template may print.

    Raises:
        InputError: something that the manifest names is missing, or contradicts the rest.
    """
    manifest, drop_map = inputs.manifest, inputs.drop_map
    facts: Facts = {
        **named_facts(manifest),
        **license_facts(license_of(manifest, inputs.base_card), inputs.base_card),
        "layout": {
            "max_shard_size": Claim(str(manifest.weights.max_shard_size), "text", "manifest.yaml: weights.max_shard_size"),
            "metadata": Claim(manifest.weights.metadata, "text", "manifest.yaml: weights.metadata"),
        },
        "drop_map_digest": Claim(drop_map.digest, "digest", "drop_map.json: digest"),
        "statistics": statistics_facts(drop_map),
        "files": file_facts(inputs.lock, "weights/"),
        "tools": inputs.lock.inputs.tools,  # no claims: the same bytes by another version are no other card
        "draft": None,
        "confidence": CONFIDENCE,
        "earlier": earlier_facts(drop_map, inputs.base.architecture.experts, earlier_maps(inputs.loaded)),
        "prior": prior_facts(inputs.prior),
        "rebuilds": rebuild_facts(*inputs.rebuilds) if inputs.rebuilds else None,
        "pictures": {},
        "quants": [],
        "imatrix": [],
        "mmproj": [],
        "self_test": None,
        "quality": None,
        "calibration": None,
        "runs": [],
        "rows": rows(table_entries(inputs)),
        "protocol": None,
        "contamination": None,
        **weight_facts(inputs.base, inputs.plan, _method(manifest)),
    }
    if manifest.gguf:
        names = [quant.name for quant in manifest.gguf.quants]
        facts["quants"] = quant_facts(inputs.summaries, names)
        facts["quality"] = quality_facts(inputs.quality, names) if inputs.quality else None
        if inputs.self_test:
            facts["self_test"] = self_test_facts(inputs.self_test, inputs.summaries)
        facts["calibration"] = imatrix_facts(inputs.imatrix) if inputs.imatrix else None
        facts["imatrix"] = file_facts(inputs.lock, "imatrix/")
        facts["mmproj"] = projector_facts(inputs.lock)
    if inputs.protocol:
        facts |= _evaluation(inputs, inputs.protocol)
    return facts


def named_facts(manifest: Manifest) -> Facts:
    """What the manifest calls things.  Names may hold digits, so they are claims too."""
    base, publish = manifest.base, manifest.publish
    published = {"weights": publish.weights, "gguf": publish.gguf, "tag": publish.tag} if publish else {}
    return {
        "name": SourcedText(manifest.name, "manifest.yaml: name"),
        "base": {
            "name": SourcedText(base.label, "manifest.yaml: base"),
            "repo": _sourced(base.repo, "base.repo"),
            "revision": _sourced(base.revision, "base.revision"),
        },
        "publish": {key: _sourced(each, f"publish.{key}") for key, each in published.items()} or None,
        "question": question_of(manifest),
    }


def _sourced(text: str | None, place: str) -> SourcedText | None:
    return None if text is None else SourcedText(text, f"manifest.yaml: {place}")


def license_facts(license_text: SourcedText | None, base_card: BaseCard) -> Facts:
    """The license, whether the base's own card names it, and where its text stands."""
    link = base_card.license_link
    return {
        "license": license_text,
        "license_inherited": base_card.license is not None,
        "license_link": SourcedText(link, "README.md of the base: license_link") if link else None,
    }


def _method(manifest: Manifest) -> SourcedText:
    """The ranking with its parameters, or that the map was pinned."""
    prune = manifest.prune
    if prune is None or prune.analysis is None:
        return SourcedText("a pinned drop map", "manifest.yaml: prune.drop_map")
    parameters = prune.ranking.model_dump(exclude={"method"}, exclude_none=True)
    words = [
        f"with {name.replace('_', ' ')}" if isinstance(value, dict) else f"{name} {value}" for name, value in parameters.items()
    ]
    return SourcedText(", ".join([prune.ranking.method, *words]), "drop_map.json: ranking")


def question_of(manifest: Manifest) -> str:
    """What the card's example asks, as a string literal of Python."""
    return json.dumps(manifest.publish.question if manifest.publish else HELLO, ensure_ascii=False)


def earlier_maps(loaded: LoadedManifest) -> dict[str, DropMap]:
    """Drop maps of earlier variants by what the manifest calls them."""
    return {label: read_drop_map(loaded.file(pinned)) for label, pinned in loaded.content.card.earlier_maps.items()}


def table_entries(inputs: CardInputs) -> list[Entry]:
    """What the rows of the results table are made of: those of other variants first, then this one's quants."""
    manifest = inputs.manifest
    own = [Entry(manifest.name, f"evidence/{quant}.json", evidence) for quant, evidence in inputs.evidence.items()]
    return [*(compared_entry(inputs.loaded, inputs.protocol, row) for row in manifest.compare), *own]


def _evaluation(inputs: CardInputs, protocol: Protocol) -> Facts:
    found = inputs.evidence
    calibration = inputs.calibration
    return {
        "runs": [run_facts(evidence, len(protocol.data.option_columns)) for evidence in found.values()],
        "protocol": protocol_facts(protocol, protocol_digest(protocol), list(found.values())),
        "contamination": contamination_facts(calibration, next(iter(found.values()))) if calibration and found else None,
    }


def prose_of(loaded: LoadedManifest) -> str:
    """What a person wrote for the card."""
    name = loaded.content.card.prose
    return loaded.file(PinnedFile(path=name)).read_text(encoding="utf-8") if name else ""


def card_texts(inputs: CardInputs, facts: Facts) -> dict[str, str]:
    """The cards and the results table by file name, rendered from facts that have their pictures.

    Raises:
        InputError: prose or template print a number without a source, or a claim that does not exist.
    """
    manifest, name = inputs.manifest, inputs.manifest.card.prose or "prose"
    prose = prose_of(inputs.loaded)
    require_no_numbers(prose, name)
    overlaps = [{"label": facts["name"], "contamination": facts["contamination"]}] if inputs.evidence else []
    facts = {**facts, "prose": render_prose(prose, facts, name), "overlaps": overlaps}
    own, results = own_templates(inputs.loaded.root, manifest.card.templates), _model_index(inputs)
    heads = [head(manifest, facts["license"], results, inputs.base_card) for head in (weights_front_matter, gguf_front_matter)]
    texts = {"README.md": heads[0] + render("weights_card.md.j2", facts, own)}
    if manifest.gguf:
        texts["README.gguf.md"] = heads[1] + render("gguf_card.md.j2", facts, own)
    if facts["rows"]:
        texts["results.md"] = render("results_table.md.j2", facts, own)
    return texts


def _model_index(inputs: CardInputs) -> list[EvalResult]:
    """Scores for the front matter: of this release's own runs alone."""
    if inputs.protocol is None:
        return []
    protocol, runs = inputs.protocol, [*inputs.evidence.values()]
    return eval_results(runs, protocol, protocol_digest(protocol), weights_repository(inputs.manifest))


def weights_repository(manifest: Manifest) -> str | None:
    """Where the weights go, if they are published."""
    return manifest.publish.weights if manifest.publish else None


LEADERBOARD_FOLDER = "eval_results"


def leaderboard_texts(inputs: CardInputs) -> dict[str, str]:
    """The file for the Hub's leaderboard, where the manifest asks for one, by its place in the card's folder."""
    leaderboard, protocol = inputs.manifest.card.leaderboard, inputs.protocol
    if leaderboard is None or protocol is None or not inputs.manifest.eval:
        return {}
    runs, repo = [*inputs.evidence.values()], weights_repository(inputs.manifest)
    text = leaderboard_yaml(runs, protocol, protocol_digest(protocol), leaderboard, repo)
    return {f"{LEADERBOARD_FOLDER}/{protocol.name}.yaml": text}
