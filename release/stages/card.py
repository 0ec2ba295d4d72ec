"""Write the cards: every number computed from lock, headers and evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError
from pruner.files import atomic_folder, canonical_json, sha256_bytes
from pruner.wording import some
from release.card.claims import claims_in
from release.card.compared import reference_of
from release.card.facts import Facts
from release.card.inputs import CardInputs, card_texts, facts_of, leaderboard_texts, prose_of, table_entries
from release.card.pictures.canvas import libraries
from release.card.pictures.gallery import draw_pictures, picture_facts, picture_files
from release.card.render import own_templates, template_folder
from release.context import Context
from release.evaluation.gates import require_reference
from release.gguf.imatrix import read_imatrix
from release.gguf.quality import read_quality
from release.lock import differences, read_committed_lock
from release.stages.calibrate import imatrix_of
from release.stages.evaluate import calibration_digests, evidence_of, protocol_of
from release.stages.lock import changed_inputs
from release.stages.lock_draft import draft_lock
from release.stages.prune import drop_map_path, plan_of, skip_base_release
from release.stages.quality import quality_path, wants_quality
from release.stages.quantize import read_summaries
from release.stages.rebuilds import counted_rebuilds
from release.stages.stage import Stage
from release.stages.verify import read_verified


def card_folder(context: Context) -> Path:
    """Folder of the rendered cards."""
    return context.work / "card"


def _templates(context: Context) -> list[dict[str, str]]:
    own = own_templates(context.loaded.root, context.manifest.card.templates)
    return [{path.name: sha256_bytes(path.read_bytes()) for path in sorted(template_folder().glob("*.md.j2"))}, own]


def _inputs(context: Context) -> Any:
    lock = draft_lock(context).to_bytes()
    quality = quality_path(context)
    measured = sha256_bytes(quality.read_bytes()) if quality.exists() else None
    manifest = context.manifest.model_dump(mode="json", by_alias=True)
    made_of = [prose_of(context.loaded), _templates(context), libraries(), measured, counted_rebuilds(context)]
    return [sha256_bytes(lock), manifest, *made_of, _not_as_locked(context)]


def _not_as_locked(context: Context) -> list[str]:
    """What the card would be made of and the lock beside the manifest says otherwise.

    Prose and a person's own templates may be other ones: they are written in rounds, with a look at the card after each.  And
    nothing when the lock's own stage compares everything, after the report has told a person of it.
    """
    locked, options = read_committed_lock(context.loaded.lock_path), context.options
    if locked is None or options.update_lock or "lock" in context.planned:
        return []
    drafted = draft_lock(context)
    before = {path: file for path, file in locked.outputs.items() if not path.startswith("card/")}
    changed = [each for each in differences(before, drafted.outputs) if each.explained is None]
    inputs = [name for name in changed_inputs(locked, drafted) if not _is_written(context, name)]
    return inputs + [str(each) for each in changed if each.kind != "missing" or not options.skip]


def _is_written(context: Context, name: str) -> bool:
    """Whether a file beside the manifest is prose or a template of the person who writes the card."""
    card = context.manifest.card
    return name == card.prose or (card.templates is not None and name.startswith(f"{card.templates}/"))


def _run(context: Context) -> str:
    if wrong := _not_as_locked(context):
        what = f"{some(wrong)}, and a card is rendered of what is locked alone"
        raise CheckFailedError(f"{context.loaded.lock_path.name} says otherwise of {what}; accept it with `cut --update-lock`")
    inputs = card_inputs(context)
    facts = facts_of(inputs)
    pictures = draw_pictures(inputs, table_entries(inputs))
    facts["pictures"] = picture_facts(pictures)
    texts = card_texts(inputs, facts)
    texts |= leaderboard_texts(inputs)
    texts["claims.json"] = canonical_json(dict(claims_in(facts))).decode()
    files = {**{name: text.encode() for name, text in texts.items()}, **picture_files(pictures)}
    with atomic_folder(card_folder(context)) as folder:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    return str(card_folder(context) / "README.md")


def collect_facts(context: Context) -> Facts:
    """Every fact that a template may print.

    Raises:
        InputError: evidence that the manifest asks for is missing.
    """
    return facts_of(card_inputs(context))


def card_inputs(context: Context) -> CardInputs:
    """What the card of this release is made of, from its work folder.

    Raises:
        InputError: evidence that the manifest asks for is missing.
    """
    manifest = context.manifest
    drop_map = read_drop_map(drop_map_path(context))
    matrix = imatrix_of(context)
    protocol = protocol_of(context) if manifest.eval else None
    if protocol:
        require_reference(protocol, reference_of(context.loaded))
    return CardInputs(
        loaded=context.loaded,
        lock=draft_lock(context),
        base=context.base,
        plan=plan_of(context, drop_map),
        drop_map=drop_map,
        prior=read_verified(context),
        summaries=read_summaries(context) if manifest.gguf else {},
        quality=read_quality(quality_path(context)) if wants_quality(context) else None,
        self_test=context.self_test if manifest.gguf and manifest.gguf.quantized else None,
        imatrix=read_imatrix(matrix) if matrix else None,
        protocol=protocol,
        evidence=evidence_of(context),
        calibration=calibration_digests(context) if manifest.eval else None,
        rebuilds=counted_rebuilds(context),
    )


STAGE = Stage(
    name="card",
    title="writing cards",
    run=_run,
    inputs=_inputs,
    outputs=lambda context: (card_folder(context),),
    skip=skip_base_release,
    needs=("prune", "quantize", "quality", "eval"),
)
