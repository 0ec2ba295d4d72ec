"""diff and infer of repositories on the rehearsal Hub: by ranges, and by listed digests where these are enough."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.comparison.diff import diff
from pruner.comparison.inference import infer
from release.hub.local import LocalHub
from tests.pruner.comparison.test_diff import DROP, LAYERS, all_tensors, copied, flip, pruned, rewrite
from tests.release.hub.remote.repositories import BASE, TARGET, Faults, remote, run_cli, upload

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def test_a_folder_equal_to_a_repository_is_told_by_digests(hub: LocalHub, api: HfApi, base: Path, faults: Faults) -> None:
    commit = upload(api, BASE, base)
    copy = copied(base, "copy")
    source = remote(hub)
    headers = faults.downloads()
    result = diff(copy, source)
    assert result.equal_bytes
    assert result.labels == ("copy", f"{BASE}@{commit[:12]}")
    read = [wanted for wanted in faults.downloads() if wanted not in headers]
    assert len(read) <= 2 * len(list(base.glob("*.safetensors")))  # headers, and headers again to compare their bytes
    flip(copy, f"{LAYERS}.1.experts.down_proj", 3 * 48)
    (each,) = diff(copy, source).differences
    assert (each.layer, dict(each.experts)) == ("1", {3: 1})
    assert diff(source, copy, workers=1).differences[0].experts == each.experts


def test_two_repositories_with_other_packaging(hub: LocalHub, api: HfApi, base: Path) -> None:
    upload(api, BASE, base)
    other = rewrite(copied(base, "other"), all_tensors(base), format="np")
    upload(api, "org/other", other)
    result = diff(remote(hub), remote(hub, "org/other"))
    assert result.verdict == "same weights, other packaging"
    assert diff(remote(hub), remote(hub)).verdict == "equal bytes"


def test_a_remote_prune_is_proved_without_fetching_its_shards(
    hub: LocalHub, api: HfApi, base: Path, tmp_path: Path, faults: Faults
) -> None:
    out = pruned(base, tmp_path / "out", max_shard_size=700)
    tensors = {name.replace("model.language_model.", "model."): array for name, array in all_tensors(out).items()}
    upload(api, TARGET, rewrite(out, tensors, format="np"))
    target = remote(hub, TARGET)
    faults.sent = 0
    result = infer(target, base)
    assert dict(result.drop_map.drop) == DROP
    assert result.verdict == "proved: every tensor is the base's bytes without the dropped experts"
    assert result.proof is not None
    assert result.proof.by_digest == ("model.safetensors",)


def test_a_remote_prune_of_a_remote_base_survives_faults_and_names_the_expert(
    hub: LocalHub, api: HfApi, base: Path, tmp_path: Path, faults: Faults
) -> None:
    commit = upload(api, BASE, base)
    out = pruned(base, tmp_path / "out", max_shard_size=700)
    flip(out, f"{LAYERS}.2.experts.down_proj", 4 * 48 + 1)
    upload(api, TARGET, out)
    faults.cut_after = 200
    result = infer(remote(hub, TARGET), remote(hub))
    assert dict(result.drop_map.drop) == DROP
    assert result.drop_map.provenance["base_model"] == {"name": BASE, "revision": commit}
    assert result.proof is not None
    (each,) = result.proof.differences
    assert (each.layer, dict(each.experts)) == ("2", {4: 1})
    assert len(result.proof.by_digest) == len(list(out.glob("*.safetensors"))) - 1
    assert not result.holds


def test_the_commands_take_addresses(hub: LocalHub, api: HfApi, base: Path, tmp_path: Path) -> None:
    upload(api, BASE, base)
    out = pruned(base, tmp_path / "out")
    upload(api, TARGET, out)
    done = run_cli(hub, "infer", f"hf://{TARGET}", "--base", f"hf://{BASE}@main", "--out", tmp_path / "map.json", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["holds"] is True
    done = run_cli(hub, "prune", f"hf://{BASE}", tmp_path / "map.json", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    done = run_cli(hub, "diff", tmp_path / "again", f"hf://{TARGET}@main")
    assert done.returncode == 0, done.stderr
    assert "same weights in equal shards; other files differ: expert_drop_metadata.json" in done.stdout
    shutil.rmtree(out)
    done = run_cli(hub, "diff", f"hf://{TARGET}", "hf://org/nothing")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
