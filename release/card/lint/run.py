"""The list of rules, and the report of what they find."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from pruner.errors import InputError
from pruner.wording import counted
from release.card.lint.document import Document, read_document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import (
    Knowledge,
    Rule,
    claims_beside,
    read_claims,
    read_config,
    read_files,
    repositories_of,
    whole_copy,
)
from release.card.lint.rules import (
    breakdown,
    calibration,
    claims,
    commands,
    config,
    deltas,
    differences,
    experts,
    files,
    gigabytes,
    links,
    luck,
    paths,
    percentages,
    quant_sizes,
    raw_scores,
    references,
    repeated,
    secrets,
    shares,
    significance,
    stated,
    sums,
    tools,
)
from release.file_kinds import KINDS, kind_of

RULES: tuple[Rule, ...] = (
    claims.find,
    sums.find,
    breakdown.find,
    percentages.find,
    deltas.find,
    differences.find,
    references.find,
    experts.find,
    shares.find,
    gigabytes.find,
    quant_sizes.find,
    repeated.find,
    stated.find,
    significance.find,
    luck.find,
    raw_scores.find,
    calibration.find,
    paths.find,
    secrets.find,
    links.find,
    files.find,
    commands.find,
    tools.find,
    config.find,
)


def lint(document: Document, knowledge: Knowledge = Knowledge()) -> tuple[Finding, ...]:  # noqa: B008  # frozen
    """Every slip that the rules find, in the order of lines."""
    return tuple(sorted({finding for rule in RULES for finding in rule(document, knowledge)}))


def lint_file(
    card: Path,
    *,
    files: Sequence[Path] = (),
    claims: Path | None = None,
    command_error: Callable[[Sequence[str]], str | None] | None = None,
) -> tuple[Finding, ...]:
    """Lint a card, with the files of its repositories and its claims if they are given.

    A claims.json beside it is taken, and in a copy of a whole repository the files around it.
    `command_error` says why words are no command line of moe-release, or None.

    Raises:
        InputError: one of the files cannot be read.
    """
    if card.is_dir():
        raise InputError(f"{card}: is a folder; give the README.md in it")
    if not card.is_file():
        raise InputError(f"{card}: does not exist; give a model card, such as README.md")
    if kind := kind_of(card):
        raise InputError(f"{card}: is {KINDS[kind].name}, no model card; give the README.md of a repository")
    claims = claims or claims_beside(card)
    files = files or whole_copy(card)
    shown = read_claims(claims) if claims else None
    known = Knowledge(
        frozenset().union(*map(read_files, files)) if files else None,
        shown,
        read_config(files),
        repositories_of(card, shown),
        command_error,
    )
    return lint(read_document(card), known)


def lint_json(findings: tuple[Finding, ...]) -> str:
    """A list of {line, kind, message}."""
    return json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False)


def lint_text(card: Path, findings: tuple[Finding, ...]) -> str:
    """One line per finding, and how many there are."""
    lines = [f"{card}:{finding.line}: {finding.kind}: {finding.message}" for finding in findings]
    return "\n".join([*lines, f"{card}: {counted(len(findings), 'finding')}" if findings else f"{card}: no findings"])
