"""A card from headers and reported rows: for a variant that was never built here."""

from __future__ import annotations

from pathlib import Path

from pruner.errors import InputError
from pruner.files import atomic_folder, canonical_json
from release.actions.plan_report import counted_map, known_map
from release.card.claims import CONFIDENCE, Claim, SourcedText, claims_in
from release.card.compared import compared_entry
from release.card.facts import Facts, earlier_facts, statistics_facts, weight_facts
from release.card.front_matter import NO_CARD, license_of, weights_front_matter
from release.card.inputs import earlier_maps, license_facts, named_facts
from release.card.prose import require_no_numbers
from release.card.render import own_templates, render, render_prose
from release.card.table import rows
from release.context import Context
from release.manifest import Compare, PinnedFile
from release.stages.preflight import check_inputs, not_buildable
from release.stages.prune import plan_of


def write_header_card(context: Context) -> Path:
    """Render README.md, results.md and claims.json into the work folder's `draft`, and return the card's path.

    The context's options say `from_headers`.  No number is measured: sizes come from the plan, scores from reported rows.

    Raises:
        InputError: the manifest prunes nothing, or one of its files cannot be used.
        UnavailableError: the base is on the Hub, the manifest has no description of its headers, and the Hub does not answer.
    """
    manifest = context.manifest
    check_inputs(context.loaded)
    facts = header_facts(context)
    name = manifest.card.prose or "prose"
    if manifest.card.prose:
        prose = context.loaded.file(PinnedFile(path=manifest.card.prose)).read_text(encoding="utf-8")
        require_no_numbers(prose, name)
        facts["prose"] = render_prose(prose, facts, name)
    own = own_templates(context.loaded.root, manifest.card.templates)
    texts = {"README.md": weights_front_matter(manifest, manifest.card.license) + render("weights_card.md.j2", facts, own)}
    if facts["rows"]:
        texts["results.md"] = render("results_table.md.j2", facts, own)
    texts["claims.json"] = canonical_json(dict(claims_in(facts))).decode()
    target = context.work / "draft"
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as folder:
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
    return target / "README.md"


def header_facts(context: Context) -> Facts:
    """Every fact that headers, the manifest and its reported rows give; what is not known is listed and never made up.

    Raises:
        InputError: the manifest prunes nothing, or its map does not fit the base.
    """
    manifest = context.manifest
    if manifest.prune is None:
        raise InputError(f"{context.loaded.path}: has no prune section: there is no variant to write a card of")
    drop_map = known_map(context)
    unknown = list(not_buildable(context.loaded))
    if drop_map is None and manifest.prune.analysis is not None:
        unknown.append("the experts have not been measured, so there is no drop map yet")
    if manifest.card.license is None:
        unknown.append("the license is UNKNOWN: it is read from the base's own card")
    unknown += [f"the score of {row.label} is left out: it is of a run, {_place(row)}" for row in manifest.compare if row.files]
    plan = plan_of(context, drop_map or counted_map(context))
    entries = [compared_entry(context.loaded, None, row) for row in manifest.compare if row.reported]
    experts = context.base.architecture.experts
    return {
        **named_facts(manifest),
        **license_facts(license_of(manifest, NO_CARD), NO_CARD),
        "draft": {"unknown": [SourcedText(reason, "manifest.yaml") for reason in unknown]},
        "publish": None,
        "prose": "",
        "confidence": CONFIDENCE,
        "drop_map_digest": Claim(drop_map.digest, "digest", "the pinned drop map") if drop_map else None,
        "statistics": statistics_facts(drop_map) if drop_map else None,
        "earlier": earlier_facts(drop_map, experts, earlier_maps(context.loaded)) if drop_map else [],
        "prior": [],
        "files": [],
        "pictures": {},
        "quants": [],
        "mmproj": [],
        "imatrix": [],
        "runs": [],
        "rows": rows(entries),
        "protocol": None,
        "contamination": None,
        **weight_facts(context.base, plan, _method(drop_map is not None, context)),
    }


def _place(row: Compare) -> str:
    """Where the files of a run stand."""
    return " and ".join(file.path for file in row.files)


def _method(known: bool, context: Context) -> SourcedText:  # noqa: FBT001  # the one question that decides it
    if context.prune.analysis is not None:
        said = f"{context.prune.ranking.method}, over statistics that are still to be measured"
        return SourcedText(said, "manifest.yaml: prune.ranking")
    return SourcedText("a pinned drop map" if known else "a drop map that is not here", "manifest.yaml: prune.drop_map")
