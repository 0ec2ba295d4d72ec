"""The pictures of a release, drawn from the same evidence as its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from release.card.claims import Claim
from release.card.inputs import CardInputs
from release.card.pictures.canvas import Picture
from release.card.pictures.heat_map import experts_picture
from release.card.pictures.outcomes import Breakdown, outcomes_picture
from release.card.pictures.quants import QuantPoint, quants_picture
from release.card.pictures.results import results_picture, score_of
from release.card.table import Entry
from release.gguf.quality import Quality
from release.manifest import Gguf

FOLDER = "pictures"
SOURCE = "what the picture is drawn from: evidence, drop_map.json and the sizes of files"


def draw_pictures(inputs: CardInputs, entries: Sequence[Entry]) -> list[Picture]:
    """Every picture that there is evidence for; `entries` are the rows of the results table."""
    runs, manifest = inputs.evidence, inputs.manifest
    found = [
        results_picture([score_of(entry) for entry in entries]) if entries else None,
        quants_picture(_points(inputs, manifest.gguf)) if manifest.gguf else None,
        outcomes_picture([Breakdown(quant, run.outcomes) for quant, run in runs.items()]) if runs else None,
        experts_picture(inputs.drop_map, manifest.name, inputs.base.architecture.experts),
    ]
    return [picture for picture in found if picture]


def picture_facts(pictures: Sequence[Picture]) -> dict[str, Any]:
    """What a template needs: paths in the repository, and what to say to those who cannot see."""
    paths = {each.name: {form: f"{FOLDER}/{each.name}.{form}" for form in each.files} for each in pictures}
    return {each.name: {"alt": Claim(each.alt, "text", SOURCE), **paths[each.name]} for each in pictures}


def picture_files(pictures: Sequence[Picture]) -> dict[str, bytes]:
    """Files by path in the repository."""
    return {f"{FOLDER}/{each.name}.{form}": data for each in pictures for form, data in each.files.items()}


def _points(inputs: CardInputs, section: Gguf) -> list[QuantPoint]:
    divergence = _divergences(inputs.quality)
    sizes = {name: summary["file_size"] for name, summary in inputs.summaries.items()}
    points = []
    for name in (quant.name for quant in section.quants):
        run = inputs.evidence.get(name)
        score, span = (run.patched_share, (run.patched_interval.low, run.patched_interval.high)) if run else (None, None)
        points.append(QuantPoint(name, sizes[name], score, span, divergence.get(name)))
    return points


def _divergences(quality: Quality | None) -> dict[str, float]:
    """Mean KL divergence in nats by quant; none when the manifest asks for no quality check."""
    quants = quality.quants if quality else {}
    return {name: quant.divergence.kl_divergence.value for name, quant in quants.items()}
