"""Quality of quants: perplexity and KL divergence against the unquantized GGUF on a pinned text, as a file of evidence.

The evidence is canonical JSON without clocks or paths.  Its numbers are those that `llama-perplexity --kl-divergence` prints,
with the digits that it prints; nothing is computed from them here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AllowInfNan, Field, ValidationError

from pruner.errors import CheckFailedError, InputError, first_problem
from pruner.files import canonical_json, read_json, write_atomic
from release.documents import Document
from release.patterns import Sha256

Finite = Annotated[float, AllowInfNan(allow_inf_nan=False)]
MINIMUM_TOKENS = 100
"""llama-perplexity makes no statistics of fewer scored tokens."""


class Estimate(Document):
    """A mean and its standard error, as the tool prints them."""

    value: Finite
    error: Annotated[float, AllowInfNan(allow_inf_nan=False), Field(ge=0)]


class Divergence(Document):
    """How far a quant's predictions lie from those of the unquantized GGUF, over all scored tokens of the text.

    `perplexity` is of the quant, `perplexity_ratio` quant / unquantized, `kl_divergence` in nats a token; `median`, `p99` and
    `maximum` are of the same divergence.  `same_top` is the share (0 … 1) of tokens whose most probable token is the same.
    """

    perplexity: Estimate
    perplexity_ratio: Estimate
    kl_divergence: Estimate
    median: Finite
    p99: Finite
    maximum: Finite
    same_top: Estimate


class QuantQuality(Document):
    """One quant: its file's digest and size in bytes (all shards together when it is split), and its divergence."""

    sha256: Sha256
    size: int = Field(gt=0)
    bits_per_weight: float = Field(gt=0)
    divergence: Divergence


class QualityText(Document):
    """What was predicted: `chunks` chunks of `context` tokens, of which the second half is scored: `tokens` in all."""

    name: str
    sha256: Sha256
    chunks: int = Field(gt=0)
    context: int = Field(gt=0)
    tokens: int = Field(gt=0)


class QualitySource(Document):
    """The unquantized GGUF that quants are compared with."""

    type: str
    sha256: Sha256
    size: int = Field(gt=0)
    perplexity: Estimate


class Quality(Document):
    """The file `quality.json` of a release; quants by name.

    `bit_exact` says whether the toolchain passed the golden self-test, so that others can expect the same bytes of the quants.
    """

    schema_: Literal["moe-release/quality/v1"] = Field("moe-release/quality/v1", alias="schema")
    name: str
    toolchain_commit: str
    bit_exact: bool
    text: QualityText
    source: QualitySource
    quants: dict[str, QuantQuality]

    def to_bytes(self) -> bytes:
        """The canonical form."""
        return canonical_json(self.model_dump(by_alias=True))


def read_quality(path: Path) -> Quality:
    """Read a quality file.

    Raises:
        InputError: missing, no JSON, or not of this form.
    """
    try:
        return Quality.model_validate(read_json(path, "the quality evidence"))
    except ValidationError as error:
        raise InputError(f"{path}: not usable as quality evidence: {first_problem(error)}") from None


def write_quality(path: Path, quality: Quality) -> None:
    """Store it atomically."""
    write_atomic(path, quality.to_bytes())


_NUMBER = r"\s*(-?\d+(?:\.\d+)?)"
_SPREAD = rf"{_NUMBER}\s*±{_NUMBER}"
_RATIO_SPREAD = rf"{_NUMBER}\s*±\s*(-?nan|-?\d+(?:\.\d+)?)"
"""Of a quant that predicts the same, the tool takes the root of a variance that rounding made negative: no error at all."""
_PAIRS = {
    "perplexity": rf"Mean PPL\(Q\)\s*:{_SPREAD}",
    "source_perplexity": rf"Mean PPL\(base\)\s*:{_SPREAD}",
    "perplexity_ratio": rf"Mean PPL\(Q\)/PPL\(base\)\s*:{_RATIO_SPREAD}",
    "kl_divergence": rf"Mean\s+KLD:{_SPREAD}",
    "same_top": rf"Same top p:{_SPREAD}\s*%",
}
_SINGLES = {"median": rf"Median\s+KLD:{_NUMBER}", "p99": rf"99\.0%\s+KLD:{_NUMBER}", "maximum": rf"Maximum KLD:{_NUMBER}"}
_LAST = "Same top p:"
"""The last line of a complete report."""


def is_complete(report: str) -> bool:
    """Whether the tool's report reaches its end; llama.cpp's log thread may lose the last lines when the program ends."""
    return any(line.startswith(_LAST) for line in report.splitlines())


def parse_divergence(report: str) -> tuple[Divergence, Estimate]:
    """The statistics at the end of llama-perplexity's output, and the perplexity of the unquantized GGUF.

    Raises:
        CheckFailedError: a line is missing, stands twice, or holds no finite number.
    """
    pairs = {name: [_number(part) for part in _only(report, pattern)] for name, pattern in _PAIRS.items()}
    singles = {name: float(_only(report, pattern)[0]) for name, pattern in _SINGLES.items()}
    pairs["same_top"] = [round(part / 100, 7) for part in pairs["same_top"]]
    found = {name: Estimate(value=value, error=error) for name, (value, error) in pairs.items()}
    source = found.pop("source_perplexity")
    return Divergence.model_validate({**found, **singles}), source


def _number(text: str) -> float:
    return 0.0 if text.endswith("nan") else float(text)


def _only(report: str, pattern: str) -> tuple[str, ...]:
    """Groups of the one line that is all of `pattern`."""
    found = [match.groups() for line in report.splitlines() if (match := re.fullmatch(pattern, line.strip()))]
    if len(found) != 1:
        label = re.sub(r"\\s[+*]|\\", "", pattern.partition(":")[0])
        raise CheckFailedError(f"llama-perplexity printed {len(found)} lines `{label}: …` that can be read, and not one")
    return found[0]
