"""What a stranger finds of a release: nothing when it is honest, and where it was tampered with when it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruner.errors import InputError
from release.card.handwritten import KEPT
from release.verdict import Verdict
from tests.release.verification.releases import DROPPED, Stage, last_byte, part

SHARD = "model-00001-of-00003.safetensors"


def test_an_honest_release_is_good_in_every_part(small: Stage) -> None:
    found = small.verify()
    assert {finding.part: finding.verdict for finding in found.findings} == {
        "consistency": Verdict.GOOD,
        "files": Verdict.GOOD,
        "weights": Verdict.GOOD,
        "card": Verdict.GOOD,
    }
    assert (found.verdict, found.exit_code) == (Verdict.GOOD, 0)
    assert len(found.commit) == 40
    assert found.text().endswith("GOOD")


def test_a_missing_base_is_unknown_and_says_what_to_do(small: Stage) -> None:
    found = small.verify(base=None)
    weights = part(found, "weights")
    assert weights.verdict is Verdict.UNKNOWN
    assert "--base" in weights.reason
    assert part(found, "files").verdict is Verdict.GOOD
    assert found.exit_code == 3


def shards(stage: Stage) -> list[str]:
    return sorted(name for name in json.loads(stage.read("model.safetensors.index.json"))["weight_map"].values())


def test_a_tampered_shard_is_bad_and_named(small: Stage) -> None:
    name = shards(small)[0]
    small.change(name, last_byte)
    found = small.verify()
    for section in ("files", "weights"):
        assert part(found, section).verdict is Verdict.BAD
        assert part(found, section).reason.startswith(name)
    assert found.exit_code == 1
    bad = [piece for piece, verdict, _ in part(found, "weights").items if verdict is Verdict.BAD]
    assert bad == [name]


def test_a_missing_shard_is_bad_and_named(small: Stage) -> None:
    name = shards(small)[-1]
    small.remove(name)
    found = small.verify()
    assert part(found, "files").reason == f"{name}: is locked, and missing from the repository"
    assert part(found, "weights").verdict is Verdict.BAD
    assert name in part(found, "weights").reason


def test_a_shard_that_no_lock_lists_is_bad(small: Stage) -> None:
    small.write("model-00099-of-00099.safetensors", small.read(shards(small)[0]))
    weights = part(small.verify(), "weights")
    assert weights.verdict is Verdict.BAD
    assert "no build from the base makes it" in weights.reason


def test_another_base_accuses_nobody(small: Stage) -> None:
    import shutil

    other = small.work / "other"
    shutil.copytree(small.base, other)
    for path in other.glob("*.safetensors"):
        path.write_bytes(last_byte(path.read_bytes()))
    weights = part(small.verify(base=str(other)), "weights")
    assert weights.verdict is Verdict.UNKNOWN
    assert weights.reason.endswith(".safetensors is not the file that the release pins; give another copy of the base")


def test_a_base_that_is_no_checkpoint_is_bad_input(small: Stage, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: does not exist; is .* a checkpoint"):
        small.verify(base=str(tmp_path))


def test_a_tampered_card_is_bad_and_located(small: Stage) -> None:
    small.change("README.md", lambda data: data.replace(b"1.44 M", b"9.99 M"))
    found = small.verify()
    assert part(found, "files").reason.startswith("README.md: has SHA-256")
    card = part(found, "card")
    assert card.verdict is Verdict.BAD
    assert card.reason.startswith("README.md")
    assert part(found, "weights").verdict is Verdict.GOOD


def test_handwritten_notes_do_not_make_a_card_bad(small: Stage) -> None:
    def noted(data: bytes) -> bytes:
        return data.replace(b"<!-- hand-written: notes -->\n", b"<!-- hand-written: notes -->\nWe had 99 problems.\n")

    small.change("README.md", noted)
    found = small.verify()
    assert found.verdict is Verdict.GOOD, found.text()
    assert part(found, "card").reason.endswith("rendered again with the same bytes, but for 1 hand-written line")


def test_scores_in_handwritten_notes_are_named_and_never_good(small: Stage) -> None:
    def noted(data: bytes) -> bytes:
        note = "Thanks to 3 friends.\n\nIt scores 97.5 % on GPQA.\n\nThe variant keeps 9 of 16 experts per layer.\n"
        kept = f"\n{KEPT}\n<!-- hand-written: old -->\nUp by 12 percentage points.\n<!-- end of hand-written: old -->\n"
        marker = "<!-- hand-written: notes -->\n"
        return data.replace(marker.encode(), f"{marker}{note}".encode()) + kept.encode()

    small.change("README.md", noted)
    found = part(small.verify(), "card")
    assert found.verdict is Verdict.UNKNOWN
    assert "is hand-written: 97.5 % is shown by no claim" in found.reason
    lines = small.read("README.md").decode().splitlines()
    named = {lines[int(name.rpartition(":")[2]) - 1] for name, verdict, _ in found.items if verdict is Verdict.UNKNOWN}
    assert {"It scores 97.5 % on GPQA.", "Up by 12 percentage points."} <= named
    assert "Thanks to 3 friends." not in named


@pytest.mark.parametrize(
    ("path", "change", "piece"),
    [
        ("reproduce/SHA256SUMS", lambda data: data.replace(data[:8], b"00000000", 1), "reproduce/SHA256SUMS"),
        ("reproduce/manifest.yaml", lambda data: data.replace(b"name: small-4e", b"name: other-4e"), "reproduce/lock.json"),
        ("reproduce/map.json", lambda data: data.replace(b"15", b"3"), "reproduce/manifest.yaml"),
        ("reproduce/manifest.yaml", lambda data: data + b"unknown: 1\n", "reproduce/manifest.yaml"),
    ],
)
def test_tampered_records_are_bad_and_named(small: Stage, path: str, change: Callable[[bytes], bytes], piece: str) -> None:
    small.change(path, change)
    consistency = part(small.verify(), "consistency")
    assert consistency.verdict is Verdict.BAD
    assert consistency.reason.startswith(piece), consistency.reason


def test_an_edited_drop_map_is_bad_everywhere_it_matters(small: Stage) -> None:
    def swapped(value: Any) -> None:
        layer = value["layers"]["0"]
        layer["drop"][0], layer["keep"][-1] = layer["keep"][-1], layer["drop"][0]

    small.change_json("reproduce/drop_map.json", swapped)
    found = small.verify()
    assert "the digest inside the map is not the digest of its ids" in part(found, "consistency").reason
    assert part(found, "files").reason.startswith("reproduce/drop_map.json")


def test_another_drop_map_is_bad_and_its_layer_is_named(small: Stage) -> None:
    small.write("reproduce/drop_map.json", json.dumps({**DROPPED, "2": [0, *range(5, 16)]}).encode())
    found = small.verify()
    assert part(found, "consistency").reason.startswith("reproduce/drop_map.json: drops other experts")
    assert "layer 2" in part(found, "consistency").reason
    assert part(found, "card").verdict is Verdict.BAD


def test_a_tampered_lock_is_bad_and_names_the_file(small: Stage) -> None:
    name = shards(small)[0]
    small.change_json("reproduce/lock.json", lambda lock: lock["outputs"][f"weights/{name}"].update(sha256="0" * 64))
    found = small.verify()
    assert part(found, "files").reason.startswith(f"{name}: has SHA-256")
    assert name in part(found, "consistency").reason
    assert part(found, "weights").verdict is Verdict.GOOD, "the bytes are the base's, whatever the lock says"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda inputs: inputs["base"].update(name="org/other"),
            "was made from org/other@None, the manifest names tiny-gemma4-",
        ),
        (
            lambda inputs: inputs["base"].update(revision="f" * 40),
            f"was made from tiny-gemma4-16e@{'f' * 40}, the",
        ),
        (
            lambda inputs: inputs["files"]["map.json"].update(sha256="0" * 64),
            "map.json has another digest than the lock's inputs",
        ),
    ],
)
def test_a_lock_of_other_inputs_is_bad(small: Stage, change: Callable[[Any], None], words: str) -> None:
    small.change_json("reproduce/lock.json", lambda lock: change(lock["inputs"]))
    consistency = part(small.verify(), "consistency")
    assert consistency.verdict is Verdict.BAD
    assert words in consistency.reason


def test_a_lock_that_drops_other_experts_is_bad(small: Stage) -> None:
    small.change_json("reproduce/lock.json", lambda lock: lock["inputs"]["drop_map"].update({"2": [0, *range(5, 16)]}))
    assert "layer 2" in part(small.verify(), "consistency").reason


def test_tampered_claims_are_bad_and_named(small: Stage) -> None:
    def changed(claims: Any) -> None:
        key = next(key for key in sorted(claims) if claims[key].get("unit") == "parameters" or "param" in key)
        claims[key]["value"] = 1

    small.change_json("reproduce/claims.json", changed)
    found = small.verify()
    assert part(found, "files").reason.startswith("reproduce/claims.json")
    card = part(found, "card")
    assert card.verdict is Verdict.BAD
    assert any(name.startswith("reproduce/claims.json") and verdict is Verdict.BAD for name, verdict, _ in card.items)


def test_an_older_commit_is_verified_as_it_was(small: Stage) -> None:
    before = small.verify().commit
    small.change("README.md", lambda data: data.replace(b"1.44 M", b"9.99 M"))
    assert small.verify(revision=before).verdict is Verdict.GOOD
    assert small.verify(revision="v1").commit == before
    assert small.verify().verdict is Verdict.BAD
