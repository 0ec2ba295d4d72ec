"""What `moe-release prove` shows, for a person and for a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruner.errors import printable
from pruner.proof import Proof, Verdict
from pruner.spot import FRACTIONS, SpotCheck
from pruner.wording import counted, every


def proof_json(found: Proof | SpotCheck) -> dict[str, Any]:
    """A proof or spot check as JSON; a shard of which only a sample was compared is never GOOD, at best SAMPLED."""
    if isinstance(found, Proof):
        return _json(found, {})
    result = _json(found.proof, found.drawn)
    missed = {str(fraction): found.miss_probability(fraction) for fraction in FRACTIONS}
    single = found.miss_probability(1 / found.of_blocks)
    spot = {"blocks": found.blocks, "of_blocks": found.of_blocks, "seed": found.seed, "miss_probability": missed}
    return {**result, "spot": {**spot, "miss_probability_of_one_block": single}}


def _json(proof: Proof, drawn: Mapping[str, int]) -> dict[str, Any]:
    files = [
        {"name": each.name, "size": each.size, "verdict": _mark(each, drawn), "reason": each.reason}
        | ({"blocks": drawn[each.name]} if each.name in drawn else {})
        for each in proof.verdicts
    ]
    return {
        "target": proof.target,
        "base": proof.base,
        "good": proof.good,
        "files": files,
        "unplanned": list(proof.unplanned),
    }


def proof_text(found: Proof | SpotCheck) -> str:
    """The same as lines."""
    return "\n".join(_proof_lines(found, {}) if isinstance(found, Proof) else _spot_lines(found))


def _proof_lines(proof: Proof, drawn: Mapping[str, int]) -> list[str]:
    lines = [_line(_mark(each, drawn), each, _looked_at(each, drawn)) for each in proof.verdicts]
    bad = sum(not each.good for each in proof.verdicts)
    good = "as far as they were read, all as planned" if drawn else f"{every(len(proof.verdicts), 'file')} GOOD"
    outcome = f"{bad} of {counted(len(proof.verdicts), 'file')} BAD" if bad else good
    lines.append(f"{proof.target} against {proof.base}: {outcome}")
    if proof.unplanned:
        lines.append(f"not compared, as no build writes them: {printable(', '.join(proof.unplanned))}")
    return lines


def _spot_lines(found: SpotCheck) -> list[str]:
    """A proof's lines, and how much a sample of this size tells; one block is the least that can be tampered with."""
    chances = [(f"{fraction:.1%} of the blocks were", fraction) for fraction in FRACTIONS if fraction * found.of_blocks >= 1]
    chances.append(("one single block was", 1 / found.of_blocks))
    return [
        *_proof_lines(found.proof, found.drawn),
        f"{counted(found.blocks, 'block')} drawn out of {found.of_blocks:,} (--seed {found.seed}); the others were not read.",
        *(
            f"If {what} tampered with, such a check would miss it with probability {found.miss_probability(fraction):.3g}."
            for what, fraction in chances
        ),
    ]


def _mark(verdict: Verdict, drawn: Mapping[str, int]) -> str:
    return ("SAMPLED" if verdict.name in drawn else "GOOD") if verdict.good else "BAD"


def _looked_at(verdict: Verdict, drawn: Mapping[str, int]) -> str:
    size = f"{verdict.size:,} bytes"
    return f"{counted(drawn[verdict.name], 'block')} of {size}" if verdict.name in drawn else size


def _line(mark: str, verdict: Verdict, detail: str) -> str:
    return f"{mark:<7} {printable(verdict.name)}  {detail}{f': {verdict.reason}' if verdict.reason else ''}"
