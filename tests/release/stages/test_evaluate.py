"""Evidence in a work folder: only a whole exam under the manifest's protocol goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pruner.errors import CheckFailedError
from release.context import Context
from release.evaluation.evidence import Evidence, read_evidence, write_evidence
from release.manifest import load_manifest
from release.stages.evaluate import evidence_of, evidence_path
from release.stages.lock_draft import answered_elsewhere
from tests.conftest import MANIFESTS
from tests.release.evaluation.runs import cherry_picked

WHOLE = read_evidence(MANIFESTS / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    found = Context(load_manifest(MANIFESTS / "tiny-gemma4-4e.yaml"), tmp_path)
    for quant in found.eval.quants:
        place = evidence_path(found, quant)
        place.parent.mkdir(parents=True)
        shutil.copyfile(MANIFESTS / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json", place)
    return found


def test_whole_runs_are_found(context: Context) -> None:
    assert evidence_of(context) == {"Q6_K": WHOLE, "Q4_K_M": WHOLE}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (cherry_picked(WHOLE), "the run of Q4_K_M is not the exam of tiny-exam: questions is 211, the protocol has 240"),
        (WHOLE.model_copy(update={"partial": True}), "the run of Q4_K_M is partial"),
        (WHOLE.model_copy(update={"protocol_digest": "0" * 64}), "the run of Q4_K_M followed another protocol"),
    ],
)
def test_anything_less_is_refused(context: Context, part: Evidence, message: str) -> None:
    write_evidence(evidence_path(context, "Q4_K_M"), part)
    with pytest.raises(CheckFailedError, match=message):
        evidence_of(context)


def test_the_lock_tells_no_processor_of_servers_elsewhere(context: Context) -> None:
    """Else a later build here would be expected to give the same bytes, and a stranger's exam too."""
    assert answered_elsewhere(context) == {}
    write_evidence(evidence_path(context, "Q4_K_M"), WHOLE.model_copy(update={"unverified": ("model_sha256",)}))
    assert answered_elsewhere(context) == {
        "eval/Q4_K_M/evidence.json": {"processor": "elsewhere", "llama.cpp": WHOLE.toolchain_commit}
    }
