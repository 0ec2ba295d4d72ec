"""GGUFs on the rehearsal Hub, cut and proved by ranges with the real client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from pruner.drop_map import DropMap
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import sha256_file
from pruner.hub_source import HubSource, hub_file
from release.gguf.cut import cut, partial_files
from release.gguf.cut_plan import CopyPlan, CutPlan, plan_cut
from release.gguf.cut_proof import prove_cut
from release.gguf.diff import diff_ggufs
from release.gguf.located import LocatedGguf, locate
from release.hub.local import LocalHub
from tests.release.gguf.moe_gguf import DROP, base_and_variant
from tests.release.hub.remote.repositories import Faults

REPO = "org/base-GGUF"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "made").mkdir()
    return base_and_variant(tmp_path / "made")


@pytest.fixture
def address(hub: LocalHub, pair: tuple[Path, Path]) -> str:
    """The base's GGUF in a folder of its repository."""
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo(REPO)
    operations = [CommitOperationAdd("Q8_0/base.gguf", pair[0]), CommitOperationAdd("cut-Q8_0.gguf", pair[1])]
    commit = api.create_commit(REPO, operations, commit_message="quants").oid
    return f"hf://{REPO}@{commit}/Q8_0/base.gguf"


def remote(hub: LocalHub, address: str) -> LocatedGguf:
    return locate(address, endpoint=hub.endpoint, token=hub.token)


def planned(base: LocatedGguf) -> CutPlan:
    return plan_cut(base, DropMap(DROP), name="cut", where="map")


def test_what_a_hub_lists_under_one_digest_is_not_read_to_be_compared(
    hub: LocalHub, faults: Faults, pair: tuple[Path, Path], address: str
) -> None:
    sides = remote(hub, address), remote(hub, address)
    before = faults.sent
    assert diff_ggufs(*sides).equal_bytes
    assert faults.sent == before
    copy = locate(pair[0])
    found = diff_ggufs(copy, sides[0])
    assert (found.equal_bytes, found.tensors) == (True, len(copy.header.tensors))
    assert faults.sent - before > found.bytes[1]


def test_a_remote_base_is_cut_by_ranges(hub: LocalHub, address: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    base = remote(hub, address)
    assert base.label.startswith(f"{REPO}@")
    assert base.label.endswith("/Q8_0/base.gguf")
    result = cut(base, planned(base), tmp_path / "cut.gguf", pinned=[sha256_file(pair[0])])
    assert (tmp_path / "cut.gguf").read_bytes() == pair[1].read_bytes()
    assert result.checked == "listed"


def test_a_pin_is_compared_with_the_listing_before_anything_is_read(
    hub: LocalHub, address: str, tmp_path: Path, faults: Faults
) -> None:
    base = remote(hub, address)
    before = faults.sent
    with pytest.raises(CheckFailedError, match="use the pinned base"):
        cut(base, planned(base), tmp_path / "cut.gguf", pinned=["0" * 64])
    assert faults.sent == before
    assert not list(tmp_path.glob("*.gguf"))


def test_of_a_remote_target_only_header_and_routers_are_read(
    hub: LocalHub, address: str, pair: tuple[Path, Path], faults: Faults
) -> None:
    target = remote(hub, address.replace("/Q8_0/base.gguf", "/cut-Q8_0.gguf"))
    routers = sum(each.size for each in target.header.tensors if each.name.endswith("ffn_gate_inp.weight"))
    before = faults.sent
    proof = prove_cut(target, locate(pair[0]))
    assert proof.good
    assert proof.target.endswith("/cut-Q8_0.gguf")
    assert faults.sent - before == routers


def test_a_line_that_breaks_leaves_what_arrived_for_the_next_run(
    hub: LocalHub, address: str, pair: tuple[Path, Path], tmp_path: Path, faults: Faults
) -> None:
    found = remote(hub, address)
    assert isinstance(found.source, HubSource)
    base = replace(found, source=replace(found.source, pauses=(0.0,), gap=1))  # a request for each range
    plan, out = planned(base), tmp_path / "out" / "cut.gguf"
    answers = iter([None] * 7)
    faults.status = lambda: next(answers, 503)
    with pytest.raises(UnavailableError, match="503"):
        cut(base, plan, out)
    assert not out.exists()
    noted = json.loads(partial_files(out)[1].read_bytes())["bytes"]
    assert 0 < noted < plan.size
    faults.status = lambda: None
    cut(base, plan, out)
    assert out.read_bytes() == pair[1].read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["cut.gguf"]


def test_a_copy_goes_on_where_the_line_broke(
    hub: LocalHub, address: str, pair: tuple[Path, Path], tmp_path: Path, faults: Faults
) -> None:
    found = remote(hub, address)
    assert isinstance(found.source, HubSource)
    base = replace(found, source=replace(found.source, pauses=(0.0,)))
    plan, out, record = CopyPlan(base.name, base.header.file_size), tmp_path / "copy.gguf", tmp_path / "record.json"
    answers = iter([None] * 2)
    faults.status, faults.cut_after = lambda: next(answers, 503), plan.size // 3
    with pytest.raises(UnavailableError):
        cut(base, plan, out, record=record)
    noted = json.loads(partial_files(out)[1].read_bytes())["bytes"]
    assert 0 < noted < plan.size
    assert not out.exists()
    faults.status, faults.cut_after, faults.sent = lambda: None, None, 0
    for _ in range(2):
        result = cut(base, plan, out, record=record)
    assert out.read_bytes() == pair[0].read_bytes()
    assert result.files[0].sha256 == sha256_file(pair[0])
    assert faults.sent == plan.size - noted


def test_a_copy_that_arrives_otherwise_than_listed_is_not_kept(
    hub: LocalHub, address: str, tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    found = remote(hub, address)
    pin = sha256_file(pair[0])

    @dataclass(frozen=True)
    class Damaged(HubSource):
        """The line between us and the Hub, which turns a bit."""

        def blocks(self, name: str, start: int, length: int) -> Iterator[bytes]:
            for block in super().blocks(name, start, length):
                yield block[:-1] + bytes([block[-1] ^ 1])

    assert isinstance(found.source, HubSource)
    source = Damaged(**{each.name: getattr(found.source, each.name) for each in fields(found.source) if each.init})
    plan, out = CopyPlan(found.name, found.header.file_size), tmp_path / "out" / "copy.gguf"
    with pytest.raises(CheckFailedError, match=f"{pin} is pinned"):
        cut(replace(found, source=source), plan, out, pinned=[pin], record=tmp_path / "record.json")
    assert list(out.parent.iterdir()) == []
    assert cut(found, plan, out, pinned=[pin], record=tmp_path / "record.json").files[0].sha256 == pin


@pytest.mark.parametrize("path", ["none.gguf", "Q8_0/none.gguf", "../x.gguf", "Q8_0//base.gguf", "./base.gguf", "/base.gguf"])
@pytest.mark.usefixtures("address")
def test_a_file_that_is_not_there_or_leads_elsewhere(hub: LocalHub, path: str) -> None:
    with pytest.raises((InputError, UnavailableError)) as caught:
        hub_file(REPO, "main", path, endpoint=hub.endpoint, token=hub.token)
    assert "\n" not in str(caught.value)
