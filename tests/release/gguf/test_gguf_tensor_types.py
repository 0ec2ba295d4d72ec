from __future__ import annotations

from pathlib import Path

import pytest

from pruner.errors import InputError
from release.gguf.tensor_types import assign, read_tensor_types

NAMES = ["token_embd.weight", *(f"blk.{layer}.{part}.weight" for layer in (0, 1, 11) for part in ("ffn_down_exps", "attn_q"))]


def rules(tmp_path: Path, text: str):
    path = tmp_path / "types.txt"
    path.write_text(text)
    return path, read_tensor_types(path)


def test_lines_and_words_are_rules_in_order(tmp_path: Path):
    _, found = rules(tmp_path, "blk.0.attn_q.weight=q8_0 token_embd=Q6_K\n\nFFN_DOWN_EXPS=iq4_xs\n")
    assert [(rule.pattern, rule.type, rule.line) for rule in found] == [
        ("blk.0.attn_q.weight", "Q8_0", 1),
        ("token_embd", "Q6_K", 1),
        ("ffn_down_exps", "IQ4_XS", 3),
    ]


def test_the_first_rule_that_matches_a_tensor_wins(tmp_path: Path):
    path, found = rules(tmp_path, r"blk\.1\..*=Q4_K" + "\nffn_down_exps=Q6_K\n")
    assigned = assign(path, found, NAMES)
    assert {name: rule.type for name, rule in assigned.items()} == {
        "blk.0.ffn_down_exps.weight": "Q6_K",
        "blk.1.ffn_down_exps.weight": "Q4_K",
        "blk.1.attn_q.weight": "Q4_K",
        "blk.11.ffn_down_exps.weight": "Q6_K",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=Q6_K\nb=IQ3_K_M\n", r"types\.txt:2: ggml has no type 'IQ3_K_M'; did you mean 'I?Q3_K'"),
        ("a=Q6_K\n\nb=nonsense\n", r"types\.txt:3: ggml has no type 'nonsense'$"),
        ("a=I32\n", r":1: ggml has no type 'I32'"),
        ("a=Q6_K\nb=Q6_K\na=Q8_0\n", r":3: 'a' stands in line 1 already"),
        ("a=Q6_K\nA=Q8_0\n", r":2: 'a' stands in line 1 already"),
        ("# comment\n", r":1: '#' is not of the form tensor=type"),
        ("a=\n", r":1: 'a=' is not of the form"),
        ("=Q6_K\n", r":1: '=Q6_K' is not of the form"),
        ("blk.(0=Q6_K\n", r":1: 'blk\.\(0' is not a regular expression"),
        (" \n", "holds no `tensor=type` line"),
    ],
)
def test_a_wrong_line_is_refused_with_its_number(tmp_path: Path, text: str, expected: str):
    with pytest.raises(InputError, match=expected) as caught:
        rules(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("(a+)+$", "repeats a group"),
        ("(a|aa)*b", "repeats a group"),
        (r"(x)\1", "refers back to a group"),
        ("(?!a)b", "uses a group"),
        ("(?i:a)b", "uses a group"),
        ("a{9999}", "repeats more often than a name"),
        (".*" * 30 + "x", "too many repeats"),
        (".?" * 40 + "x", "too many repeats"),
        ("(.|.)" * 30 + "x", "too many repeats"),
        ("((.|.)(.|.)(.|.)(.|.)(.|.)(.|.)(.|.)(.|.)(.|.)|.*.*.)x", "too many repeats"),
        ("a" * 201, "longer than 200"),
    ],
)
def test_a_pattern_that_could_take_for_ever_is_not_tried(tmp_path: Path, pattern: str, expected: str):
    with pytest.raises(InputError, match=rf"types\.txt:2: .* {expected}.*; write a simpler pattern") as caught:
        rules(tmp_path, f"token_embd=Q8_0\n{pattern}=Q6_K\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    [
        r"blk\.\d+\.ffn_.*_exps\.(weight|bias)",
        "blk.(0|1|2|3|4|5|6|7|8|9|10|11|12|13|14|15|16|17|18|19|20|21|22|23|24|25|26|27|28|29).attn_(q|k|v)",
        r"blk\.[0-9]{1,2}\.attn_q(\.weight)?$",
        "[)*+?|]x?",
        r"a\*\+\?\|\(\*",
    ],
)
def test_ordinary_patterns_are_taken(tmp_path: Path, pattern: str):
    _, found = rules(tmp_path, f"{pattern}=Q6_K\n")
    assert found[0].pattern == pattern


def test_more_rules_than_any_model_has_tensors_for_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"types\.txt:4097: more than 4096 rules"):
        rules(tmp_path, "".join(f"blk.{number}=Q6_K\n" for number in range(5000)))


def test_a_rule_for_a_tensor_that_does_not_exist_is_refused(tmp_path: Path):
    path, found = rules(tmp_path, "token_embd=Q6_K\nblk.2.attn_q.weight=Q8_0\n")
    with pytest.raises(InputError, match=r"types\.txt:2: the model has no tensor that matches 'blk\.2\.attn_q\.weight'"):
        assign(path, found, NAMES)


def test_unreadable_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="No such file"):
        read_tensor_types(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_tensor_types(tmp_path / "binary.txt")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputError, match="larger than 4 MiB"):
        read_tensor_types(tmp_path / "huge.txt")
