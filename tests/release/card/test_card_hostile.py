"""Prose, templates, claims and whole cards as anybody may have written them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.card.front_matter import base_card
from release.card.lint.run import lint_file, lint_json, lint_text
from release.card.prose import LONGEST, require_no_numbers
from release.card.render import own_templates, render, render_prose
from release.hub.card_metadata import card_metadata
from tests.conftest import MANIFESTS
from tests.hostile import FUZZ, NAMES, assert_read_or_refused, changed_bytes, changed_json, hostile

PROSE = (MANIFESTS / "tiny-gemma4-4e.md").read_text()
CARD = (Path(__file__).parent / "golden" / "gemma-4-A4B-109e-v3" / "README.md").read_bytes()
FACTS = {"name": "tiny", "parameters": {"variant": "4 B", "base": "26 B"}, "quants": [{"name": "Q6_K"}], "layers": 4}
CLAIMS = {"parameters.variant": {"value": 4, "shown": "4 B", "unit": "parameters", "source": "headers"}}

ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ name.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('x') }}", "{{ lipsum.__globals__ }}", "{{ self.__init__ }}",
    "{{ ('x' * 9999999) * 999 }}", "{{ range(999999999) | list }}", "{{ 9 ** 9 ** 9 }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "{% include '/etc/passwd' %}",
    "{% extends '../../x' %}", "{% import 'os' as os %}", "{{ '%9999999999d' | format(1) }}",
    "{{ 'x' | center(9999999999) }}", "{{ '{0:9999999999}'.format(1) }}", "{{ name.format_map({}) }}",
    "{{ namespace.__init__ }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{{ " + "(" * 3000 + ")" * 3000 + " }}", "{% if " * 2000, "{{ a" + ".b" * 5000 + " }}", "{# " * 9999,
    "{{ 'x' | replace('x', 'x' * 99999) }}", "{{ (1, 2) | groupby('x') }}", "{{ name | attr('__class__') }}",
    "{% set x = x ~ x %}", "{{", "}}", "{%", "{% raw %}", "\0", "{{ '\\ud800' }}", "{{ [1] | batch(0) | list }}",
    "{{ 1 | slice(0) | list }}", "{{ 1 / 0 }}", "{{ dict(**1) }}", "{% for x in 1 %}{% endfor %}",
    "{{ name | indent(99999999999) }}", "{{ 'a' | wordwrap(0) }}", "{{ 'a' | urlize }}", "{{ 'x' | truncate(-9) }}",
    "{{ name | filesizeformat }}", "{{ lipsum(n=99999, min=99999, max=999999) }}", "{% call name() %}{% endcall %}",
    "{% autoescape x %}{% endautoescape %}",
)  # fmt: skip


def shown(text: str) -> None:
    """What becomes of a person's prose."""
    require_no_numbers(text, "words.md")
    render_prose(text, FACTS, "words.md").encode()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("text", ESCAPES)
def test_prose_does_not_leave_the_sandbox(text: str) -> None:
    assert_read_or_refused(lambda: shown(text), "words.md", len(text))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("text", ESCAPES)
def test_templates_do_not_leave_the_sandbox(tmp_path: Path, text: str) -> None:
    (tmp_path / "looks").mkdir()
    (tmp_path / "looks" / "weights_card.md.j2").write_text(text)

    def rendered() -> None:
        render("weights_card.md.j2", FACTS, own_templates(tmp_path, "looks")).encode()

    assert_read_or_refused(rendered, "weights_card.md.j2", len(text))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scrap", ["{#", "{{", "{%", "](", "![a](", "```\n", "`", "[", "<!--"])
def test_what_nobody_closes_is_not_looked_for_from_each_beginning(tmp_path: Path, scrap: str) -> None:
    """Each of these took minutes once."""
    text = scrap * (LONGEST // len(scrap))
    assert_read_or_refused(lambda: shown(text), "words.md", len(text))
    (tmp_path / "README.md").write_text(text)
    assert lint_file(tmp_path / "README.md") == ()


@FUZZ
@given(data=st.data())
def test_prose(data: st.DataObject) -> None:
    text = data.draw(changed_bytes(PROSE.encode())).decode("utf-8", "replace")
    assert_read_or_refused(lambda: shown(text), "words.md", len(text))


@FUZZ
@given(data=st.data())
def test_a_card_that_is_linted(tmp_path: Path, data: st.DataObject) -> None:
    card, claims, config = tmp_path / "README.md", tmp_path / "claims.json", tmp_path / "config.json"
    card.write_bytes(data.draw(changed_bytes(CARD)))
    claims.write_bytes(data.draw(st.one_of(st.just(json.dumps(CLAIMS).encode()), changed_json(CLAIMS))))
    config.write_bytes(data.draw(changed_json({"text_config": {"num_experts": 4, "num_hidden_layers": 4, "top_k_experts": 2}})))

    def linted() -> None:
        findings = lint_file(card, files=[tmp_path])
        lint_json(findings).encode()
        lint_text(card, findings).encode()

    assert_read_or_refused(linted, str(tmp_path), sum(path.stat().st_size for path in (card, claims, config)))


@FUZZ
@given(value=hostile, name=st.sampled_from(NAMES))
def test_the_license_of_a_foreign_card(value: object, name: str) -> None:
    text = f"---\nlicense: {json.dumps(value)}\n{name}: {name}\n---\n# Card\n".encode("utf-8", "replace").decode()
    assert_read_or_refused(lambda: base_card(text), "", len(text))


@pytest.mark.timeout(300)
def test_a_number_in_sixties_is_text() -> None:
    """YAML 1.1 would multiply it up digit by digit, for minutes."""
    number = "1" + ":30" * 100_000
    assert card_metadata(f"---\nlicense: {number}\n---\n").data == {"license": number}


def test_a_broken_tag_is_no_metadata() -> None:
    assert card_metadata("---\nlicense: !!int ''\n---\n").errors
