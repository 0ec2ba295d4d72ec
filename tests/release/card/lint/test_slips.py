"""One card that holds a slip of every kind, in our own words; each is found with its line and its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pruner.errors import InputError
from release.card.lint.document import parse_document
from release.card.lint.knowledge import Knowledge
from release.card.lint.run import RULES, lint, lint_file
from release.cli import app

CARD = Path(__file__).parent / "cards" / "slips.md"
FILES = ("README.md", "config.json", *(f"model-{number:05d}-of-00009.safetensors" for number in range(1, 10)))

EXPECTED = [
    (8, "in-sample", "180 of its questions"),
    (13, "GB or GiB", "37 GB: 20.0B parameters in bf16 are 40.0 GB, which is 37.3 GiB — the number is one of GiB"),
    (13, "share", "-33% of parameters (line 12) and -38% of bytes"),
    (14, "quant size", "30B parameters as Q6_K (6.5625 bits) take at least 23.0 GB, the card says 21 GB"),
    (14, "quant size", "21 GB for both 30B and 20.0B parameters"),
    (15, "delta sign", "from 128 to 96 is a decrease, the card says +32"),
    (16, "delta unit", "percentage points"),
    (18, "untested difference", "198 questions, which can show 6.3 pp"),
    (19, "difference", "68.18% against 67.68% is 0.50 pp, the card says +1.01 pp"),
    (19, "untested difference", "+1.01 pp of 198 questions"),
    (21, "delta unit", "the header says %"),
    (23, "raw beside patched", "3 scores after a patch"),
    (25, "percentage", "134/198 is 67.68 %, the card says 67.77%"),
    (27, "luck", "guessing at 25 % gives 5 or more of 12 with probability 0.16"),
    (29, "given twice", "128 correct from the raw run here, 130/198 in line 27"),
    (29, "sum", "128 + 5 is 133, the card says 135"),
    (30, "breakdown", "135 of 198 are correct, so 63 are wrong; the card says 50"),
    (36, "given twice", "layers is 40 here and 48 in line 32"),
    (42, "sum", "add up to 37.27 GiB, the total says 38.00 GiB"),
    (44, "GB or GiB", "40.00 GB is 37.25 GiB, the card says 38.25 GiB"),
    (44, "given twice", "8 shards here, and files are named of 9 shards"),
    (46, "link", "#numbers"),
    (46, "link", "RECIPE.md"),
    (46, "link", "localhost"),
    (46, "local path", "/home/someone/prune"),
    (46, "missing file", "make_map.py"),
    (49, "command", "small-Q6_K.gguf"),
    (50, "secret", "a Hugging Face token"),
]


@pytest.fixture
def listing(tmp_path: Path) -> Path:
    path = tmp_path / "files.txt"
    path.write_text("\n".join(FILES))
    return path


def test_every_slip_is_found_with_its_line_and_its_reason(listing: Path) -> None:
    found = lint_file(CARD, files=[listing])
    for line, kind, words in EXPECTED:
        assert [each for each in found if (each.line, each.kind) == (line, kind) and words in each.message], (line, kind, words)
    assert {(each.line, each.kind) for each in found} == {(line, kind) for line, kind, _ in EXPECTED}


def test_a_secret_is_never_repeated(listing: Path) -> None:
    assert not [each for each in lint_file(CARD, files=[listing]) if "abcdefghij" in each.message]


def test_without_the_files_nothing_is_said_of_them() -> None:
    assert {each.kind for each in lint_file(CARD)}.isdisjoint({"missing file", "command"})


def test_the_command_prints_findings_and_exits_with_one(listing: Path) -> None:
    result = CliRunner().invoke(app, ["card", "--lint", str(CARD), "--files", str(listing), "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert len(found) >= len(EXPECTED)
    assert all(set(each) == {"line", "kind", "message"} for each in found)
    plain = CliRunner().invoke(app, ["card", "--lint", str(CARD)])
    assert plain.exit_code == 1
    assert f"{CARD}:29: sum: 128 + 5 is 133, the card says 135" in plain.stdout


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("moe-release frobnicate x", "moe-release has no command frobnicate"),
        ("moe-release map frobnicate x", "moe-release map has no command frobnicate"),
        ("moe-release cut --nope", "moe-release cut: No such option: --nope"),
        ("moe-release cut M.yaml --work", "moe-release cut: Option '--work' requires an argument"),
        ("moe-release cut a.yaml b.yaml", "moe-release cut takes no further argument b.yaml"),
        ("cd x && moe-release cut a.yaml --work b --json > out.json", None),
        ("moe-release card --lint README.md | head -3", None),
        ("moe-release COMMAND --help", None),
        ("moe-release cut <MANIFEST> [--work FOLDER]", None),
        ("moe-release map --help", None),
        ("moe-release", None),
    ],
)
def test_commands_are_held_against_the_command_line(tmp_path: Path, command: str, reason: str | None) -> None:
    card = tmp_path / "README.md"
    for text in (f"Run `{command}`.\n", f"```sh\n{command}\n```\n"):
        card.write_text(text)
        result = CliRunner().invoke(app, ["card", "--lint", str(card)])
        assert result.exit_code == (reason is not None), result.stdout
        assert (f"command: {reason}" if reason else "no findings") in result.stdout


def test_a_clean_card_exits_with_zero(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# A model\n\nIt is small.\n")
    result = CliRunner().invoke(app, ["card", "--lint", str(card), "--json"])
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])


def test_a_card_and_a_manifest_are_not_both_given() -> None:
    for words in ([], ["m.yaml", "--lint", "README.md"]):
        with pytest.raises(InputError, match="give a MANIFEST to render its cards, or --lint FILE to check one; not both"):
            CliRunner().invoke(app, ["card", *words], catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("m.yaml", "--files", "."), "--files and --claims are of --lint FILE"),
        (("m.yaml", "--claims", "claims.json"), "--files and --claims are of --lint FILE"),
        (("--lint", "README.md", "--from-headers"), "are for rendering a MANIFEST; --lint reads a card alone"),
        (("--lint", "README.md", "--work", "w"), "are for rendering a MANIFEST; --lint reads a card alone"),
    ],
)
def test_options_of_the_other_use_are_not_ignored(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(app, ["card", *words], catch_exceptions=False)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"x" * (1 << 20) + b"y"])
def test_what_is_no_card_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "card.md").write_bytes(content)
    with pytest.raises(InputError, match=r"card.md: (is not UTF-8 text|larger than)"):
        lint_file(tmp_path / "card.md")


def test_inputs_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; give a model card"):
        lint_file(tmp_path / "none.md")
    with pytest.raises(InputError, match=r"is a folder; give the README\.md in it"):
        lint_file(tmp_path)
    with pytest.raises(InputError, match="give a folder, or a list of files"):
        lint_file(CARD, files=[tmp_path / "none"])
    (tmp_path / "claims.json").write_text('{"a": {"shown": 3}}')
    with pytest.raises(InputError, match=r"claims.json: is no claims.json"):
        lint_file(CARD, claims=tmp_path / "claims.json")


@pytest.mark.parametrize(
    "text",
    [
        "|" * 3000,
        "- " * 2000 + "x",
        "[" * 5000,
        "> " * 2000 + "1/0",
        "1" * 5000 + "/" + "2" * 5000,
        "9" * 400 + "GB (" + "9" * 400 + "GiB)",
        "1 + " * 3000 + "= 5",
        "0/0 = 50 %, expected 0 of 5 of 5 signal",
        "| a | b |\n|---|---|\n| total |\n",
        "```\nllama-server -m 'x.gguf\n```",
        "[x](http://[::1)",
        "\u0661\u0662 of \u0663 (99.9%)",
    ],
)
def test_hostile_text_ends_and_raises_nothing(text: str) -> None:
    for knowledge in (Knowledge(), Knowledge(frozenset(), {})):
        assert all(finding.line >= 1 for finding in lint(parse_document(text), knowledge))


def test_every_rule_is_one_module() -> None:
    modules = {rule.__module__.rpartition(".")[2] for rule in RULES}
    rules = Path(__file__).parents[4] / "release" / "card" / "lint" / "rules"
    assert modules == {path.stem for path in rules.glob("[a-z]*.py")}
