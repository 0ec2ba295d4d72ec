"""Foreign names, labels and licenses are text on a card: they make no markup, no link, no cell and no line."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from release.card.claims import Claim
from release.card.render import Markdown, cell, code, environment, fenced

HOSTILE = [
    "a | b",
    "x\ny\n# heading",
    "[here](https://example.org)",
    "![pixel](https://example.org/x.png)",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "**bold** and _slanted_ and ~~gone~~",
    "`code` and ``more``",
    "&lt;b&gt; &#35;",
    "back\\slash \\| pipe",
    "$x^2$",
]


def shown(markdown: str) -> tuple[str, set[str]]:
    """Text and kinds of tokens of markdown as a reader's page has it."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    inline = [child for token in tokens for child in token.children or ()]
    return "".join(child.content for child in inline), {each.type for each in [*tokens, *inline]}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_stays_text(text: str) -> None:
    rendered = environment().from_string("Name: {{ x }} of {{ y }}.").render(x=text, y=Claim(text, "text", "s"))
    plain, kinds = shown(rendered)
    flat = re.sub(r"\s+", " ", text)
    assert plain == f"Name: {flat} of {flat}."
    assert kinds == {"paragraph_open", "paragraph_close", "inline", "text"} | ({"text_special"} & kinds)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_stays_in_its_cell(text: str) -> None:
    for source in ("| {{ x }} | end |", "| {{ x | cell }} | end |"):
        rendered = environment().from_string("| a | b |\n|---|---|\n" + source).render(x=text)
        tokens = MarkdownIt("commonmark").enable("table").parse(rendered)
        assert sum(token.type == "td_open" for token in tokens) == 2
        assert not [token for token in tokens if token.type in ("heading_open", "html_block")]


def test_code_cannot_be_left() -> None:
    rendered = environment().from_string("`{{ x | code }}`").render(x="a` <b> `c\nd")
    assert [child.type for child in MarkdownIt().parse(rendered)[1].children or ()] == ["code_inline"]
    assert "```" not in fenced("x\n```\n# heading")


def test_numbers_names_and_markdown_are_printed_as_they_are() -> None:
    render = environment().from_string
    assert render("{{ x }}").render(x=Claim(-0.1314, "change", "s")) == "−13.14 %"
    assert render("{{ x }}").render(x="gemma-4-26B-A4B-it Q6_K moe-release/tiny") == "gemma-4-26B-A4B-it Q6_K moe-release/tiny"
    assert render("{{ x | trim }}").render(x=Markdown("\n## A *b*\n")) == "## A *b*"
    assert cell("a | b\nc") == "a \\| b c"
    assert code("a`b") == "a'b"
