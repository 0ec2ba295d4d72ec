"""What a newcomer's mistakes in a manifest are answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruner.errors import InputError
from release.cli import main
from release.manifest import load_manifest

MANIFEST = (
    "schema: moe-release/v1\nname: x\nbase: {path: base}\n"
    "prune:\n  experts: 4\n  analysis: {dataset: {path: c.jsonl}}\n  ranking: {method: reap}\n"
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "method: reap",
            "method: score, protect: 3",
            "7:28: unknown key 'prune.ranking.protect'; protect belongs to method coverage; method score has alpha, class",
        ),
        ("method: reap", "method: reap, protct: 3", "'prune.ranking.protct'; protect belongs to method coverage; method reap"),
        ("method: reap", "method: covrage", "7:13: prune.ranking.method: unknown method 'covrage'; did you mean 'coverage'?"),
        ("method: reap", "method: best", "unknown method 'best'; known are coverage, reap, score"),
        ("method: reap", "tokens: all", "7:3: key 'prune.ranking.method' is missing"),
        ("name: x", "name: x y", "2:1: name: write a name of at most 96 letters"),
        ("path: base", "repo: a, revision: main", "3:8: base.repo: write owner/name, not 'a'"),
        (
            "path: base",
            "repo: a/b, revision: main",
            "base.revision: write a commit of 40 hexadecimal digits",
        ),
        ("experts: 4", "experts: four", "5:3: prune.experts: write a whole number, not 'four'"),
        ("experts: 4", "experts: 4.5", "5:3: prune.experts: write a whole number, not 4.5"),
        ("experts: 4", "experts: 0", "5:3: prune.experts: input should be greater than 0, not 0"),
        (
            "analysis: {dataset: {path: c.jsonl}}\n  ranking: {method: reap}",
            "drop_map: map.json",
            "6:3: prune.drop_map: expected a mapping of keys to values, not 'map.json'; write {path: map.json}",
        ),
        ("{path: base}", "here", "3:1: base: expected a mapping of keys to values, not 'here'"),
        ("prune:", "gguf: {quants: [Q6_K]}\neval:\n  protocol: p\n  quants: [Q8_0]\nprune:", "7:3: eval.quants names 'Q8_0'"),
        ("prune:", "publish:\n  weights: a/b\n  gguf: a/c\nprune:", "6:3: publish.gguf names a repository, and there is no"),
        (
            "prune:",
            "gguf:\n  threads: 1\n  quants: [Q6_K, q6_k]\nprune:",
            "6:3: gguf: quants: two are called 'Q6_K'; remove one",
        ),
        ("prune:", "gguf: {quants: Q6_K}\nprune:", "4:8: gguf.quants: write a list, such as [Q6_K], not 'Q6_K'"),
        ("prune:", "gguf: {quants: 6}\nprune:", "4:8: gguf.quants: write a list, not 6"),
        ("prune:", "gguf: {quants: [Q6_K]}\neval: {protocol: p, quants: []}\nprune:", "eval.quants: is empty; at least 1 item"),
        (
            "prune:",
            "gguf: {quants: [Q6_K]}\neval: {protocol: p, quants: [Q6_K, Q6_K]}\nprune:",
            "5:21: eval.quants: 'Q6_K' is named twice; a quant has one run",
        ),
        (
            "prune:",
            "compare:\n- {label: x, evidence: e.json}\nprune:",
            "5:14: compare.0.evidence: expected a mapping of keys to values, not 'e.json'; write {path: e.json}",
        ),
        (
            "prune:",
            "compare:\n- {label: x, evidence: {path: e.json}, reference: yes please}\nprune:",
            "5:40: compare.0.reference: write true or false, not 'yes please'",
        ),
        ("name: x", "name: 2024", "2:1: name: write a text, in quotes where it looks like a number, not 2024"),
        ("release/v1", "release/v2", "1:1: schema: input should be 'moe-release/v1', not 'moe-release/v2'"),
        ("prune:", "quants: [Q6_K]\nprune:", "4:1: unknown key 'quants'; it belongs to gguf or eval"),
        ("prune:", "protct: 3\nprune:", "4:1: unknown key 'protct'; did you mean 'protect', which belongs to prune.ranking?"),
        ("prune:", "prior: [{file: x}]\nprune:", "unknown key 'prior.0.file'; known here are path, repo, revision, sha256"),
    ],
)
def test_a_mistake_is_answered_in_words_at_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(MANIFEST.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_manifest(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("card", "--lint"), "Option '--lint' requires an argument; see moe-release card --help"),
        (
            ("table", "x.yaml", "--format", "xml"),
            "'--format': 'xml' is not one of 'markdown', 'csv', 'json'; see moe-release table",
        ),
        (("compare",), "see moe-release compare --help"),
    ],
)
def test_a_wrong_command_line_names_its_own_help(
    words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["moe-release", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err
