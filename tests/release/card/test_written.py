"""Prose and own templates are checked before anything is built."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pruner.drop_map import read_drop_map
from pruner.errors import InputError
from release.card.inputs import CardInputs, facts_of
from release.card.render import template_folder
from release.card.written import FACTS, check_texts, require_known_names
from release.context import Context
from release.lock import read_lock
from release.manifest import load_manifest
from release.stages.prune import plan_of
from tests.conftest import MANIFESTS

DOCUMENTATION = MANIFESTS.parent / "docs/how-to/cards.md"
MANIFEST = "schema: moe-release/v1\nname: v\nbase: {path: base}\nprune: {experts: 4, drop_map: {path: m.json}}\n"


def check(folder: Path, prose: str = "Fine.\n", **templates: str) -> None:
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "v.md").write_text(prose)
    for name, text in {"results_table": "{{ name }}\n", **templates}.items():
        (folder / f"mine/{name}{'' if name.endswith('.html') else '.md'}.j2").write_text(text)
    (folder / "v.yaml").write_text(MANIFEST + "card: {prose: v.md, templates: mine}\n")
    check_texts(load_manifest(folder / "v.yaml"))


@pytest.mark.parametrize(
    ("prose", "message"),
    [
        ("A\n\n{{ claims.experts }}\n", r"v\.md:3: no fact is called 'claims'; known are architecture, base"),
        ("{{ expert.variant }}\n", r"v\.md:1: no fact is called 'expert'; did you mean 'experts'\?"),
        ("A\n{{ experts.varient }}\n", r"v\.md:2: experts has no 'varient'; did you mean 'variant'\?"),
        ("A\n{{ name", r"v\.md:2: unexpected end of template"),
        ("A\n{% if name %}\n", r"v\.md:2: prose may only print claims"),
        ("A\n{# never closed\n", r"v\.md:2: Missing end of comment tag"),
    ],
)
def test_a_mistake_in_prose_has_its_line(tmp_path: Path, prose: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(tmp_path, prose)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("A\n{{ claims.experts }}\n", r"mine/weights_card\.md\.j2:2: no fact is called 'claims'"),
        ("{% for each in quant %}{{ each.name }}{% endfor %}", r"weights_card\.md\.j2:1: no fact is called 'quant'"),
        ("A\n{% for each in quants %}\n", r"weights_card\.md\.j2:\d: Unexpected end of template"),
        ("{{ name | uper }}", r"weights_card\.md\.j2:1: no filter is called 'uper'; did you mean 'upper'\?"),
        ('{% extends "weight_card.md.j2" %}', r"no template 'weight_card\.md\.j2'; did you mean 'weights_card\.md\.j2'\?"),
        ("{% block use %}\n{{ tensor_bytes.all }}\n{% endblock %}", r"weights_card\.md\.j2:2: tensor_bytes has no 'all'"),
    ],
)
def test_a_mistake_in_a_template_has_its_line(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(tmp_path, weights_card=template)


@pytest.mark.parametrize(
    ("name", "template", "message"),
    [
        ("report.html", "<p>\n{{ report.nome }}</p>", r"mine/report\.html\.j2:2: report has no 'nome'; did you mean 'name'\?"),
        ("report.html", "{{ quants }}", r"report\.html\.j2:1: no fact is called 'quants'; known are policy, report"),
        ("report.html", "{{ report.name | fenced }}", r"report\.html\.j2:1: no filter is called 'fenced'"),
        ("report.html", "{% if %}", r"report\.html\.j2:1: "),
        (
            "reproduce.md",
            "{{ name }}\n{{ quants }}",
            r"reproduce\.md\.j2:2: no fact is called 'quants'; known are base, layout",
        ),
    ],
)
def test_a_mistake_in_a_page_of_ones_own_has_its_line(tmp_path: Path, name: str, template: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(tmp_path, **{name.removesuffix(".md"): template} if name.endswith(".md") else {name: template})


def test_a_page_of_ones_own_may_extend_the_shipped_one(tmp_path: Path) -> None:
    page = '{% extends "report.html.j2" %}\n{% block summary %}{{ super() }}<p>{{ report.name }}</p>{% endblock %}'
    commands = '{% extends "reproduce.md.j2" %}{% block contents %}{{ name }}{% endblock %}'
    check(tmp_path, **{"report.html": page}, reproduce=commands)
    with pytest.raises(InputError, match=r"mine/report\.html\.j2:1: there is no template 'page\.html\.j2'"):
        check(tmp_path, **{"report.html": page.replace("report.html", "page.html")}, reproduce=commands)


def test_names_that_templates_give_each_other_are_known(tmp_path: Path) -> None:
    card = '{% extends "weights_card.md.j2" %}\n{% set where = name %}\n{% block prose %}{{ super() }}{{ prose }}{{ where }}\n'
    loop = "{% for each in quants %}{{ loop.index }}{% include 'row.md.j2' %}{% endfor %}"
    ask = "{% if later is defined %}{{ later }}{% endif %}{{ other | default(name) }}"
    check(tmp_path, weights_card=card + loop + ask + "{% endblock %}", row="{{ each.name }}")
    with pytest.raises(InputError, match="no fact is called 'each'"):
        check(tmp_path, weights_card="{% include 'row.md.j2' %}", row="{{ each.name }}")


def test_every_shipped_card_prints_known_names_alone() -> None:
    for path in template_folder().glob("*.md.j2"):
        names = {each.name for each in template_folder().glob("*.md.j2")}
        require_known_names(path.read_text(), path.name, {"prose", "row", "super"}, names)
    with pytest.raises(InputError, match="no fact"):
        require_known_names("{{ nome }}", "x")


def test_the_names_are_those_of_the_facts(make_checkpoint: Callable[[], Path], tmp_path: Path) -> None:
    make_checkpoint()
    (tmp_path / "m.json").write_text('{"0": [0, 1, 2, 3], "1": [0, 1, 2, 3], "2": [0, 1, 2, 3]}')
    (tmp_path / "v.yaml").write_text(MANIFEST)
    context = Context(load_manifest(tmp_path / "v.yaml"), tmp_path / "work")
    drop_map, lock = read_drop_map(tmp_path / "m.json"), read_lock(MANIFESTS / "tiny-gemma4-4e.lock.json")
    assert lock is not None
    plan = plan_of(context, drop_map)
    facts = facts_of(
        CardInputs(
            context.loaded, lock, context.base, plan, drop_map, {}, {}, None, None, None, None, evidence={}, calibration=None
        )
    )
    assert set(FACTS) == set(facts)
    assert {name: set(parts) for name, parts in FACTS.items() if parts} == {
        name: set(facts[name]) for name, parts in FACTS.items() if parts
    }


def test_the_documentation_names_every_fact_and_every_block() -> None:
    text = DOCUMENTATION.read_text()
    named = set(re.findall(r"`(\w+)", text[text.index("## Names of facts") :]))
    assert set(FACTS) <= named
    for parts in (f"{name}.{part}" for name in ("base", "experts", "parameters", "layout") for part in FACTS[name]):
        assert f"`{parts}`" in text
    for card in ("weights_card.md", "gguf_card.md", "reproduce.md", "report.html"):
        blocks = re.findall(r"\{% block (\w+)", (template_folder() / f"{card}.j2").read_text())
        assert re.search(rf"`{card}\.j2`[^:`]*: " + ", ".join(f"`{block}`" for block in blocks), text)
