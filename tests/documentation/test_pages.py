"""Every command of the documentation exists, every link leads somewhere, every manifest in it is one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml
from markdown_it import MarkdownIt

from release.attestation.keys import load_signer
from release.cli import UsageError, app
from release.commands.known import command_error
from release.manifest import Manifest
from tests.conftest import ROOT
from tests.documentation.examples import NOT_RUN
from tests.documentation.pages import PAGES, SHOWN, Command, commands, links, mentions, name

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


@pytest.mark.parametrize("command", ALL, ids=lambda command: f"{command.page}:{command.line}")
def test_every_line_is_a_command_that_the_tests_run(command: Command) -> None:
    """An `sh` block without placeholders is run word by word, one with them also by a shell, where it checks digests."""
    assert command.words[0] == "moe-release" or (command.placeholders and {"cd", "sha256sum"} <= set(command.words))


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


def test_the_readme_shows_the_figures_of_the_lock_and_the_golden_card() -> None:
    card = (ROOT / "tests/release/card/golden/tiny-gemma4-4e/README.md").read_text()
    quants = re.findall(r"(Q\w+): KL divergence (0\.\d+)", SHOWN["comparing with the unquantized model"])
    assert [quant for quant, _ in quants] == ["Q6_K", "Q4_K_M"]
    assert [each for quant, value in quants if (each := f"{quant} {float(value):.4f}") not in card] == []
    found = re.match(r"Q6_K: (\d+) raw, (\d+) patched of (\d+) \((\d+) asked again\)", SHOWN["evaluating"])
    assert found
    raw, patched, total, again = found.groups()
    assert f"| tiny-gemma4-4e | Q6_K | {raw} → {patched} of {total} |" in card
    assert f"Raw: {raw} correct" in card
    assert f" {again} questions were asked again " in card
    outputs = json.loads((ROOT / "manifests/tiny-gemma4-4e.lock.json").read_text())["outputs"].values()
    varying = sum("varies" in each for each in outputs)
    assert SHOWN["locking digests"] == f"all {len(outputs) - varying} outputs equal; {varying} with seconds, which vary"


TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"(?:^    (?:\$ )?|`)make ([a-z]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= TARGETS


def test_there_are_make_targets() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == TARGETS > {"demo", "test", "bench", "docs"}


def openssl_lines() -> list[str]:
    """What the pages tell a reader to do with openssl, in order."""
    return [code for page in PAGES for code in codes(page) if code.startswith("openssl ")]


def codes(page: Path) -> list[str]:
    """The code within a page's sentences."""
    tokens = MarkdownIt().parse(page.read_text())
    return [child.content for token in tokens for child in token.children or () if child.type == "code_inline"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_keys_are_made_as_the_pages_say(tmp_path: Path) -> None:
    lines = openssl_lines()
    assert len(lines) == 3
    keys = 0
    for line in lines:
        done = subprocess.run(shlex.split(line), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        if "-pubout" in line:
            assert done.stdout.startswith("-----BEGIN PUBLIC KEY-----")
        else:
            if "-out" not in line:
                (tmp_path / "key.pem").write_text(done.stdout)
            load_signer(tmp_path / "key.pem")
            keys += 1
    assert keys == 2


def pytest_lines() -> list[list[str]]:
    """What CONTRIBUTING tells one to run with pytest: the words behind it."""
    page = ROOT / "CONTRIBUTING.md"
    blocks = [token.content for token in MarkdownIt().parse(page.read_text()) if token.type == "code_block"]
    lines = [*codes(page), *(line for block in blocks for line in block.splitlines())]
    return [shlex.split(line.partition(".venv/bin/pytest ")[2], comments=True) for line in lines if ".venv/bin/pytest " in line]


@pytest.mark.parametrize("words", pytest_lines(), ids=" ".join)
def test_the_tests_that_contributing_names_are_found(words: list[str]) -> None:
    whole = words[0].startswith("-")  # then one file is enough to see that its markers are known
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *words, *(["tests/test_habits.py"] if whole else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_contributing_names_tests() -> None:
    assert len(pytest_lines()) > 3
