"""A person's own templates: they replace and extend the shipped ones, and can do nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pruner.bounded import Limits
from pruner.errors import InputError
from release.card.claims import Claim
from release.card.render import alt, own_templates, render, render_prose
from release.card.written import check_texts
from release.manifest import load_manifest
from release.stages.preflight import check_inputs
from tests.conftest import MANIFESTS

FACTS: dict[str, Any] = {
    "name": "variant",
    "base": {"name": "base", "repo": None, "revision": None},
    "experts": {key: Claim(4, "count", "x") for key in ("base", "variant", "dropped", "top_k", "layers")},
    "publish": None,
    "quants": [],
    "imatrix": [],
    "mmproj": [],
    "calibration": None,
    "quality": None,
    "self_test": None,
    "protocol": None,
    "pictures": {},
    "license": "apache-2.0",
    "license_link": None,
    "license_inherited": True,
    "rows": [],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def rendered(folder: Path, template: str = "gguf_card.md.j2", **facts: Any) -> str:
    return render(template, FACTS | facts, own_templates(folder.parent, folder.name))


def test_a_block_is_replaced_and_the_rest_stays(folder: Path) -> None:
    shipped = render("gguf_card.md.j2", FACTS)
    (folder / "gguf_card.md.j2").write_text(
        '{% extends "gguf_card.md.j2" %}\n{% block license %}\n\n## Licence\n\nAsk {{ base.name }}.\n{% endblock %}\n'
    )
    assert rendered(folder) == shipped.replace("\n## License\n\napache-2.0, like the base's.\n", "\n## Licence\n\nAsk base.\n")


def test_what_a_shipped_template_includes_may_be_ones_own(folder: Path) -> None:
    (folder / "results_table.md.j2").write_text("| {{ name }} |\n{% include 'more.md.j2' %}")
    (folder / "more.md.j2").write_text("{{ protocol.name }}\n")
    text = rendered(folder, protocol={"name": "exam", "digest": Claim("a" * 64, "digest", "x")})
    assert "| variant |\nexam\n" in text


def test_a_template_may_be_wholly_ones_own(folder: Path) -> None:
    (folder / "gguf_card.md.j2").write_text("# {{ name }}: {{ experts.variant }} experts\n")
    assert rendered(folder) == "# variant: 4 experts\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("It scores 97 %.", r"mine/gguf_card\.md\.j2:1: the number '97 %' has no source"),
        ("a\n{{ '97 %' }}", r"gguf_card\.md\.j2:2: '97 %' has no source"),
        ("{% set x = 97 %}{{ x }}", "97 has no source"),
        ("{{ experts.variant.value + 1 }}", "1 has no source"),
        ("{% if %}", r"gguf_card\.md\.j2:1: "),
        ("{{ unknown }}", "'unknown' is undefined"),
        ("{{ name.__class__.__mro__ }}", "unsafe|undefined"),
        ("{{ range }}", "'range' is undefined"),
        ('{% include "../secret.md.j2" %}', "secret"),
        ('{% include "/etc/hostname" %}', "hostname"),
        ('{% extends "nowhere.md.j2" %}', "nowhere"),
        ('{% include "loop.md.j2" %}', "recursion"),
    ],
)
def test_refusals(folder: Path, text: str, message: str) -> None:
    (folder.parent / "secret.md.j2").write_text("secret")
    (folder / "loop.md.j2").write_text('{% include "pool.md.j2" %}')
    (folder / "pool.md.j2").write_text('{% include "loop.md.j2" %}')
    (folder / "gguf_card.md.j2").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        rendered(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% set a = namespace(x=name) %}", "'namespace' is undefined"),
        ("{% if name == 'a' * 10**10 %}{% endif %}", "takes more than 1,073,741,824 bytes of memory"),
        ("{% set a = name ~ name %}" + "{% set a = a ~ a %}" * 40, "takes more than 1,073,741,824 bytes of memory"),
        ("{% for a in name %}" * 18 + "{% endfor %}" * 18, "takes more than 2 seconds of a processor"),
    ],
)
def test_what_a_template_takes_is_bounded(folder: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("release.card.render.OWN_LIMITS", Limits(seconds=2))
    (folder / "gguf_card.md.j2").write_text(text)
    with pytest.raises(InputError, match=f"^template (own/)?gguf_card.md.j2: .*{message}"):
        rendered(folder)


def test_looking_at_a_template_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks for unknown names compiles it, and that works out its constants."""
    monkeypatch.setattr("release.card.written.OWN_LIMITS", Limits(seconds=2))
    manifest = tmp_path / "m" / "tiny-gemma4-4e.yaml"
    shutil.copytree(MANIFESTS, manifest.parent)
    (manifest.parent / "mine").mkdir()
    (manifest.parent / "mine" / "gguf_card.md.j2").write_text("{% if 10 ** (10 ** 9) == name %}{% endif %}")
    manifest.write_text(manifest.read_text().replace("card: {", "card: {templates: mine, "))
    with pytest.raises(InputError, match=r"card\.templates: takes more than 2 seconds of a processor"):
        check_texts(load_manifest(manifest))


