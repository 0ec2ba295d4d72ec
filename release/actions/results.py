"""The results table of a family of releases: rows of several manifests, one table for each protocol."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruner.errors import CheckFailedError, InputError, MoeReleaseError
from pruner.files import path_inside, sha256_file
from release.actions.published_work import fetch_work, has_evidence
from release.attestation.provenance import PROVENANCE, built_manifest
from release.card.compared import compared_entry, reference_of
from release.card.facts import Facts, known_contamination
from release.card.render import render
from release.card.table import Entry, Row, rows
from release.evaluation.evidence import evidence_digest, read_evidence, require_complete
from release.evaluation.gates import require_reference
from release.evaluation.protocol import Protocol, load_protocol, protocol_digest
from release.lock import Lock, differences, read_committed_lock, read_lock
from release.manifest import LoadedManifest, load_manifest
from release.records import record_path
from release.stages.lock import changed_inputs

COLUMNS = (
    "protocol",
    "model",
    "quant",
    "total",
    "raw_correct",
    "correct",
    "raw",
    "score",
    "low",
    "high",
    "points",
    "difference",
    "reported_at",
)


@dataclass(frozen=True)
class Table:
    """Rows that may be compared: all of one protocol, by name and digest, or all reported by others (then there is none)."""

    protocol: str | None
    digest: str | None
    entries: tuple[Entry, ...]

    @property
    def rows(self) -> list[Row]:
        """The rows with their differences from the reference."""
        return rows(self.entries)

    @property
    def overlaps(self) -> list[Facts]:
        """Of each release, how many questions its experts were chosen by are the exam's too."""
        runs = {entry.label: entry.evidence for entry in reversed(self.entries) if entry.pruned and entry.evidence}
        return [{"label": label, "contamination": known_contamination(run)} for label, run in reversed(runs.items())]


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How cells begin that spreadsheets run."""


def results_tables(manifests: Sequence[Path], work: Path, *, published: bool = False) -> list[Table]:
    """One table for each protocol, in the order of the manifests; what two manifests both name stands once.

    Args:
        manifests: of the family.
        work: the folder that holds a work folder for each manifest, by its name.
        published: where a work folder holds no evidence, take that from the Hub, under the lock that is published with it.

    Raises:
        CheckFailedError: evidence is missing or is not what a lock says, or the same row is given twice and differently.
        InputError: a manifest or a file that it names cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _tables(manifests, work, Path(folder) if published else None)


def changed_since(manifests: Sequence[Path], work: Path) -> list[str]:
    """What to say of each manifest that is another file than the one of the build in its work folder: its scores are older."""
    said = []
    for path in manifests:
        loaded = load_manifest(path)
        place = work / loaded.content.name
        told, evaluated = place / PROVENANCE, record_path(place, "eval")
        built = built_manifest(told) if has_evidence(loaded, place) else None
        if built in (None, sha256_file(path)):
            continue
        if evaluated.is_file() and evaluated.stat().st_mtime_ns > told.stat().st_mtime_ns:
            continue  # by a run that did not come as far as a lock
        remedy = f"`moe-release eval {path}` renews them where the change touches them"
        said.append(f"{path} has changed since the build in {place}, whose scores these are; {remedy}")
    return said


def _tables(manifests: Sequence[Path], work: Path, fetched: Path | None) -> list[Table]:
    found: dict[str | None, tuple[str | None, list[Entry]]] = {}
    missing: list[str] = []
    for path in manifests:
        loaded = load_manifest(path)
        protocol = _protocol(loaded)
        try:
            place = work / loaded.content.name
            lock = None
            if fetched is not None and not has_evidence(loaded, place):
                place = fetch_work(loaded, fetched / loaded.content.name)
                lock = read_lock(place / "lock.json")
            entries = list(_entries(loaded, protocol, place, lock))
        except MoeReleaseError as error:
            missing.append(f"{loaded.content.name}: {error}")
            continue
        for entry in entries:
            name, digest = _compared_under(entry, protocol)
            found.setdefault(digest, (name, []))[1].append(entry)
    if missing:
        raise CheckFailedError("no table: " + "; ".join(missing))
    tables = [Table(name, digest, _distinct(entries)) for digest, (name, entries) in found.items()]
    if not tables:
        raise CheckFailedError("no table: these manifests evaluate nothing and compare with nothing")
    return tables


