"""Every command of the documentation runs, every link leads somewhere, every manifest in it is one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml
from markdown_it import MarkdownIt

from release.cli import UsageError, app
from release.commands.known import command_error
from release.manifest import Manifest
from tests.conftest import ROOT
from tests.documentation.examples import NOT_RUN, Examples
from tests.documentation.pages import PAGES, Command, commands, links, mentions, name
from tests.documentation.sandbox import Sandbox

ALL = [command for page in PAGES for command in commands(page)]


def require_parsed(words: tuple[str, ...]) -> None:
    """Let the command line read the words without running anything."""
    command, arguments = typer.main.get_command(app), list(words)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context("moe-release", arguments)


def test_there_are_commands_to_run() -> None:
    assert sum(not command.placeholders for command in ALL) > 15
    assert sum(command.placeholders for command in ALL) > 30
    assert {command.words[0] for command in ALL} <= {"moe-release", "sha256sum", "cd", "pip", "make", "source"}


@pytest.mark.parametrize(
    "command",
    [command for command in ALL if command.words[0] == "moe-release"],
    ids=lambda command: f"{command.page}:{command.line}",
)
def test_every_command_can_be_parsed(command: Command) -> None:
    require_parsed(command.words[1:])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_that_a_sentence_names_exists(page: Path) -> None:
    assert [error for words in mentions(page) if (error := command_error(words))] == []


def test_a_command_that_does_not_exist_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("Run `moe-release cutt x.yaml`, then:\n\n    moe-release check x.yaml --hubb  # a slip\n")
    assert [command_error(words) is None for words in mentions(tmp_path / "page.md")] == [False, False]


def test_an_option_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(UsageError):
        require_parsed(("cut", "x.yaml", "--no-such-option"))


@pytest.mark.llama
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if not all(each.placeholders for each in commands(page))], ids=name)
def test_every_command_runs(page: Path, sandbox: Sandbox) -> None:
    for command in commands(page):
        if not command.placeholders and command.words[0] == "moe-release":
            result = sandbox.run(*command.words[1:])
            assert result.returncode == 0, f"{name(page)}:{command.line}: {result.stdout}\n{result.stderr}"


@pytest.mark.llama
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(each.placeholders for each in commands(page))], ids=name)
def test_every_command_runs_with_its_placeholders_filled_in(page: Path, examples: Examples) -> None:
    for command in commands(page):
        if not command.placeholders or shlex.join(command.words) in NOT_RUN:
            continue
        result = examples.run(command)
        assert result.returncode == 0, f"{name(page)}:{command.line}: {result.stdout}\n{result.stderr}"


def test_what_is_not_run_stands_on_a_page() -> None:
    assert set(NOT_RUN) <= {shlex.join(command.words) for command in ALL}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if re.match(r"https?:", target):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name(page)}: {link}"
        assert file.is_relative_to(ROOT)
        if anchor and file.suffix == ".md":
            assert anchor in headings(file), f"{name(page)}: {link}"


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    tokens = MarkdownIt().parse(page.read_text())
    titles = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_whole_manifest_on_a_page_is_valid(page: Path) -> None:
    blocks = [token.content for token in MarkdownIt().parse(page.read_text()) if token.type == "fence" and token.info == "yaml"]
    for block in blocks:
        if "schema: moe-release/v1" in block:
            assert Manifest.model_validate(yaml.safe_load(re.sub(r"<40 hex[^>]*>", "a" * 40, block)))


def test_the_readme_shows_the_manifest_and_the_stages_as_they_are() -> None:
    from release.pipeline import STAGES

    readme = (ROOT / "README.md").read_text()
    assert f"```yaml\n{(ROOT / 'manifests/tiny-gemma4-4e.yaml').read_text()}```" in readme
    shown = re.findall(r"^    ✓ (.+?)  +[0-9.]+ s  ", readme, re.MULTILINE)
    assert shown == [stage.title for stage in STAGES]