def test_prose_may_not_be_endless() -> None:
    with pytest.raises(InputError, match=r"prose.md: makes more than 33,554,432 characters"):
        render_prose("{{ a }}" * 1000, {"a": "x" * 100_000}, "prose.md")


def test_numbers_that_are_no_statements_are_free(folder: Path) -> None:
    (folder / "gguf_card.md.j2").write_text("{# 97 #}`Q6_K` {% if quants | length > 2 %}many{% endif %} {{ name[0] }}\n")
    assert rendered(folder) == "`Q6_K`  v\n"


def test_the_folder_may_not_be_left(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.md.j2"
    outside.write_text("stolen")
    (folder / "gguf_card.md.j2").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="symbolic link"):
        own_templates(tmp_path, "mine")
    for name in ("../mine", "/tmp", "missing"):
        with pytest.raises(InputError):
            own_templates(tmp_path, name)


def test_an_empty_folder_a_large_file_and_other_bytes_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no"):
        own_templates(tmp_path, "mine")
    (folder / "a.j2").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        own_templates(tmp_path, "mine")
    (folder / "a.j2").write_text(" " * 300_000)
    with pytest.raises(InputError, match="more than 200,000 bytes"):
        own_templates(tmp_path, "mine")


def test_no_folder_no_templates() -> None:
    assert own_templates(Path("/nowhere"), None) == {}


def test_a_description_cannot_leave_its_brackets() -> None:
    assert alt("a](http://x) ![b]\n`c` <script>") == "a\\](http://x) !\\[b\\] \\`c\\` \\<script>"


def checked(manifests: Path, card: str) -> None:
    manifest = manifests / "tiny-gemma4-4e.yaml"
    manifest.write_text(manifest.read_text().replace("card: {", f"card: {{{card}, "))
    check_inputs(load_manifest(manifest))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "weight_card.md.j2",
            "words",
            r"weight_card.md.j2: replaces no shipped template, .*; did you mean 'weights_card.md.j2'",
        ),
        (
            "weights_card.md.j2",
            '{% extends "weights_card.md.j2" %}\n{% block licence %}{% endblock %}',
            r"weights_card.md.j2:2: what it extends has no block 'licence'; did you mean 'license'",
        ),
    ],
)
def test_a_template_or_a_block_that_nothing_would_print_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "m")
    (tmp_path / "m" / "mine").mkdir()
    (tmp_path / "m" / "mine" / "gguf_card.md.j2").write_text('{% include "parts.md.j2" %}')
    (tmp_path / "m" / "mine" / "parts.md.j2").write_text("{{ name }}")
    (tmp_path / "m" / "mine" / name).write_text(text)
    with pytest.raises(InputError, match=message):
        checked(tmp_path / "m", "templates: mine")
    (tmp_path / "m" / "mine" / name).unlink()
    check_inputs(load_manifest(tmp_path / "m" / "tiny-gemma4-4e.yaml"))


def test_check_finds_what_would_stop_the_card_hours_later(tmp_path: Path) -> None:
    for name, card, message in (
        ("a", "templates: nowhere", "nowhere is no folder"),
        ("b", "templates: protocols", "holds no"),
        ("c", "leaderboard: {task: diamond}", "name the data set on the Hub"),
    ):
        shutil.copytree(MANIFESTS, tmp_path / name)
        with pytest.raises(InputError, match=message):
            checked(tmp_path / name, card)
    shutil.copytree(MANIFESTS, tmp_path / "d")
    checked(tmp_path / "d", "leaderboard: {task: diamond, dataset: org/exam}")
