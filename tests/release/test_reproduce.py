"""What `reproduce/` holds, and that its page of commands is enough for a stranger."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pruner.errors import InputError
from pruner.files import canonical_json, sha256_file
from release import reproduce
from release.actions.direct_prune import prune_directly
from release.manifest import load_manifest
from tests.conftest import CheckpointFactory
from tests.end_to_end.conftest import COMMAND

MANIFEST = """schema: moe-release/v1
name: small
base: {path: base}
prune: {experts: 6, drop_map: {path: maps/map.json}}
weights: {max_shard_size: 2KB}
gguf: {quants: [Q6_K, {name: CD, type: Q6_K, tensor_types: {path: types.txt}}]}
compare:
- {label: other, evidence: {path: runs/other.json}}
- {label: harness, lm_eval: {samples: {path: runs/samples_x.jsonl}, results: {path: runs/results_x.json}}}
card: {prose: words.md, templates: looks, earlier_maps: {v1: {path: maps/v1.json}}}
publish: {weights: org/small, tag: v1}
"""


def write(folder: Path, text: str = MANIFEST) -> Path:
    for name in ("maps/v1.json", "looks/weights_card.md.j2", "looks/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for name in ("maps/map.json", "types.txt", "runs/other.json", "runs/samples_x.jsonl", "runs/results_x.json", "words.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "manifest-of-mine.yaml").write_text(text)
    return folder / "manifest-of-mine.yaml"


def test_named_files_stand_at_the_manifests_paths_and_questions_stay_out(tmp_path: Path) -> None:
    files = reproduce.reproduce_files(load_manifest(write(tmp_path)), {})
    assert sorted(files) == [
        "reproduce/looks/weights_card.md.j2",
        "reproduce/manifest.yaml",
        "reproduce/maps/map.json",
        "reproduce/maps/v1.json",
        "reproduce/runs/other.json",
        "reproduce/types.txt",
        "reproduce/words.md",
    ]
    assert files["reproduce/types.txt"].read_text() == "types.txt"


@pytest.mark.parametrize(
    ("output", "places"),
    [
        ("weights/model.safetensors", {"weights": "model.safetensors"}),
        ("gguf/x-Q6_K.gguf", {"gguf": "x-Q6_K.gguf"}),
        ("imatrix/x-imatrix.gguf", {"gguf": "x-imatrix.gguf"}),
        ("card/pictures/a.svg", {"weights": "pictures/a.svg", "gguf": "pictures/a.svg"}),
        ("card/eval_results/a.yaml", {"weights": ".eval_results/a.yaml"}),
        ("card/README.md", {"weights": "README.md"}),
        ("card/README.gguf.md", {"gguf": "README.md"}),
        ("card/claims.json", {"weights": "reproduce/claims.json"}),
        ("drop_map.json", {"weights": "reproduce/drop_map.json"}),
        ("quality.json", {"gguf": "quality.json"}),
        ("eval/Q6_K/evidence.json", {"weights": "reproduce/evidence/Q6_K.json"}),
        ("eval/Q6_K/timing.json", {"weights": "reproduce/timing/Q6_K.json"}),
        ("expert_statistics.safetensors", {}),
        ("card/results.md", {}),
        ("eval/a/b/evidence.json", {}),
        ("eval/Q6_K/ledger.jsonl", {}),
    ],
)
def test_where_outputs_of_a_lock_are_published(output: str, places: dict[str, str]) -> None:
    assert reproduce.published_places(output) == places
    for kind in reproduce.BOTH:
        assert reproduce.places_in(kind, [output, "nowhere"]) == ({output: places[kind]} if kind in places else {})


def test_a_file_with_a_fixed_name_is_refused_unless_it_is_the_same(tmp_path: Path) -> None:
    loaded = load_manifest(write(tmp_path, MANIFEST.replace("maps/map.json", "drop_map.json")))
    (tmp_path / "drop_map.json").write_text("theirs")
    (tmp_path / "ours.json").write_text("ours")
    with pytest.raises(InputError, match=r"drop_map\.json would be published as reproduce/drop_map\.json"):
        reproduce.reproduce_files(loaded, {reproduce.DROP_MAP: tmp_path / "ours.json"})
    (tmp_path / "ours.json").write_text("theirs")
    assert reproduce.reproduce_files(loaded, {reproduce.DROP_MAP: tmp_path / "ours.json"})


def test_a_manifest_in_reproduce_finds_its_lock(tmp_path: Path) -> None:
    path = write(tmp_path).rename(tmp_path / "manifest.yaml")
    assert load_manifest(path).lock_path == tmp_path / "small.lock.json"
    (tmp_path / "lock.json").write_text("{}")
    assert load_manifest(path).lock_path == tmp_path / "lock.json"


def test_the_first_two_commands_of_the_page_rebuild_the_weights(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """The page is typed into a shell by somebody who has the base and `reproduce/` and nothing else."""
    base = make_checkpoint()
    drop_map = {"drop": {str(layer): [1, 4] for layer in range(3)}}
    (tmp_path / "map.json").write_bytes(canonical_json(drop_map["drop"]))
    built = tmp_path / "built"
    prune_directly(base, tmp_path / "map.json", built, max_shard_size="2KB", metadata="pt")
    copy = tmp_path / "copy"
    (copy / "reproduce").mkdir(parents=True)
    shutil.copy(tmp_path / "map.json", copy / reproduce.DROP_MAP)
    (copy / reproduce.SUMS).write_text("".join(f"{sha256_file(path)}  {path.name}\n" for path in sorted(built.iterdir())))
    page = reproduce.page(load_manifest(write(tmp_path / "manifests")).content)
    commands = page.split("```\n")[1].splitlines()
    assert len(commands) == 3
    assert commands[2] == "moe-release prove hf://org/small@v1 --base BASE_FOLDER"
    words = " && ".join(commands[:2]).replace("BASE_FOLDER", shlex.quote(str(base)))
    path = f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", words], cwd=copy, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(list(built.iterdir()))


COMMIT = "0" * 40
PAGE = f"""# How to reproduce small

The weights are bytes of org/base_1: no GPU and no torch are needed (`pip install moe-release`).

Build them again, compare with what was published, and prove the published ones without writing anything:

```
moe-release prune hf://org/base_1@{COMMIT} reproduce/drop_map.json rebuilt --max-shard-size 2000 --metadata pt
(cd rebuilt && sha256sum --check ../reproduce/SHA256SUMS)
moe-release prove hf://org/small@v1 --base hf://org/base_1@{COMMIT}
```

`manifest.yaml` declares the whole release, `lock.json` holds the digest of every input and output. Questions of exams and
calibration sets are not here, since they may not be copied; the lock has their digests.
"""


def test_the_page_is_this_one_and_may_be_ones_own(tmp_path: Path) -> None:
    text = MANIFEST.replace("{path: base}", f"{{repo: org/base_1, revision: '{COMMIT}'}}")
    manifest = load_manifest(write(tmp_path, text)).content
    assert reproduce.page(manifest) == PAGE
    own = {"reproduce.md.j2": '{% extends "reproduce.md.j2" %}{% block contents %}\n\nAsk {{ name }}.\n{% endblock %}'}
    assert reproduce.page(manifest, own) == PAGE.partition("\n`manifest.yaml`")[0] + "\nAsk small.\n"
