from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruner.drop_map import DropMap, drop_map_from_keep, read_drop_map, require_fits
from pruner.errors import InputError
from pruner.families import architecture_of
from tests.conftest import gemma4_config

LAYERS = ("0", "1", "2")
GOOD = {"0": [1, 2], "1": [0, 3], "2": [6, 7]}


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "map.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def fits(drop: dict[str, list[int]], *, experts: int | None = None) -> None:
    drop_map = DropMap({layer: tuple(ids) for layer, ids in drop.items()}, experts)
    require_fits(drop_map, architecture_of(gemma4_config(8, 3), "config.json"), LAYERS, "map.json")


def test_form_and_order_do_not_change_the_digest(tmp_path: Path) -> None:
    bare = read_drop_map(write(tmp_path, json.dumps({"2": [7, 6], "0": [2, 1], "1": [3, 0]}, indent=4)))
    made = drop_map_from_keep(
        [[0, 3, 4, 5, 6, 7], [1, 2, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]], LAYERS, 8, {"ranking": {"method": "x"}}
    )
    assert bare.digest == made.digest
    again = read_drop_map(write(tmp_path, made.envelope(8)))
    assert (again.digest, again.experts, again.drop, again.provenance) == (
        made.digest,
        8,
        made.drop,
        {"ranking": {"method": "x"}},
    )
    fits(GOOD)


def metadata(**changes: Any) -> dict[str, Any]:
    """As pruned checkpoints carry it; upstream's has a name and a word where ours has more, and a path of its machine."""
    keep = {layer: [expert for expert in range(8) if expert not in ids] for layer, ids in GOOD.items()}
    content = {"base_model": "org/base", "method": "norms", "drop_map_file": "/srv/map.json", "original_experts": 8,
               "target_experts": 6, "per_layer_keep": keep, "per_layer_drop": GOOD}  # fmt: skip
    return {key: value for key, value in {**content, **changes}.items() if value is not None}


def test_the_metadata_of_pruned_checkpoints_is_a_map(tmp_path: Path) -> None:
    bare = read_drop_map(write(tmp_path, GOOD))
    found = read_drop_map(write(tmp_path, metadata()))
    assert (found.drop, found.experts, found.digest) == (bare.drop, 8, bare.digest)
    assert found.provenance == {"base_model": {"name": "org/base"}, "ranking": {"method": "norms"}}
    base = {"name": "org/base", "revision": "a" * 40}
    ours = metadata(base_model=base, method={"method": "reap"}, drop_map_digest=bare.digest, drop_map_file=None)
    ours |= {"format": "moe-release/expert-drop-metadata/v1"}
    found = read_drop_map(write(tmp_path, ours))
    assert found.provenance == {"base_model": base, "ranking": {"method": "reap"}}
    assert read_drop_map(write(tmp_path, found.envelope(8))).digest == bare.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"original_experts": None}, "'original_experts' must be the number"),
        ({"original_experts": 9}, "layer 0: keep and drop do not add up to 9 experts"),
        ({"per_layer_keep": None}, "'per_layer_drop' and 'per_layer_keep' must map"),
        ({"per_layer_drop": {}}, "'per_layer_drop' and 'per_layer_keep' must map"),
        ({"per_layer_drop": {**GOOD, "1": [0, 4]}}, "layer 1: keep and drop do not add up to 8 experts"),
        ({"drop_map_digest": "0" * 64}, "is not the digest of its ids"),
    ],
)
def test_metadata_that_contradicts_itself_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_drop_map(write(tmp_path, metadata(**changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "mapping of layers"),
        ("{}", "mapping of layers"),
        ('{"0": [1], "0": [2]}', "appears twice"),
        ('{"0": [1, 1]}', "expert 1 stands twice"),
        ('{"0": [true]}', "list of expert ids"),
        ('{"0": [1.0]}', "list of expert ids"),
        ('{"0": 3}', "list of expert ids"),
        ('{"layer0": [1]}', "unknown key 'layer0'"),
        ('{"\u00b2": [1]}', "unknown key"),
        ('{"00": [1]}', "unknown key '00'"),
        ('{"mtp.0": [1]}', "unknown key 'mtp.0'; layers are numbers in quotes, or 'mtp'"),
        ('{"' + "9" * 5000 + '": [1]}', "unknown key"),
        ('{"format": "other/v9"}', "unknown drop map format"),
        ('{"format": "moe-release/drop-map/v1", "layers": []}', "'layers' must map"),
        ('{"format": "moe-release/drop-map/v1", "layers": {}}', "'experts' must be"),
        ("[" * 100_000, "not usable|not JSON"),
    ],
)
def test_what_is_no_drop_map_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_drop_map(write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_the_multi_token_prediction_block_stands_last_in_both_forms(tmp_path: Path) -> None:
    bare = read_drop_map(write(tmp_path, {"mtp": [3, 1], "10": [0, 1], "2": [5, 4]}))
    assert list(bare.drop.items()) == [("2", (4, 5)), ("10", (0, 1)), ("mtp", (1, 3))]
    again = read_drop_map(write(tmp_path, bare.envelope(8)))
    assert (again.drop, again.digest) == (bare.drop, bare.digest)


def test_an_edited_envelope_is_found(tmp_path: Path) -> None:
    envelope = DropMap({"0": (1,)}).envelope(4)
    with pytest.raises(InputError, match="do not add up"):
        read_drop_map(write(tmp_path, {**envelope, "layers": {"0": {"keep": [0, 2], "drop": [1]}}}))
    with pytest.raises(InputError, match="edited by hand"):
        read_drop_map(write(tmp_path, {**envelope, "layers": {"0": {"keep": [0, 1, 2], "drop": [3]}}}))


@pytest.mark.parametrize(
    ("drop", "experts", "message"),
    [
        (GOOD, 16, "made for 16 experts per layer, the base has 8"),
        ({"0": [1, 2], "1": [0, 3]}, None, "layer 2 is missing"),
        ({**GOOD, "3": [0, 1]}, None, "has no layer 3"),
        ({**GOOD, "2": [7, 8]}, None, "expert 8 is out of range"),
        ({**GOOD, "2": [-1, 7]}, None, "expert -1 is out of range"),
        ({**GOOD, "2": [7]}, None, "drop between 1 and 2 experts"),
        ({layer: [0, 1, 2, 3, 4, 5, 6] for layer in LAYERS}, None, "keeps 1 expert per layer, the router picks 2"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(drop: dict[str, list[int]], experts: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fits(drop, experts=experts)
