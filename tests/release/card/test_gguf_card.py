"""What the GGUF card says of quants: their files, their quality, and whether others get the same bytes."""

from __future__ import annotations

from typing import Any

import pytest

from release.card.facts import imatrix_facts, quality_facts, quant_facts, self_test_facts
from release.card.render import render
from release.gguf.golden import SelfTest
from release.gguf.imatrix import ImatrixSummary
from tests.release.gguf.test_gguf_quality import quality


def summary(*names: str, types: dict[str, int] | None = None) -> dict[str, Any]:
    files = [{"name": name, "size": 1000, "sha256": name[:1] * 64, "tensor_digest": "0" * 64} for name in names]
    return {
        "files": files,
        "file_size": 1000 * len(files),
        "bits_per_weight": 6.5,
        "composition": "Q6_K: 3 tensors Q6_K",
        "types": types or {"F32": 2, "Q6_K": 3},
    }


def card(summaries: dict[str, Any], tested: SelfTest, **more: Any) -> str:
    facts = {
        "name": "x",
        "base": {"name": "b"},
        "experts": {"variant": "4", "base": "16"},
        "publish": None,
        "quants": quant_facts(summaries, list(summaries)),
        "imatrix": [],
        "mmproj": [],
        "pictures": {},
        "self_test": self_test_facts(tested, summaries),
        "quality": None,
        "calibration": None,
        "protocol": None,
        "license": None,
        "rows": [],
        **more,
    }
    return render("gguf_card.md.j2", facts)


@pytest.mark.parametrize(
    ("tested", "types", "said"),
    [
        (SelfTest(), {"F32": 2, "Q6_K": 3}, True),
        (SelfTest(), {"F32": 2, "IQ1_S": 3}, False),
        (SelfTest(differing=("Q2_K",)), {"F32": 2, "Q6_K": 3}, False),
        (SelfTest(reason="llama-quantize was killed by signal 9"), {"F32": 2, "Q6_K": 3}, False),
    ],
)
def test_bit_identical_is_said_of_exact_toolchains_and_tested_types_alone(
    tested: SelfTest, types: dict[str, int], said: bool
) -> None:
    text = card({"Q6_K": summary("x-Q6_K.gguf", types=types)}, tested)
    assert ("bit-identical" in text) == said
    assert ("not bit-exact" in text) == (not tested.bit_exact)


def test_every_shard_stands_among_the_digests() -> None:
    names = ["a-Q6_K-00001-of-00002.gguf", "b-Q6_K-00002-of-00002.gguf"]
    text = card({"Q6_K": summary(*names), "Q2_K": summary("c-Q2_K.gguf")}, SelfTest())
    assert "| Q6_K | `a-Q6_K-00001-of-00002.gguf` (first of 2 shards) | 2.00 kB |" in text
    assert "| Q2_K | `c-Q2_K.gguf` | 1.00 kB |" in text
    for name in (*names, "c-Q2_K.gguf"):
        assert f"{name[:1] * 64}  {name}\n" in text


def test_quality_is_shown_with_its_errors() -> None:
    text = card({"Q6_K": summary("x-Q6_K.gguf")}, SelfTest(), quality=quality_facts(quality(), ["Q6_K"]))
    assert "| Q6_K | 5 bytes | 0.002702 ± 0.000664 | 2062 ± 307.4 | 99.21 % |" in text
    assert "Against the bf16 GGUF (perplexity 2042 ± 302.9), over 1,008 tokens in 16 chunks of 128 of `t.txt`" in text


@pytest.mark.parametrize(
    ("unreached", "said"), [({}, "which reached every expert"), ({"blk.0.x": (1, 2)}, "2 experts were never reached")]
)
def test_experts_that_the_calibration_never_reached_are_told(unreached: dict[str, tuple[int, ...]], said: str) -> None:
    found = imatrix_facts(ImatrixSummary(chunks=16, context=512, entries=3, experts=4, unreached=unreached))
    assert said in card({"Q6_K": summary("x-Q6_K.gguf")}, SelfTest(), calibration=found)
