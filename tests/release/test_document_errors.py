"""What a newcomer's mistakes in a manifest are answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruner.errors import InputError
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
            "6:3: prune.drop_map: expected a mapping of keys to values, not 'map.json', such as {path: map.json}",
        ),
        ("{path: base}", "here", "3:1: base: expected a mapping of keys to values, not 'here'"),
        ("prune:", "gguf: {quants: [Q6_K]}\neval:\n  protocol: p\n  quants: [Q8_0]\nprune:", "7:3: eval.quants names 'Q8_0'"),
        ("prune:", "publish:\n  weights: a/b\n  gguf: a/c\nprune:", "6:3: publish.gguf names a repository, and there is no"),
        ("prune:", "gguf:\n  threads: 1\n  quants: [Q6_K, q6_k]\nprune:", "6:3: gguf: two quants have the same name"),
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
