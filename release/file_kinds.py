"""What a file is that somebody gave for another one: its kind, told by its own words, and where the wanted kind is found."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST_KNOWN = 64 << 20
"""Bytes; a file beyond this is not looked into."""
SCHEMA_KEYS = ("schema", "schema_name", "format", "ledger")
MAGIC = {b"GGUF": "gguf", b"PK\x03\x04": "archive", b"\x89PNG": "picture"}
YAML_SCHEMA = re.compile(r"(?:(?:[ \t]*(?:#.*)?|---)\n)*schema:[ \t]*[\"']?(moe-release/[\w/-]+)")


@dataclass(frozen=True)
class Kind:
    """A kind of file: what a person calls it, and where it is found when it is what was wanted."""

    name: str
    found: str = ""


MANIFEST, PROTOCOL, EVIDENCE = "moe-release/v1", "moe-release/protocol/v1", "moe-release/evidence/v1"
LEDGER, LM_EVAL = "moe-release/ledger/v1", "lm-eval"
KINDS: dict[str, Kind] = {
    MANIFEST: Kind("a manifest", "a manifest is a YAML file that begins with `schema: moe-release/v1`"),
    PROTOCOL: Kind("a protocol", "a protocol is a YAML file that begins with `schema: moe-release/protocol/v1`"),
    EVIDENCE: Kind("the evidence of a run", "`moe-release eval` writes evidence as build/NAME/eval/QUANT/evidence.json"),
    LEDGER: Kind("the ledger of a run"),
    LM_EVAL: Kind("an output of lm-eval"),
    "moe-release/lock/v1": Kind("a lock"),
    "moe-release/timing/v1": Kind("the seconds of a run"),
    "moe-release/quality/v1": Kind("a measurement of quants' quality"),
    "moe-release/headers/v1": Kind(
        "a base's headers", "headers are a YAML file that begins with `schema: moe-release/headers/v1`"
    ),
    "moe-release/drop-map/v1": Kind("a drop map"),
    "moe-release/ranking-report/v1": Kind("the report of a ranking"),
    "drop map": Kind("a drop map"),
    "expert statistics or weights": Kind("a safetensors file"),
    "config": Kind("a checkpoint's config.json"),
    "questions": Kind("a set of questions"),
    "comparison": Kind("what `moe-release compare --json` printed"),
    "cross-fit": Kind("what `moe-release cross-fit --json` printed"),
    "gguf": Kind("a GGUF"),
    "archive": Kind("an archive"),
    "picture": Kind("a picture"),
}
TOLD_BY: dict[str, frozenset[str]] = {
    "config": frozenset({"model_type"}),
    "comparison": frozenset({"runs", "comparisons"}),
    "cross-fit": frozenset({"parts", "protocol_digest", "seen"}),
    "drop map": frozenset({"per_layer_drop"}),
}
"""Keys of JSON that names no schema."""
LM_EVAL_KEYS = (frozenset({"results", "configs"}), frozenset({"doc_hash", "resps"}), frozenset({"samples_file"}))
ADVICE = {
    (EVIDENCE, LM_EVAL): "give `moe-release compare` the folder with its results_*.json and samples_*.jsonl, and --protocol",
    (EVIDENCE, LEDGER): "evidence.json is written beside it when the run is whole",
}
"""What to do with a file of the second kind where one of the first was wanted, when there is more to say."""


def mistaken(path: Path, wanted: str) -> str | None:
    """One line for a file that is of a known kind and not of the wanted one; None where nobody can tell, or it is.

    Args:
        path: the file.
        wanted: a key of `KINDS`.
    """
    found = kind_of(path)
    if found is None or found == wanted or wanted not in KINDS:
        return None
    advice = ADVICE.get((wanted, found), KINDS[wanted].found)
    return f"{path}: is {KINDS[found].name}, not {KINDS[wanted].name}; {advice}"


def kind_of(path: Path) -> str | None:
    """The kind of a file, a key of `KINDS`; None where nobody can tell."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_KNOWN:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    for magic, kind in MAGIC.items():
        if data.startswith(magic):
            return kind
    if data[8:9] == b"{" and not data.lstrip().startswith(b"{"):
        return "expert statistics or weights"
    return _kind_of_text(data.decode(errors="replace"))


def _kind_of_text(text: str) -> str | None:
    """Of JSON, of JSON lines by the first of them, or of YAML by its schema."""
    for part in (text, text.split("\n", 1)[0]):
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        return _kind_of_value(value) if isinstance(value, dict) else None
    found = YAML_SCHEMA.match(text)
    return found[1] if found and found[1] in KINDS else None


def _kind_of_value(value: Mapping[str, Any]) -> str | None:
    named = next((value[key] for key in SCHEMA_KEYS if isinstance(value.get(key), str)), None)
    if named in KINDS:
        return str(named)
    if any(keys <= value.keys() for keys in LM_EVAL_KEYS):
        return LM_EVAL
    if told := next((kind for kind, keys in TOLD_BY.items() if keys <= value.keys()), None):
        return told
    if value and all(key.isdigit() and isinstance(ids, list) for key, ids in value.items() if key != "mtp"):
        return "drop map"
    return "questions" if any(key.lower() == "question" for key in value) else None
