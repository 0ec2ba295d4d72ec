from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from pruner.errors import InputError
from release.manifest import LoadedManifest, Manifest, PinnedFile, load_manifest, parse_size
from release.stages.preflight import check_inputs

MINIMAL = "schema: moe-release/v1\nname: x\nbase: {path: base}\nprune: {experts: 4, drop_map: {path: map.json}}\n"


def load(tmp_path: Path, text: str) -> LoadedManifest:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return load_manifest(path)


def test_the_minimal_manifest_has_the_documented_defaults(tmp_path: Path) -> None:
    manifest = load(tmp_path, MINIMAL).content
    assert manifest.weights.max_shard_size == 5 * 1024**3
    assert manifest.weights.metadata == "pt"
    assert (manifest.gguf, manifest.eval, manifest.publish) == (None, None, None)


def test_every_shipped_manifest_is_valid(manifests: Path) -> None:
    paths = sorted(manifests.glob("*.yaml"))
    assert len(paths) >= 2
    for path in paths:
        check_inputs(load_manifest(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL.replace("base: {path: base}", "base: {repo: a/b}"), "needs its revision"),
        (MINIMAL.replace("base: {path: base}", "base: {repo: a/b, revision: main}"), "base.revision"),
        (MINIMAL.replace("base: {path: base}", "base: {}"), "either repo and revision, or path"),
        (
            MINIMAL.replace("drop_map: {path: map.json}", "analysis: {dataset: {path: d}}, drop_map: {path: m}"),
            "either drop_map",
        ),
        (MINIMAL.replace("drop_map: {path: map.json}", "analysis: {dataset: {repo: a/b}}"), "repo, revision"),
        (MINIMAL.replace("drop_map: {path: map.json}", "analysis: {dataset: {}}"), "either path, or repo with revision"),
        (
            MINIMAL.replace("drop_map: {path: map.json}", "analysis: {dataset: {path: d}}, calibration: {dataset: {path: d}}"),
            "calibration belongs to a pinned drop_map",
        ),
        (MINIMAL.replace("experts: 4, ", ""), "key 'prune.experts' is missing"),
        (MINIMAL.replace("name: x", "name: ../x"), "x.yaml:2:1: name"),
        (MINIMAL + "gguf: {quants: []}\n", "gguf.quants"),
        (MINIMAL + "gguf: {quants: [Q6_K, q6_k]}\n", "quants: two are called 'Q6_K'"),
        (MINIMAL + "gguf: {quants: [Q6_K]}\neval: {protocol: p, quants: [Q8_0]}\n", "which gguf.quants does not make"),
        (MINIMAL + "publish: {weights: a/b, gguf: a/c}\n", "no gguf section"),
        (MINIMAL + "publish: {weights: nonsense}\n", "publish.weights"),
        (MINIMAL.split("prune:", maxsplit=1)[0] + "publish: {weights: a/b}\n", "publish needs a prune section"),
        (MINIMAL + "weights: {max_shard_size: 5 furlongs}\n", "is no size"),
        (MINIMAL + "weights: {max_shard_size: 99999999999TiB}\n", "less than or equal to 1125899906842624"),
        (MINIMAL + "weights: {max_shard_size: 5.0}\n", "write a whole number, not"),
        (MINIMAL + "weights: {max_shard_size: true}\n", "write a whole number, not"),
        (MINIMAL + "wieghts: {}\n", "unknown key 'wieghts'; did you mean 'weights'"),
        (MINIMAL + "prune2: {}\n", "unknown key 'prune2'; did you mean 'prune'"),
        (MINIMAL + "compare: [{label: a}]\n", "either evidence, lm_eval or reported"),
        (MINIMAL + "prior: [{repo: a/b, revision: main}]\n", "prior.0.revision"),
        (MINIMAL + "prior: [{repo: a/b}]\n", "needs its revision"),
        (MINIMAL + "prior: [{path: x, repo: a/b}]\n", "either repo and revision, or path"),
        (MINIMAL + "prior: [{file: x}]\n", "unknown key"),
        (MINIMAL + "card: {leaderboard: {task: diamond}}\n", "there is no eval section"),
    ],
)
def test_what_is_no_manifest_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, text)
    assert "x.yaml:" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes() -> None:
    assert [parse_size(text) for text in ("5GiB", "4GB", "7", "3 MiB", 12)] == [5 << 30, 4 * 10**9, 7, 3 << 20, 12]


def test_pinned_files_are_checked_and_stay_inside(tmp_path: Path) -> None:
    loaded = load(tmp_path, MINIMAL)
    (tmp_path / "map.json").write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    assert loaded.file(PinnedFile(path="map.json", sha256=digest)) == tmp_path / "map.json"
    with pytest.raises(InputError, match=f"has SHA-256 {digest}, the manifest pins 000"):
        loaded.file(PinnedFile(path="map.json", sha256="0" * 64))
    with pytest.raises(InputError, match="does not exist"):
        loaded.file(PinnedFile(path="other.json"))
    for path in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(InputError, match="may not leave"):
            loaded.file(PinnedFile(path=path))
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="symbolic link may not leave"):
        loaded.file(PinnedFile(path="link"))


