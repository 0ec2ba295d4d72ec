# ruff: noqa: INP001 - a script, not a package
"""Draw the README's picture of a card: `python docs/images/draw_card.py build/tiny-gemma4-4e/card docs/images/card.png`.

The card's Markdown is shown as the Hub shows it, near enough: a plain column with its tables and pictures, its top part only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from markdown_it import MarkdownIt
from playwright.sync_api import sync_playwright

from tests.browser import chromium

STYLE = """
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1f2328; margin: 28px 36px; width: 900px; }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: .25em; }
table { border-collapse: collapse; font-size: 12.5px; } th, td { border: 1px solid #d1d9e0; padding: 5px 9px; }
tr:nth-child(2n) { background: #f6f8fa; } img { max-width: 640px; }
"""
WIDTH, HEIGHT = 980, 1150


def page(card: Path) -> str:
    """The card as HTML, without its metadata."""
    text = card.read_text(encoding="utf-8").split("\n---\n", 1)[1]
    return f"<meta charset=utf-8><style>{STYLE}</style>" + MarkdownIt("commonmark").enable("table").render(text)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    html = arguments.folder / "card.html"
    html.write_text(page(arguments.folder / "README.md"), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium())
        view = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        view.goto(html.resolve().as_uri())
        view.screenshot(path=arguments.out)
        browser.close()
    html.unlink()


if __name__ == "__main__":
    main()
