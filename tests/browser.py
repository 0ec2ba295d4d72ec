"""Chromium for tests that look at a page as a person does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable", "chrome")
VARIABLE = "MOE_RELEASE_CHROMIUM"


def chromium() -> str:
    """Path of a Chromium; without one the test fails, so that a green run has looked at the page."""
    named = os.environ.get(VARIABLE)
    found = named if named and Path(named).is_file() else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            f"no Chromium on this machine: run `make browser`, or name one in {VARIABLE}; "
            "to leave these tests out, run pytest with -m 'not browser'"
        )
    return found


@dataclass
class Visit:
    """An open page, what its console said, and what it asked the network for."""

    page: Page
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium())
        try:
            yield running
        finally:
            running.close()


def visit(running: Browser, file: Path, *, width: int = 1280, height: int = 900, scheme: str = "light") -> Visit:
    """Open a file; everything that the page says and asks for is recorded."""
    page = running.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    found = Visit(page)
    page.on("console", lambda message: found.said.append(message.text))
    page.on("pageerror", lambda error: found.said.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    page.goto(file.as_uri())
    return found
