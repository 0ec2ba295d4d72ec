"""Rule by rule: what is a slip, and the neighbour of it that is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from release.card.lint.document import parse_document
from release.card.lint.knowledge import Knowledge, read_files, repositories_of
from release.card.lint.run import lint, lint_file

GOLDEN = sorted((Path(__file__).parents[1] / "golden").rglob("*.md"))


def kinds(text: str, files: tuple[str, ...] | None = None, **shown: tuple[str, str, object]) -> list[str]:
    """Kinds of findings; claims are name=(shown, unit, value)."""
    claims = {name: {"shown": each[0], "unit": each[1], "value": each[2]} for name, each in shown.items()}
    known = Knowledge(frozenset(files) if files is not None else None, claims or None)
    return [each.kind for each in lint(parse_document(text), known)]


def table(*rows: str, header: str = "| | A | B | Delta |") -> str:
    return "\n".join([header, "|---" * (header.count("|") - 1) + "|", *rows])


CLEAN = [
    "128 raw + 31 patched = 159 right",
    "0.37 GB + 37.25 GB = 37.6 GB",
    "Version 1.2 + 3 = 4.5.6",
    "159/198 = 80.30%",
    "159/198 (80.3 %)",
    "80.30 % (159 of 198)",
    "203 → 209 of 240 | 84.58 % | 79.5–88.6 % | 87.08 %",
    "open 24/7, 100% free",
    "Of 30 layers 5 are global; 10 of 12 heads, and 40% of the time.",
    table("| Experts | 128 | 109 | −19 |"),
    table("| Params | 26B | 22.4B | -14% |"),
    table("| Score | 81.82% | 80.30% | −1.52 pp |"),
    table("| Score | 50% | 40% | -20% |"),
    table("| Weights | 51.61 GB (48.07 GiB) | 44.83 GB (41.75 GiB) | 6.78 GB |", header="| | A | B | Removed |"),
    table("| Params | 25.81 B | 22.41 B | −13.14 % |", "| bf16 size | 51.6 GB | 44.8 GB | −13.1 % |"),
    table("| 96 layers | 4 | 5 | |"),
    "The score went from 70.0% to 72.0%, +2.0 pp.",
    "No detectable difference: 1.5 pp worse on 198 questions (p = 0.25); 159/198 = 80.30%.",
    "5 of 10 were right (expected 2.5 if random): no more than luck.",
    "9 of 10 were right (expected 2.5 if random), a clear signal.",
    "It was calibrated on GPQA Diamond, 50 questions, held-out from the 198 that give 80.30% on GPQA Diamond.",
    "# Model (22.4B)\n\nbf16 weights: 44.8 GB (41.7 GiB)",
    "# Model (7B)\n\nQ6_K: 5.9 GB, Q4_K_M: 4.2 GB",
    "Layers: 30\n\n| | |\n|---|---|\n| Layers | 30 |\n| Hidden size | 2,816 |",
    "9 shards, `model-0000N-of-00009.safetensors`",
    "# Use it\n\n[up](#use-it) [x](https://example.org/a#b) [y](../other)",
    "A link to /etc in general, and/or ~/models, and https://example.org/home/user/x",
    "- 3 wrong\n- 4 wrong",
    "```\nllama-server -m x.gguf\n```",
    "From 81.82 % to 80.30 %, a change of −1.52 pp.",
    "From 81.82 % to 80.30 %, a change of −1.86 %.",
    "It kept between 81.82 % and 80.30 % of 1.52 %.",
    table("| base | 81.82 % | |", "| mine | 80.30 % | −1.52 pp |", header="| | Score | |"),
    table("| base | 162/198 | 81.82 % | |", "| mine | 159/198 | 80.30 % | −1.5 pp |", header="| | Right | Score | |"),
    table("| base | 81.82 % | |", "| v2 | 78.79 % | −3.03 pp |", "| v3 | 80.30 % | +1.51 pp |", header="| | Score | To |"),
    "base 81.82 %\nmine 80.30 % | −1.52 pp",
    "base 81.82 %\n\nmine 80.30 % | +1.52 pp",
    "27.9 GiB (30.0 GB)",
    "22.4 B parameters in total.\n\nIt has 22.41 B parameters in total, and the base has 25.8 B parameters in total.",
    "22.4 B parameters in total.\n\n3.8 B active parameters in total.",
    "22.4 B parameters in total.\n\nThe base: 25.8 B parameters in total.",
    "128 experts, 109 kept, 19 dropped",
    "3840 experts, 109 kept, 19 dropped in every layer",
    "16 to 8 experts (dropped 8 of 16)",
    "128 experts, 8 active. 109 kept; 5 of the questions dropped.",
    "A variant with 109 of 128 experts, 19 dropped. It keeps 109 of the 128 routed experts; 19 were dropped.",
    "With 8 of 109 experts active, it dropped 19 of 128.",
    "It has 8 of 128 experts per token; 19 dropped, with 8 of 109 experts selected then.",
    "80.30 % against 81.82 %: 1.52 pp worse",
    "From 81.82 % to 80.30 %, a drop of 1.52 pp.",
    "From 81.82 % to 80.30 %, a loss of 1.86 %.",
    "From 80.30 % to 81.82 %: up by 1.52 pp.",
    "80.30 % vs 81.82 %: the base is 1.52 pp better, no more than 1.52 pp higher",
    "80.30 % vs 81.82 %, 1.52 pp of difference. Better luck next time: lower the bar.",
    table("| base | 162/198 | 81.82 % | |", "| mine | 159/198 | 80.30 % | 1.52 pp worse |", header="| | Right | Score | |"),
    "`llama-swap`, `llama-factory x` and `llama-quantize --help`",
    "```\nmoe-release frobnicate x\n```",
]


@pytest.mark.parametrize("text", CLEAN)
def test_no_false_alarm(text: str) -> None:
    assert kinds(text) == []


SLIPS = [
    ("128 raw + 30 patched = 159 right", ["sum"]),
    ("159/198 = 80.31%", ["percentage"]),
    ("80.31 % (159 of 198)", ["percentage"]),
    ("200/198 = 101.0%", ["percentage"]),
    (table("| Experts | 128 | 109 | −18 |"), ["delta"]),
    (table("| Params | 26B | 22.4B | -20% |"), ["delta"]),
    (table("| Params | 26B | 22.4B | +14% |"), ["delta sign"]),
    (table("| Params | 26B | 22.4B | -14 pp |"), ["delta unit"]),
    (table("| Score | 81.82% | 80.30% | −1.62 pp |"), ["delta"]),
    (table("| Score | 81.82% | 80.30% | −1.52 % |"), ["delta unit"]),
    (table("| Weights | 51.61 GB | 44.83 GB | 7.78 GB |", header="| | A | B | Removed |"), ["delta"]),
    (table("| a | 3/4 | 75.0% | +1.0 pp |", header="| m | n | s | % vs base |"), ["delta unit"]),
    ("The score went from 70.0% to 72.0%, −2.0 pp.", ["difference"]),
    ("51.61 GB (51.61 GiB)", ["GB or GiB"]),
    ("# Model (22.4B)\n\nbf16 weights: 41.7 GB", ["GB or GiB"]),
    ("# Model (7B)\n\nThe Q6_K file has 4.2 GB", ["quant size"]),
    ("Layers: 30\n\n| | |\n|---|---|\n| Layers | 32 |", ["given twice"]),
    ("8 shards, `model-0000N-of-00009.safetensors`", ["given twice"]),
    ("[up](#use-it)", ["link"]),
    ("<a href='#nowhere'>x</a>", ["link"]),
    ("[x](ssh://host/x)", ["link"]),
    ("Built in C:\\Users\\me\\models", ["local path"]),
    ("```\ncd /home/me/work\n```", ["local path"]),
    ("---\npath: /root/x\n---\n", ["local path"]),
    ("<!-- token: ghp_" + "a" * 36 + " -->", ["secret"]),
    ("From 81.82 % to 80.30 %, a change of −1.52 %.", ["delta unit"]),
    ("From 81.82 % to 80.30 %, a drop of 1.52 %.", ["delta unit"]),
    ("From 81.82 % to 80.30 %, a change of −3.5 %.", ["difference"]),
    (table("| base | 81.82 % | |", "| mine | 80.30 % | +1.52 pp |", header="| | Score | |"), ["delta sign"]),
    (table("| base | 81.82 % | |", "| mine 80.30 % | +1.52 pp |", header="| | Score | |"), ["delta sign"]),
    (table("| base | 81.82 % | |", "| mine | 80.30 % | −2.52 pp |", header="| | Score | |"), ["difference"]),
    ("base 81.82 %\nmine 80.30 % | +1.52 pp", ["delta sign"]),
    (table("| base | 162 | 198 | 81.82 % | |", "| x | 160 | 198 | 80.81 % | +1.0 pp |", header="| | | | | |"), ["delta sign"]),
    (
        table("| base | 162/198 | 81.82 % | |", "| mine | 160/198 | 80.81 % | +1.0 pp |", header="| | Right | Score | |"),
        ["difference"],
    ),
    ("27.9 GiB (26.0 GB)", ["GB or GiB"]),
    ("22.4 B parameters in total.\n\nIt has 22.9 B parameters in total.", ["given twice"]),
    ("Total parameters: 22.4 B\n\n22.9 B total parameters", ["given twice"]),
    ("128 experts, 109 kept, 20 dropped", ["experts"]),
    ("109 of 128 experts are kept and 20 dropped", ["experts"]),
    (
        "A variant with 109 of 128 experts; 19 are dropped.\n\nIt keeps 109 of the 128 routed experts, 20 were dropped.",
        ["experts"],
    ),
    ("With 109 of 128 experts in each layer and 20 dropped", ["experts"]),
    ("109 of its 128 experts per layer remain, 20 dropped", ["experts"]),
    ("80.30 % against 81.82 %: 1.52 pp better", ["difference"]),
    ("From 81.82 % to 80.30 %, a gain of 1.52 pp.", ["difference"]),
    ("From 80.30 % to 81.82 %: down by 1.52 pp.", ["difference"]),
    ("80.30 % vs 81.82 %, 1.52 percentage points higher", ["difference"]),
    ("From 81.82 % to 80.30 %, an increase of 1.86 %.", ["difference"]),
    (
        table(
            "| base | 162/198 | 81.82 % | |", "| mine | 159/198 | 80.30 % | 1.52 pp better |", header="| | Right | Score | |"
        ),
        ["difference"],
    ),
    ("16 to 8 experts (dropped 9 of 16)", ["experts"]),
    ("```\nllama-quantise in.gguf out.gguf Q6_K\n```", ["command"]),
    ("Run `./llama-sever -m x.gguf` or `llama-sever`.", ["command"]),
    ("| Raw outcome | Questions |\n|---|---|\n| valid | 100 |\n| empty | 3 |\n\n99/104 = 95.2%", ["breakdown"]),
]


@pytest.mark.parametrize(("text", "expected"), SLIPS)
def test_a_slip_is_found(text: str, expected: list[str]) -> None:
    assert kinds(text) == expected


def test_the_unit_of_the_shown_digits_decides() -> None:
    assert kinds("159/198 = 80.3%") == kinds("159/198 = 80%") == []
    assert kinds("159/198 = 80.304%") == ["percentage"]


def test_rounding_is_blamed_only_where_it_is_the_cause() -> None:
    counts = "135/198 = 68.18%\n134/198 = 67.68%\n162/198 = 81.82%\n159/198 = 80.30%\n123/198 = 62.1%\n\n"
    rounded = "It went from 62.1% to 80.30%, +18.20 pp."
    for text, blamed in [(rounded, True), ("It went from 81.82% to 80.30%, +1.52 pp.", False)]:
        (finding,) = lint(parse_document(counts + text))
        assert (finding.kind, "rounded" in finding.message) == ("difference", blamed)


def test_a_line_that_a_backslash_takes_in_is_no_command_of_its_own() -> None:
    """Work grows with the text: each line of a card is in one command at most."""
    document = parse_document("moe-release cut \\\n" * 200 + "x\n\nmoe-release plan y\n")
    assert [len(block.lines) for block in document.commands] == [201, 1]


def test_text_without_markup_is_read_too() -> None:
    text = "Base This Delta\nTotal params 26B 22.4B -14%\nbf16 size 50 GB 42 GB -19%\nExperts 128 109 -18"
    assert sorted(kinds(text)) == ["GB or GiB", "delta", "delta", "share"]


def test_numbers_are_held_against_the_claims_where_these_are_known() -> None:
    claim = {
        "score": ("80.30 %", "share", 0.803),
        "interval": ("74.2–85.2 %", "text", ""),
        "size": ("44.83 GB (41.75 GiB)", "bytes", 44_830_000_000),
    }
    assert kinds("It scores 80.30 % (74.2–85.2 %), `Q6_K` and `v2.1 of x`, 44.83 GB.", **claim) == []
    assert kinds("It scores 80.31 %.", **claim) == ["number without claim"]
    assert kinds("It scores 80.30 pp.", **claim) == ["number without claim"]
    assert kinds("A `3` in backquotes is a number.", **claim) == ["number without claim"]
    assert kinds("It scores 74.2–85.3 %.", **claim) == ["number without claim"]
    assert sorted(kinds("It takes 41.75 GB.", **claim)) == ["GB or GiB", "number without claim"]
    assert kinds("It scores 80.31 %.") == []


@pytest.mark.parametrize(
    "text",
    [
        "It has .97 accuracy.",
        "A 97-percent score.",
        "It is 97percent right.",
        "It is 97percent.",
        "It lost 3-5 points.",
        "A 20-fold gain.",
        "It scores\n97.",
        "It `scores 97 %`.",
        "```\nscores 97 %\n```",
        "It is +1.52 pp better.",
        "Below, **−2** of them.",
    ],
)
def test_numbers_in_words_and_code_and_with_another_sign_need_a_claim(text: str) -> None:
    claims = {"difference": ("−1.52 pp", "points", -0.0152), "kept": ("2", "count", 2)}
    assert kinds(text, **claims) == ["number without claim"]
    others = [".97", "97", "97 %", "3", "5", "20", "+1.52 pp", "−2"]
    known = {f"c{number}": (shown, "text", shown) for number, shown in enumerate(others)}
    assert kinds(text, **known) == []


@pytest.mark.parametrize(
    "text", ["It is 1.52 pp better.", "A gain of 1.52 pp", "higher by 1.52 percentage points than the base"]
)
def test_words_with_another_sign_than_the_claim_are_found(text: str) -> None:
    claims = {"difference": ("−1.52 pp", "points", -0.0152)}
    shown = {"difference": {"shown": "−1.52 pp", "unit": "points", "value": -0.0152}}
    (finding,) = lint(parse_document(text), Knowledge(None, shown))
    assert finding.kind == "delta sign"
    assert "the claims have −1.52 pp" in finding.message
    for other in ({"d": ("+1.52 pp", "points", 0.0152)}, {"d": ("1.52 pp", "text", "1.52 pp")}):
        assert kinds(text, **other) == []
        assert kinds(text, **claims, **other) == []
    assert kinds("It is 1.52 pp worse.", **claims) == kinds("The base is 1.52 pp better.", **claims) == []


@pytest.mark.parametrize(
    "text",
    [
        "It is −1.52 pp, which is 1.52 pp worse; a 4-bit type, 24-hour runs, 2026-05-01, v0.97 and GPT-3-5.",
        "```sh\nmoe-release x --share 97 %\n```",
        "```python\nprint(97 % 5)\n```",
        "```\nllama-server --top-p 0.95 --ctx-size 1024\n```",
        "Set `--top-p 0.95`.",
    ],
)
def test_code_names_and_dates_are_no_numbers(text: str) -> None:
    assert kinds(text, difference=("−1.52 pp", "points", -0.0152)) == []


FILES = (
    "README.md",
    "config.json",
    "scripts/a.py",
    "model-00001-of-00002.safetensors",
    "reproduce/drop_map.json",
    "reproduce/SHA256SUMS",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See config.json, `scripts/a.py`, a.py and model-0000N-of-00002.safetensors.", []),
        ("See `scripts/b.py`.", ["missing file"]),
        ("See model-0000N-of-00003.safetensors.", ["missing file"]),
        ("See x-Q6_K.gguf.", ["missing file"]),
        ("See x-Q6_K.gguf of org/x-GGUF.", []),
        ("Based on https://example.org/x.json and org/name@v1.json", []),
        ("[recipe](scripts/a.py) [folder](scripts) [none](none.md)", ["link"]),
        ("```\npython scripts/a.py --out made.json\ncat made.json\npython scripts/a.py made.json\n```", []),
        ("```\npython scripts/b.py\n```", ["command"]),
        ("```\nllama-quantize \\\n  in.gguf out.gguf Q6_K\nllama-server -m out.gguf\n```", ["command"]),
        ("```\nhf download org/name in.gguf\nllama-server -m in.gguf\n```", []),
        (
            "```\nmoe-release prune B reproduce/drop_map.json out\ncd out && sha256sum --check ../reproduce/SHA256SUMS\n```",
            [],
        ),
        ("```python\nopen('x.json')\n```", []),
        ("```\npython llama.cpp/convert_hf_to_gguf.py . --outfile=x.gguf\n```", []),
    ],
)
def test_files_links_and_commands_are_held_against_the_repository(text: str, expected: list[str]) -> None:
    assert kinds(text, FILES) == expected


def test_the_files_are_those_of_a_folder_or_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.json").write_text("{}")
    assert read_files(tmp_path / "a") == {"b/c.json"}
    (tmp_path / "list").write_text("x.json\n\n y/z.md \n")
    assert read_files(tmp_path / "list") == {"x.json", "y/z.md"}


def test_architecture_is_held_against_the_config_of_a_folder(tmp_path: Path) -> None:
    text = {"head_dim": 256, "global_head_dim": 512, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {**text, "num_hidden_layers": 6, "vocab_size": 262_144}}))
    card = tmp_path / "README.md"
    card.write_text("- Layers: 6\n- Vocabulary: 262,144\n- head_dim=256\n")
    assert lint_file(card, files=[tmp_path]) == ()
    card.write_text("- Layers: 7\n- Vocabulary: 262K\n- head_dim=512\n")
    found = [(each.line, each.message) for each in lint_file(card, files=[tmp_path])]
    assert found == [
        (1, "layers is 6 in config.json, the card says 7"),
        (3, "head_dim is 256 in config.json, the card says 512; 512 holds for 1 of 6 layers alone"),
    ]


def test_lines_are_those_of_the_file() -> None:
    text = "---\nlicense: mit\n---\n\n# T\n\ntext\nmore text\n1/2 = 51.0%\n\n- a\n- 1/4 = 26.0%\n\n> 3/4 = 74.0%\n\n"
    text += "<p>1/8 = 13.9%</p>\n"
    assert [each.line for each in lint(parse_document(text))] == [9, 12, 14, 16]


@pytest.mark.parametrize("card", GOLDEN, ids=lambda card: f"{card.parent.name}/{card.name}")
def test_the_golden_cards_are_clean(card: Path) -> None:
    assert lint_file(card) == ()


def test_a_score_stands_with_the_questions_that_were_calibrated_on() -> None:
    claims = {
        "contamination.overlap": ("12", "count", 12),
        "contamination.exam": ("240", "count", 240),
        "contamination.calibration": ("160", "count", 160),
        "runs.0.score": ("87.08 %", "share", 0.8708),
    }
    said = "12 of 240 questions of this exam are among the 160 calibration questions."
    assert kinds("Score: 87.08 %.", **claims) == ["in-sample"]
    assert kinds(f"Score: 87.08 %. {said}", **claims) == []
    assert kinds("It is small.", **claims) == []


TWICE = [
    ("159/198 = 80.30 %\n\nIt scores 81.0 % after the patch.", "a score of 81.0 % here, and 159/198 is 80.3 % in line 1"),
    (
        "The Q6_K file has 19.8 GB.\n\n| File | Size |\n|---|---|\n| Q6_K | 18.0 GB |",
        "Q6_K is 18.0 GB here, and 19.8 GB in line 1",
    ),
    ("It keeps 109 experts per layer.\n\n110 of 128 experts are kept.", "experts kept: 110 here, and 109 in line 1"),
    ("From 128 to 109 experts.\n\nIn each layer, 108 experts remain.", "experts kept: 108 here, and 109 in line 1"),
    ("Experts go in all 30 layers.\n\nThe model has 32 layers.", "layers: 32 here, and 30 in line 1"),
    ("- Layers: 30\n\nA model of 32 decoder layers.", "layers: 32 here, and 30 in line 1"),
    (
        "# Small (22.4B)\n\n" + table("| Parameters | 26B | 23.9B | -8% |"),
        "23.9B parameters here, and 22.4B in the title (line 1)",
    ),
]


@pytest.mark.parametrize(("text", "said"), TWICE)
def test_a_number_that_a_sentence_gives_otherwise_is_found(text: str, said: str) -> None:
    assert [(each.kind, each.message) for each in lint(parse_document(text))] == [("given twice", said)]


@pytest.mark.parametrize(
    "text",
    [
        "159/198 = 80.30 % of GPQA.\n\nIt scores 81.0 % on MMLU.",
        "159/198 = 80.30 %\n\nThe base scores 81.82 %. v2 scores 78.79 %.",
        "159/198 = 80.30 %\n\n| x | 81.0 % |\n|---|---|\n\nIt scores 81.0 % without.",
        "154/198 = 77.78 %, 159/198 = 80.30 %\n\nRaw, it scores 77.8 %; with the patch, it scores 80 %.",
        "The Q6_K file has 19.8 GB.\n\nQ6_K needs 24 GB of VRAM; the Q4_K_M file has 15.1 GB.",
        "The Q6_K file has 19.85 GB.\n\n| Q6_K | 19.8 GB (18.5 GiB) |\n|---|---|",
        "It keeps 109 experts per layer.\n\nThe router picks 8 of 109 experts per layer. The 120e keeps 120 experts.",
        "Experts go in all 30 layers.\n\nOf these, 5 layers are global; 99 layers are offloaded, layers 11-29 are not.",
        "# Small (22.4B)\n\n" + table("| Parameters | 25.8 B | 22.41 B | −13.1 % |"),
        "# Small (A4B)\n\n" + table("| Parameters | 25.8 B | 22.41 B | −13.1 % |"),
    ],
)
def test_other_numbers_of_the_same_kind_are_no_slip(text: str) -> None:
    assert kinds(text) == []


def test_links_into_the_own_repository_are_held_against_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--small" / "snapshots" / "main"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "a.py").write_text("")
    card = folder / "README.md"
    links = [f"https://huggingface.co/org/{name}" for name in ("small/blob/main/scripts/a.py", "small/tree/main/scripts/")]
    links += [f"https://huggingface.co/org/{name}" for name in ("small/blob/v1/old.py", "other/blob/main/b.py", "small")]
    card.write_text("".join(f"[x]({link})\n" for link in links))
    (folder / ".gitattributes").write_text("")
    assert lint_file(card) == ()
    card.write_text("[x](https://huggingface.co/org/small/resolve/main/scripts/b.py) and `scripts/b.py`\n")
    assert [each.kind for each in lint_file(card)] == ["link", "missing file"]
    (folder / ".gitattributes").unlink()
    assert lint_file(card) == (), "what is here need not be all of the repository"


def test_the_own_repository_is_known_from_the_claims() -> None:
    claims = {"publish.weights": {"shown": "org/small", "unit": "text", "value": "org/small"}}
    known = Knowledge(frozenset({"README.md"}), claims, repositories=repositories_of(Path("README.md"), claims))
    found = lint(parse_document("[x](https://huggingface.co/org/small/blob/main/none.md)"), known)
    assert [each.kind for each in found] == ["link"]
