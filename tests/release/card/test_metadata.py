"""Metadata of cards, parsed back by the library that the Hub's own tools use."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from pruner.errors import InputError
from release.card.front_matter import base_card, gguf_front_matter, license_of, weights_front_matter
from release.card.metadata import eval_results, leaderboard_yaml, percent
from release.evaluation.evidence import Evidence, read_evidence
from release.evaluation.protocol import Protocol, load_protocol, protocol_digest
from release.hub.card_metadata import card_metadata
from release.manifest import Leaderboard, Manifest
from tests.conftest import MANIFESTS

RUN = read_evidence(MANIFESTS / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json")
WEIGHTS = "org/gemma-4-A4B-109e"
REVISION = "0" * 40


def manifest(**changes: Any) -> Manifest:
    dataset = {"repo": "Idavidrein/gpqa", "revision": REVISION, "file": "gpqa_main.csv"}
    content = {
        "schema": "moe-release/v1",
        "name": "gemma-4-A4B-109e",
        "base": {"repo": "google/gemma-4-26B-A4B-it", "revision": REVISION},
        "prune": {"experts": 109, "drop_map": {"path": "map.json"}, "calibration": {"dataset": dataset}},
        "gguf": {"quants": ["Q6_K"]},
        "publish": {"weights": WEIGHTS, "gguf": f"{WEIGHTS}-GGUF"},
    }
    return Manifest.model_validate(content | changes)


def protocol(name: str = "gpqa-diamond-v1") -> Protocol:
    return load_protocol(MANIFESTS / "protocols" / f"{name}.yaml", MANIFESTS)


def runs() -> list[Evidence]:
    return [RUN, RUN.model_copy(update={"quant": "Q4_K_M"})]


def parsed(text: str) -> ModelCard:
    found = card_metadata(text)
    assert (found.errors, found.warnings) == ((), ())
    return ModelCard(text)


def test_the_weights_are_a_finetune_of_the_base_with_the_tag_pruned() -> None:
    data = parsed(weights_front_matter(manifest(), "apache-2.0") + "# x").data
    assert (data.base_model, data.base_model_relation) == ("google/gemma-4-26B-A4B-it", "finetune")
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "text-generation")
    assert {"pruned", "mixture-of-experts"} <= set(data.tags or [])
    assert data.datasets == ["Idavidrein/gpqa"]
    assert data.eval_results is None


def test_ggufs_are_quantized_from_the_weights_repository() -> None:
    data = parsed(gguf_front_matter(manifest(), None) + "# x").data
    assert (data.base_model, data.base_model_relation, data.library_name) == (WEIGHTS, "quantized", "gguf")
    assert data.license is None


@pytest.mark.parametrize("front_matter", [weights_front_matter, gguf_front_matter])
def test_the_model_index_is_read_back_as_it_was_meant(front_matter: Any) -> None:
    digest = protocol_digest(protocol())
    meant = eval_results(runs(), protocol(), digest, WEIGHTS)
    found = parsed(front_matter(manifest(), "apache-2.0", meant) + "# x").data.eval_results
    assert found == meant
    assert [each.metric_value for each in found] == [percent(RUN.raw_share), percent(RUN.patched_share)] * 2
    first = found[0]
    assert (first.dataset_type, first.dataset_config) == ("Idavidrein/gpqa", "gpqa_diamond")
    assert first.dataset_revision == protocol().data.revision
    assert first.metric_args["protocol_digest"] == digest
    assert "protocol gpqa-diamond-v1" in first.metric_name
    assert [each.metric_args["quant"] for each in found] == ["Q6_K", "Q6_K", "Q4_K_M", "Q4_K_M"]
    assert first.source_url == f"https://huggingface.co/{WEIGHTS}/tree/main/reproduce/evidence"


def test_no_null_is_written() -> None:
    results = eval_results([RUN], protocol("tiny-exam"), "0" * 64, None)
    assert "null" not in weights_front_matter(manifest(), None, results)


def test_leaderboard_entries_are_read_back_as_they_were_meant() -> None:
    digest = protocol_digest(protocol())
    text = leaderboard_yaml(runs(), protocol(), digest, Leaderboard(task="diamond"), WEIGHTS)
    first, second = parse_eval_result_entries(yaml.safe_load(text))
    assert (first.dataset_id, first.task_id, first.value) == ("Idavidrein/gpqa", "diamond", percent(RUN.raw_share))
    assert first.dataset_revision == protocol().data.revision
    assert first.source_url == f"https://huggingface.co/{WEIGHTS}/blob/main/reproduce/evidence/Q6_K.json"
    assert first.notes is not None
    assert f"{RUN.raw_correct} of {RUN.total}" in first.notes
    assert f"protocol gpqa-diamond-v1, digest {digest[:12]}" in first.notes
    assert second.notes is not None
    assert "Q4_K_M" in second.notes
    assert (first.verify_token, first.date) == (None, None)


def test_questions_in_a_file_need_a_named_data_set() -> None:
    tiny = protocol("tiny-exam")
    with pytest.raises(InputError, match="name the data set on the Hub"):
        leaderboard_yaml([RUN], tiny, "0" * 64, Leaderboard(task="diamond"), WEIGHTS)
    text = leaderboard_yaml([RUN], tiny, "0" * 64, Leaderboard(task="diamond", dataset="org/exam"), None)
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.dataset_revision, entry.source_url) == ("org/exam", None, None)


@pytest.mark.parametrize(
    ("said", "metadata", "words"),
    [
        ("license: mit", {"license": "mit"}, "mit"),
        ("license: [mit, apache-2.0]", {"license": ["mit", "apache-2.0"]}, "mit, apache-2.0"),
        (
            "license: other\nlicense_name: terms\nlicense_link: LICENSE",
            {
                "license": "other",
                "license_name": "terms",
                "license_link": f"https://huggingface.co/org/base/blob/{REVISION}/LICENSE",
            },
            "other (terms)",
        ),
        (
            "license: other\nlicense_name: terms\nlicense_link: https://example.org/terms_1",
            {"license": "other", "license_name": "terms", "license_link": "https://example.org/terms_1"},
            "other (terms)",
        ),
        ("license: mit\nlicense_link: ../../x\nlicense_name: 3", {"license": "mit"}, "mit"),
        ("license: {a: b}", {}, None),
    ],
)
def test_the_license_of_the_base_is_kept_in_all_its_parts(said: str, metadata: dict[str, Any], words: str | None) -> None:
    card = base_card(f"---\n{said}\npipeline_tag: image-text-to-text\n---\n# Base\n", "org/base", REVISION)
    assert card.license == words
    for front_matter, tag in ((weights_front_matter, "image-text-to-text"), (gguf_front_matter, "text-generation")):
        data = parsed(front_matter(manifest(), words, (), card) + "# x").data.to_dict()
        assert {key: each for key, each in data.items() if key.startswith("license")} == metadata
        assert data["pipeline_tag"] == tag


def test_a_license_that_contradicts_the_base_is_refused() -> None:
    stated = manifest(card={"license": "mit"})
    assert license_of(stated, base_card("no card")) == "mit"
    with pytest.raises(InputError, match=r"card.license is 'mit', the base's card says 'gemma'; remove it from the manifest"):
        license_of(stated, base_card("---\nlicense: gemma\n---\n"))
