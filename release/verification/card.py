"""Whether every number on the card follows from lock, headers and evidence: recomputed here, and the card rendered again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import read_json, sha256_bytes, write_atomic
from pruner.sources import read_small
from release import __version__, reproduce
from release.attestation.votes import verified_rebuilds
from release.card.claims import Claim, claims_in
from release.card.facts import Facts
from release.card.handwritten import LARGEST, without_parts
from release.card.inputs import CardInputs, card_texts, facts_of, leaderboard_texts, table_entries
from release.card.lint.document import read_document
from release.card.lint.knowledge import Knowledge
from release.card.lint.rules import claims as number_claims
from release.card.pictures.canvas import libraries
from release.card.pictures.gallery import draw_pictures, picture_facts, picture_files
from release.hub.names import PICTURES, RESULTS
from release.hub.published import Published, PublishedRepository, base_of
from release.processes import processor
from release.verdict import Finding, Pieces, Verdict
from release.verification.ggufs import open_gguf_repository
from release.verification.notes import but_for, check_notes
from release.verification.recollected import recollect
from release.verification.request import Request

PART = "card"
CARD = "README.md"
CLAIMS_LIMIT = 64 << 20
CONTAMINATION, REBUILDS = "contamination", "rebuilds"
"""Claims that nobody can recompute from what is published: calibration questions are withheld; others may join later."""


def check_card(published: Published, request: Request) -> Finding:
    """The finding on cards and claims.

    Raises:
        InputError, CheckFailedError: something that is published cannot be used.
        UnavailableError: the base, or what else the card's numbers come from, cannot be had.
    """
    pieces = Pieces(PART, published.folder)
    claims = _published_claims(published)
    with pieces.checking(CARD):
        _require_claimed(published, claims)
    base = base_of(published, request.base)
    inputs = recollect(published, base, request)
    facts = facts_of(inputs)
    pictures = draw_pictures(inputs, table_entries(inputs))
    facts["pictures"] = picture_facts(pictures)
    taken = [name for name in (CONTAMINATION, REBUILDS) if _taken_over(name, facts, claims)]
    found = dict(claims_in(facts))
    _compare_claims(claims, found, pieces)
    with pieces.checking("claims"):
        _require_votes(published, claims)
    notes = sum(check_notes(*each, claims, pieces) for each in _compare_cards(published, request, inputs, facts, pieces))
    results = {name: text.encode() for name, text in leaderboard_texts(inputs).items()}
    _compare_made(published, {**results, **picture_files(pictures)}, pieces)
    unchecked = sum(name.split(".")[0] in taken for name in found)
    rest = f", {unchecked} taken from the card" if unchecked else ""
    return pieces.finding(
        f"{len(found) - unchecked} claims recomputed{rest}; rendered again with the same bytes{but_for(notes)}"
    )


def _published_claims(published: Published) -> dict[str, dict[str, Any]]:
    """The claims as they are published.

    Raises:
        InputError: they are none.
    """
    claims = read_json(published.path(reproduce.CLAIMS), "the claims", CLAIMS_LIMIT)
    keys = {"value", "unit", "source", "shown"}
    if not isinstance(claims, dict) or not all(isinstance(each, dict) and set(each) == keys for each in claims.values()):
        raise InputError(f"{reproduce.CLAIMS}: expected an object of claims, each with value, unit, source and shown")
    return claims


def _require_claimed(published: Published, claims: dict[str, dict[str, Any]]) -> None:
    """Raise CheckFailedError for a number on the card that is no claim; it needs nothing but the two files."""
    local = published.path("card-without-notes.md")
    write_atomic(local, without_parts(_text(published.weights)).encode())
    loose = sorted(number_claims.find(read_document(local), Knowledge(claims=claims)))
    if loose:
        raise CheckFailedError(f"line {loose[0].line}: {loose[0].message}")


def _text(repository: PublishedRepository) -> str:
    return read_small(repository.source, CARD, "the card", LARGEST).decode("utf-8", errors="replace")


def _taken_over(name: str, facts: Facts, claims: dict[str, dict[str, Any]]) -> bool:
    """Take claims that cannot be recomputed from the published ones, so that the rest of the card can be rendered."""
    known = {path.split(".")[1]: each for path, each in claims.items() if path.startswith(f"{name}.")}
    if not known or facts[name] is not None:
        return False
    facts[name] = {key: Claim(each["value"], each["unit"], each["source"]) for key, each in known.items()}
    return True


def _compare_claims(claims: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]], pieces: Pieces) -> None:
    for path in sorted({*claims, *found}):
        name = f"{reproduce.CLAIMS}: {path}"
        if path not in found:
            pieces.add(name, Verdict.BAD, "nothing that is published gives this claim")
        elif path not in claims:
            pieces.add(name, Verdict.BAD, f"is missing; it is {found[path]['shown']}")
        elif claims[path] != found[path]:
            key = next(key for key in ("value", "shown", "unit", "source") if claims[path][key] != found[path][key])
            pieces.add(name, Verdict.BAD, f"its {key} is {claims[path][key]!r}, recomputed {found[path][key]!r}")
    if not any(name.startswith(reproduce.CLAIMS) for name, _, _ in pieces.items):
        pieces.add(reproduce.CLAIMS, Verdict.GOOD)


def _require_votes(published: Published, claims: dict[str, dict[str, Any]]) -> None:
    """A card may count fewer rebuilds than there are by now, and never more.

    Raises:
        CheckFailedError: it counts more than are verified.
        UnavailableError: fewer report other bytes by the card than are verified: nobody can tell whether they joined later.
    """
    claimed = {kind: claims.get(f"{REBUILDS}.{kind}") for kind in ("good", "bad")}
    if not any(claimed.values()):
        return
    counts = verified_rebuilds(published)
    shown = {kind: each["value"] if each else 0 for kind, each in claimed.items()}
    for kind, parties, what in (("good", counts.good, "independent rebuilds"), ("bad", counts.bad, "reports of other bytes")):
        if type(shown[kind]) is not int or shown[kind] > len(parties):
            raise CheckFailedError(f"{what}: the card counts {shown[kind]}, {len(parties)} verified")
    if shown["bad"] < len(counts.bad):
        text = f"reports of other bytes: the card counts {shown['bad']}, {len(counts.bad)} verified"
        raise UnavailableError(f"{text}: they joined after it was written, or it hides them")


def _compare_cards(
    published: Published, request: Request, inputs: CardInputs, facts: Facts, pieces: Pieces
) -> list[tuple[str, str]]:
    """Render the cards and compare them, byte for byte but for hand-written parts; gives the published ones by name."""
    made_with = inputs.lock.inputs.tools.get("moe-release")
    if inputs.manifest.card.templates:
        pieces.add(CARD, Verdict.UNKNOWN, "is made with the release's own templates, which are not run here")
        return [(CARD, _text(published.weights))]
    texts = card_texts(inputs, facts)
    cards = {CARD: (published.weights, texts["README.md"])}
    if "README.gguf.md" in texts and inputs.manifest.publish and inputs.manifest.publish.gguf:
        repository = open_gguf_repository(published, request)
        cards["README.md of the GGUFs"] = (repository, texts["README.gguf.md"])
    read = []
    for name, (repository, rendered) in cards.items():
        with pieces.checking(name):
            read.append((name, _text(repository)))
            line = first_difference(without_parts(read[-1][1]), rendered)
            if line is None:
                pieces.add(name, Verdict.GOOD)
            elif made_with != __version__:
                raise UnavailableError(f"was made by moe-release {made_with}, here is {__version__}: line {line} differs")
            else:
                raise CheckFailedError(f"line {line} is not what lock, headers and evidence give")
    return read


def _compare_made(published: Published, made: Mapping[str, bytes], pieces: Pieces) -> None:
    """Pictures and leaderboard results as the lock has them (the files are compared with that) against those made here.

    Another drawing library or processor may draw other bytes, which proves nothing.
    """
    tools = {**libraries(), "processor": processor()}
    outputs = published.lock.outputs
    for path in sorted(path for path in outputs if path.startswith((PICTURES, RESULTS))):
        locked, data = outputs[path], made.get(path.removeprefix("card/"))
        if data is None:
            pieces.add(path, Verdict.BAD, "is locked, and nothing that is published gives it")
        elif sha256_bytes(data) != locked.sha256:
            here = {name: version for name, version in tools.items() if name in (locked.made_with or {})}
            other = path.startswith(PICTURES) and any((locked.made_with or {})[name] != here[name] for name in here)
            verdict = Verdict.UNKNOWN if other else Verdict.BAD
            pieces.add(path, verdict, "was drawn with other tools than here" if other else "is not what the evidence gives")


def first_difference(text: str, rendered: str) -> int | None:
    """Number of the first line that differs; None when all bytes are equal."""
    if text == rendered:
        return None
    ours, theirs = text.splitlines(keepends=True), rendered.splitlines(keepends=True)
    both = min(len(ours), len(theirs))
    return next((number for number in range(both) if ours[number] != theirs[number]), both) + 1
