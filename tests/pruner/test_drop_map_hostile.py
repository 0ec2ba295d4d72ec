"""A drop map as anybody may have written it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.drop_map import drop_map_from_keep, read_drop_map, require_fits
from pruner.errors import InputError
from pruner.families import architecture_of
from pruner.files import canonical_json
from tests.conftest import gemma4_config
from tests.hostile import FUZZ, assert_read_or_refused, changed_json

LAYERS = ("0", "1", "2")
KEEP = [[0, 3, 4, 5, 6, 7], [1, 2, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]]
ENVELOPE = drop_map_from_keep(KEEP, LAYERS, 8, {"ranking": {"method": "x"}, "base": "org/base"}).envelope(8)
KEPT = dict(zip(LAYERS, KEEP, strict=True))
METADATA = {"base_model": "org/base", "method": {"method": "x"}, "original_experts": 8, "target_experts": 6,
            "per_layer_keep": KEPT, "per_layer_drop": {"0": [1, 2], "1": [0, 3], "2": [6, 7]}}  # fmt: skip
BARE = {"0": [1, 2], "1": [0, 3], "2": [6, 7]}


def used(path: Path) -> None:
    """Read a map and do with it what every command does: check it against the base, write it again."""
    drop_map = read_drop_map(path)
    require_fits(drop_map, architecture_of(gemma4_config(8, 3), "config.json"), LAYERS, str(path))
    canonical_json(drop_map.envelope(8))


@FUZZ
@given(data=st.data(), content=st.sampled_from([ENVELOPE, BARE, METADATA]))
def test_a_drop_map(tmp_path: Path, data: st.DataObject, content: dict[str, object]) -> None:
    path = tmp_path / "map.json"
    path.write_bytes(data.draw(changed_json(content)))
    assert_read_or_refused(lambda: used(path), str(path), path.stat().st_size)


def test_a_file_of_holes_is_not_read_as_a_map(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    with path.open("wb") as file:
        file.truncate(300 << 30)
    with pytest.raises(InputError, match="the drop map is larger than 16,777,216 bytes"):
        read_drop_map(path)