def _compared_under(entry: Entry, protocol: Protocol | None) -> tuple[str | None, str | None]:
    """Name and digest of the protocol in whose table a row stands: the manifest's, without one that of its evidence."""
    if protocol is not None:
        return protocol.name, protocol_digest(protocol)
    return (entry.evidence.protocol, entry.evidence.protocol_digest) if entry.evidence else (None, None)


def _protocol(loaded: LoadedManifest) -> Protocol | None:
    section = loaded.content.eval
    return load_protocol(path_inside(loaded.root, section.protocol), loaded.root) if section else None


def _entries(loaded: LoadedManifest, protocol: Protocol | None, work: Path, lock: Lock | None) -> Iterator[Entry]:
    """What a manifest compares with, then its own runs, each checked against its lock: the given one, or that of `_lock`."""
    for row in loaded.content.compare:
        yield compared_entry(loaded, protocol, row)
    if protocol is None or loaded.content.eval is None:
        return
    if loaded.content.prune and protocol.gates.reference:
        require_reference(protocol, reference_of(loaded))
    lock = lock or _lock(loaded, work)
    for quant in loaded.content.eval.quants:
        yield _own_entry(loaded, lock, quant, work, protocol)


def _lock(loaded: LoadedManifest, work: Path) -> Lock:
    """The lock beside the manifest; that of the work folder where there is none yet, or where other tools explain what differs.

    Raises:
        CheckFailedError: there is neither.
    """
    committed, made = read_committed_lock(loaded.lock_path), read_lock(work / "lock.json")
    if made is not None and (committed is None or _explained(committed, made)):
        return made
    if committed is None:
        raise CheckFailedError(
            f"{loaded.lock_path.name} is missing, and {work} holds no lock.json; cut or rehearse the release first"
        )
    return committed


def _explained(committed: Lock, made: Lock) -> bool:
    """Whether a build is one that `cut` lets pass: of the same inputs, and other only where other tools made it."""
    changed = differences(committed.outputs, made.outputs)
    return not changed_inputs(committed, made) and all(each.explained for each in changed)


def _own_entry(loaded: LoadedManifest, lock: Lock, quant: str, work: Path, protocol: Protocol) -> Entry:
    name = f"eval/{quant}/evidence.json"
    path = work / name
    locked = lock.outputs.get(name)
    if locked is None:
        raise CheckFailedError(f"the lock holds no {name}; cut the release again")
    if not path.is_file():
        raise CheckFailedError(f"{path} is missing; run `moe-release eval {loaded.path}`")
    if (digest := sha256_file(path)) != locked.sha256:
        raise CheckFailedError(f"{path} has SHA-256 {digest}, the lock says {locked.sha256}")
    evidence = read_evidence(path)
    if evidence.protocol_digest != protocol_digest(protocol):
        raise CheckFailedError(f"{path} is of another protocol than the manifest's; run `moe-release eval {loaded.path}`")
    if evidence.quant != quant or evidence.model_sha256 != lock.quant_digest(quant):
        raise CheckFailedError(f"{path} is of another {quant} than the lock's; evaluate the locked one")
    require_complete(evidence, protocol, str(path))
    return Entry(
        loaded.content.name, f"{loaded.content.name}: evidence/{quant}.json", evidence, pruned=loaded.content.prune is not None
    )


