"""The YAML block of a card: what is read, what the Hub would refuse."""

from __future__ import annotations

import pytest

from release.hub.card_metadata import card_metadata


def test_metadata_is_read() -> None:
    found = card_metadata("---\r\nlicense: apache-2.0\ntags:\n- moe\nreleased: 2026-01-02\n---\n# Title\n---\n")
    assert found.data == {"license": "apache-2.0", "tags": ["moe"], "released": "2026-01-02"}
    assert (found.errors, found.warnings) == ((), ())


@pytest.mark.parametrize("content", ["", "# Title\n", "---\n---\n", "text\n---\na: 1\n---\n"])
def test_no_metadata_is_a_warning(content: str) -> None:
    found = card_metadata(content)
    assert found.errors == ()
    assert found.warnings == ("empty or missing yaml metadata in repo card",)


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("a: b: c", "README.md:2"),
        ("ok: 1\nkey: [", "README.md:4"),
        ("- a list", "must be a mapping"),
        ("a: 1\na: 2", "README.md:3: key 'a' stands twice"),
        ("a: &x [1]\nb: *x", "aliases are not allowed"),
        ("license: [1]", '"license" must be a text or a list of texts'),
        ("base_model: {a: 1}", '"base_model" must be a text or a list of texts'),
        ("model-index: 3", '"model-index" must be a list'),
        ("model-index: [{results: []}]", 'model-index[0].name" is required'),
        ("model-index: [{name: m, results: null}]", 'model-index[0].results" must be a list'),
        ("model-index: [{name: m, results: [{task: {type: t}, dataset: {type: d}, metrics: []}]}]", "not empty"),
        (
            "model-index: [{name: m, results: [{task: {type: t}, dataset: {type: d}, metrics: [{type: acc, value: null}]}]}]",
            "needs a type and a value",
        ),
        ("model-index: [{name: m, results: [{dataset: {type: d}, metrics: [{type: acc, value: 1}]}]}]", "task.type"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: " + "[" * 2000, "README.md"),
    ],
)
def test_bad_metadata_is_an_error(yaml: str, words: str) -> None:
    errors = card_metadata(f"---\n{yaml}\n---\n").errors
    assert len(errors) == 1
    assert words in errors[0]
    assert "\n" not in errors[0]


@pytest.mark.parametrize(
    ("stated", "warnings"),
    [
        ("apache-2.0", ()),
        ("apache2", ("\"license\": 'apache2' is no license id of the Hub's; did you mean 'apache-2.0'?",)),
        ("[mit, qqqqq]", ("\"license\": 'qqqqq' is no license id of the Hub's",)),
        ("[mit, " + "x" * 100_000 + "]", (f"\"license\": '{'x' * 64}' is no license id of the Hub's",)),
    ],
)
def test_an_unknown_license_is_a_warning(stated: str, warnings: tuple[str, ...]) -> None:
    found = card_metadata(f"---\nlicense: {stated}\n---\n")
    assert (found.errors, found.warnings) == ((), warnings)