ADDRESS = "hf://Idavidrein/gpqa@" + "0a" * 20 + "/data/gpqa_diamond.csv"


@pytest.mark.parametrize(
    "written",
    [
        ADDRESS,
        ADDRESS.replace("hf://", "hf://datasets/"),
        "{path: '" + ADDRESS + "'}",
        "{repo: Idavidrein/gpqa, revision: " + "0a" * 20 + ", file: data/gpqa_diamond.csv}",
    ],
)
def test_a_data_set_on_the_hub_is_one_word_or_three_keys(tmp_path: Path, written: str) -> None:
    manifest = load(tmp_path, MINIMAL.replace("drop_map: {path: map.json}", f"analysis: {{dataset: {written}}}")).content
    assert manifest.prune is not None
    assert manifest.prune.dataset is not None
    assert manifest.prune.dataset.model_dump(exclude_none=True) == {
        "repo": "Idavidrein/gpqa", "revision": "0a" * 20, "file": "data/gpqa_diamond.csv",
    }  # fmt: skip
    assert manifest.prune.dataset.name == ADDRESS.replace("hf://", "hf://datasets/")


def test_a_path_alone_is_a_data_set_too(tmp_path: Path) -> None:
    manifest = load(tmp_path, MINIMAL.replace("drop_map: {path: map.json}", "analysis: {dataset: exam/c.jsonl}")).content
    assert manifest.prune is not None
    assert manifest.prune.dataset is not None
    assert manifest.prune.dataset.path == "exam/c.jsonl"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (ADDRESS.replace("@" + "0a" * 20, "@main"), "write hf://owner/name@revision/path/file"),
        (ADDRESS.replace("@" + "0a" * 20, ""), "write hf://owner/name@revision/path/file"),
        (ADDRESS.removesuffix("/data/gpqa_diamond.csv"), "write hf://owner/name@revision/path/file"),
        (ADDRESS.replace("Idavidrein/", ""), "write hf://owner/name@revision/path/file"),
        (ADDRESS.replace("/data/", "/../"), "is no path inside a repository"),
        (ADDRESS.replace("/data/", "//"), "is no path inside a repository"),
        ("{path: '" + ADDRESS + "', file: x}", "says file already; remove the key"),
        ("{repo: a/b, revision: " + "0a" * 20 + ", file: ../x}", "is no path inside a repository"),
        ("7", "prune.analysis.dataset"),
    ],
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, written: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, MINIMAL.replace("drop_map: {path: map.json}", f"analysis: {{dataset: {written}}}"))
    assert "x.yaml:4:" in str(caught.value)


def test_the_schema_for_editors_takes_what_manifests_write(manifests: Path) -> None:
    validator = jsonschema.Draft202012Validator(Manifest.model_json_schema(by_alias=True))
    for path in manifests.glob("*.yaml"):
        assert not list(validator.iter_errors(yaml.safe_load(path.read_text())))
    text = MINIMAL.replace("drop_map: {path: map.json}", "analysis: {dataset: DATA}") + (
        "weights: {max_shard_size: SIZE}\ngguf: {quants: [QUANT, {name: b, type: Q4_K_M}]}\n"
    )
    for data in (ADDRESS, "c.jsonl", "{path: c.jsonl}", "{repo: a/b, revision: " + "0a" * 20 + ", file: f}"):
        for size in ("1MiB", "5GB", "12"):
            good = text.replace("DATA", data).replace("SIZE", size).replace("QUANT", "Q6_K")
            assert validator.is_valid(yaml.safe_load(good)), good
    for data, size, quant in (("7", "1MiB", "Q6_K"), ("c", "5 furlongs", "Q6_K"), ("c", "-1", "Q6_K"), ("c", "1", "../x")):
        bad = text.replace("DATA", data).replace("SIZE", size).replace("QUANT", quant)
        assert not validator.is_valid(yaml.safe_load(bad)), bad


def test_the_analysis_can_keep_as_many_tokens_as_a_manifest_may_ask_for(tmp_path: Path) -> None:
    from pruner.packed_sums import MOST_TOKENS

    for tokens, fits in ((MOST_TOKENS, True), (MOST_TOKENS + 1, False)):
        text = MINIMAL.replace("drop_map: {path: map.json}", f"analysis: {{dataset: c, max_tokens: {tokens}}}")
        if fits:
            load(tmp_path, text)
        else:
            with pytest.raises(InputError, match="max_tokens"):
                load(tmp_path, text)


def test_the_schema_for_editors_is_json() -> None:
    schema = Manifest.model_json_schema(by_alias=True)
    assert {"schema", "name", "base"} <= set(json.loads(json.dumps(schema))["required"])