def _distinct(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Each row once.  One source cannot report a model twice with different counts, and there is one reference."""
    found: dict[tuple[str | None, ...], Entry] = {}
    for entry in entries:
        what = "reported" if entry.reported else "lm-eval" if entry.foreign else "run"
        key = (entry.label, what, *_asked(entry))
        known = found.get(key)
        if known is not None and _content(known) != _content(entry):
            raise CheckFailedError(f"no table: {entry.label} stands in two manifests with different results; make them agree")
        found[key] = known if known is not None and known.reference else entry
    references = {_content(entry) for entry in found.values() if entry.reference}
    if len(references) > 1:
        raise CheckFailedError("no table: the manifests take differences from different references; give all the same one")
    return tuple(found.values())


def _asked(entry: Entry) -> tuple[str | None, ...]:
    """What tells one score of a model from another: its quant, and of a reported one the exam and the source."""
    if entry.reported:
        return entry.reported.quant, entry.reported.exam, entry.reported.url
    return (entry.evidence.quant if entry.evidence else None,)


def _content(entry: Entry) -> str:
    if entry.evidence:
        return evidence_digest(entry.evidence)
    return entry.reported.model_dump_json() if entry.reported else repr(entry.foreign)


def tables_markdown(tables: Sequence[Table]) -> str:
    """Each table under the name of its protocol when there are several; reported rows have a mark and a footnote."""
    parts = []
    for table in tables:
        text = render("results_table.md.j2", {"rows": table.rows, "overlaps": table.overlaps}).strip("\n")
        parts.append(f"## {_title(table)}\n\n{text}" if len(tables) > 1 else text)
    return "\n\n".join(parts)


def _title(table: Table) -> str:
    return f"Protocol `{table.protocol}` ({(table.digest or '')[:12]})" if table.protocol else "Reported by others"


def tables_json(tables: Sequence[Table]) -> str:
    """A list of tables, each with its protocol and rows.

    Scores and the bounds of their 95 % interval are shares of 1, points are percentage points.
    """
    return json.dumps(
        [
            {
                "protocol": table.protocol,
                "protocol_digest": table.digest,
                "rows": [_record(table, entry, row) for entry, row in zip(table.entries, table.rows, strict=True)],
            }
            for table in tables
        ],
        indent=2,
        ensure_ascii=False,
    )


def tables_csv(tables: Sequence[Table]) -> str:
    """One table with a column for the protocol; what a row does not have is empty."""
    output = io.StringIO()
    writer = csv.DictWriter(output, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for entry, row in zip(table.entries, table.rows, strict=True):
            writer.writerow({name: _cell(value) for name, value in _record(table, entry, row).items()})
    return output.getvalue().rstrip("\n")


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula, with the apostrophe that makes it a text there."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _record(table: Table, entry: Entry, row: Row) -> dict[str, Any]:
    total, raw_correct, correct = _counts(entry)
    bounds = entry.evidence.patched_interval if entry.evidence else entry.foreign.interval if entry.foreign else None
    return {
        "protocol": table.protocol,
        "model": entry.label,
        "quant": row.quant or None,
        "total": total,
        "raw_correct": raw_correct,
        "correct": correct,
        "raw": round(raw_correct / total, 6) if raw_correct is not None else None,
        "score": round(correct / total, 6),
        "low": bounds.low if bounds else None,
        "high": bounds.high if bounds else None,
        "points": round(100 * float(row.points.value), 4) if row.points else None,
        "difference": row.difference,
        "reported_at": entry.reported.origin if entry.reported else None,
    }


def _counts(entry: Entry) -> tuple[int, int | None, int]:
    """Questions, correct answers before any patch where they are known, and after it."""
    if entry.evidence:
        return entry.evidence.total, entry.evidence.raw_correct, entry.evidence.patched_correct
    if entry.reported:
        return entry.reported.total, entry.reported.raw_correct, entry.reported.correct
    if entry.foreign is None:
        raise InputError(f"{entry.source}: holds no score")
    return entry.foreign.total, None, entry.foreign.correct
