"""What a manifest compares its release with: rows of the results table that others made, and the reference run."""

from __future__ import annotations

from pruner.errors import InputError
from release.card.table import Entry
from release.evaluation.evidence import Evidence, read_evidence, require_complete
from release.evaluation.gates import read_gated_files
from release.evaluation.protocol import Protocol, protocol_digest
from release.manifest import Compare, LoadedManifest


def reference_of(loaded: LoadedManifest) -> Evidence | None:
    """Evidence of the run that the manifest's results table takes differences from.

    Raises:
        InputError, CheckFailedError: see `read_evidence`.
    """
    pinned = next((row.evidence for row in loaded.content.compare if row.reference), None)
    return read_evidence(loaded.file(pinned)) if pinned else None


def compared_entry(loaded: LoadedManifest, protocol: Protocol | None, row: Compare) -> Entry:
    """A row of `compare`, read.

    Raises:
        CheckFailedError: evidence does not add up or is not of all questions, or an output of lm-eval passes no gates.
        InputError: the file is missing, or is an output of lm-eval and the manifest has no protocol.
    """
    if row.reported:
        return Entry(row.label, "manifest.yaml: compare", reported=row.reported)
    if row.evidence:
        evidence = read_evidence(loaded.file(row.evidence))
        if protocol and evidence.protocol_digest == protocol_digest(protocol):  # of another, the row says so
            require_complete(evidence, protocol, f"{loaded.path}: the run of {row.label}")
        return Entry(row.label, row.evidence.path, evidence, reference=row.reference)
    if protocol is None or row.lm_eval is None:
        raise InputError(
            f"{loaded.path}: {row.label} is an output of lm-eval, whose gates stand in a protocol; give eval.protocol"
        )
    run = read_gated_files(loaded.file(row.lm_eval.samples), loaded.file(row.lm_eval.results), protocol)
    return Entry(row.label, row.lm_eval.samples.path, foreign=run)
