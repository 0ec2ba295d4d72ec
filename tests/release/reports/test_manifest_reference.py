from __future__ import annotations

from release.manifest import Manifest
from release.reports.manifest_reference import manifest_reference
from tests.conftest import ROOT


def test_the_page_is_what_the_models_say() -> None:
    page = manifest_reference(Manifest.model_json_schema(by_alias=True))
    assert (ROOT / "docs" / "manifest.md").read_text() == page, "run `make docs`"


def test_every_key_of_every_section_stands_there() -> None:
    schema = Manifest.model_json_schema(by_alias=True)
    page = manifest_reference(schema)
    for name, section in {"The manifest": schema, **schema["$defs"]}.items():
        described = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert described, name
        assert all(f"| `{key}` |" in described for key in section["properties"])


def test_a_choice_of_sections_links_each() -> None:
    page = manifest_reference(Manifest.model_json_schema(by_alias=True))
    row = next(line for line in page.splitlines() if line.startswith("| `ranking` |"))
    assert "[CoverageRanking](#coverageranking) or [ScoreRanking](#scoreranking) or [ReapRanking](#reapranking)" in row


def test_a_bar_in_a_description_does_not_end_the_cell() -> None:
    page = manifest_reference({"properties": {"key": {"type": "string", "description": "a | b"}}})
    assert "| `key` | text |  | a \\| b |" in page
