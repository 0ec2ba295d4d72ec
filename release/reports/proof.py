"""What `moe-release prove` shows, for a person and for a program."""

from __future__ import annotations

from typing import Any

from pruner.proof import Proof, Verdict
from pruner.spot import FRACTIONS, SpotCheck
from pruner.wording import counted, every


def proof_json(found: Proof | SpotCheck) -> dict[str, Any]:
    """A proof or spot check as JSON; a shard of which only a sample was compared is never GOOD, at best SAMPLED."""
    if isinstance(found, Proof):
        return {**_json(found, "GOOD"), "unplanned": list(found.unplanned)}
    result = _json(found.proof, "SAMPLED")
    for file in result["files"]:
        file["blocks"] = found.drawn.get(file["name"], 0)
    missed = {str(fraction): found.miss_probability(fraction) for fraction in FRACTIONS}
    spot = {"blocks": found.blocks, "of_blocks": found.of_blocks, "seed": found.seed, "miss_probability": missed}
    return {**result, "spot": spot}


def _json(proof: Proof, good: str) -> dict[str, Any]:
    files = [
        {"name": each.name, "size": each.size, "verdict": good if each.good else "BAD", "reason": each.reason}
        for each in proof.verdicts
    ]
    return {"target": proof.target, "base": proof.base, "good": proof.good, "files": files}


def proof_text(found: Proof | SpotCheck) -> str:
    """The same as lines."""
    return _proof_text(found) if isinstance(found, Proof) else _spot_text(found)


def _proof_text(proof: Proof) -> str:
    lines = [_line("GOOD" if each.good else "BAD", each, f"{each.size:,} bytes") for each in proof.verdicts]
    bad = sum(not each.good for each in proof.verdicts)
    outcome = f"{bad} of {counted(len(proof.verdicts), 'file')} BAD" if bad else f"{every(len(proof.verdicts), 'file')} GOOD"
    lines.append(f"{proof.target} against {proof.base}: {outcome}")
    if others := [name for name in proof.unplanned if not name.endswith(".safetensors")]:
        lines.append(f"not part of the proof: {', '.join(others)}")
    return "\n".join(lines)


def _spot_text(found: SpotCheck) -> str:
    lines = [
        _line("SAMPLED" if each.good else "BAD", each, f"{counted(found.drawn.get(each.name, 0), 'block')}")
        for each in found.proof.verdicts
    ]
    lines.append(
        f"{counted(found.blocks, 'block')} drawn out of {found.of_blocks:,} (--seed {found.seed}); the others were not read."
    )
    lines += [
        f"If {fraction:.1%} of the blocks were tampered with, such a check would miss it with probability "
        f"{found.miss_probability(fraction):.3g}."
        for fraction in FRACTIONS
    ]
    return "\n".join(lines)


def _line(mark: str, verdict: Verdict, detail: str) -> str:
    return f"{mark:<7} {verdict.name}  {detail}{f': {verdict.reason}' if verdict.reason else ''}"
