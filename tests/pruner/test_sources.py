from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.errors import InputError, UnavailableError
from pruner.files import git_blob_id
from pruner.plan import ByteRange
from pruner.sources import LocalSource, SourceFile, open_source, read_ranges, read_small, read_source_header

DATA = random.Random(1).randbytes(3_000_000)


class Spy:
    """A source in memory that notes its requests and answers in blocks of awkward sizes."""

    def __init__(self, gap: int, block: int = 7) -> None:
        self.label, self.gap, self.block = "spy", gap, block
        self.content = {"a": DATA[:2000], "b": DATA[2000:2500]}
        self.files = {name: SourceFile(name, len(data)) for name, data in self.content.items()}
        self.requests: list[tuple[str, int, int]] = []

    def state(self, name: str) -> str:
        return name

    def read(self, name: str, start: int, length: int) -> bytes:
        return b"".join(self.blocks(name, start, length))

    def blocks(self, name: str, start: int, length: int) -> Iterator[bytes]:
        self.requests.append((name, start, length))
        wanted = self.content[name][start : start + length]
        assert len(wanted) == length
        yield from (wanted[place : place + self.block] for place in range(0, length, self.block))


ranges = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 400), st.integers(0, 100)).map(lambda words: ByteRange(*words)), max_size=12
)


@given(wanted=ranges, gap=st.sampled_from([0, 1, 50, 10**6]), block=st.sampled_from([1, 7, 64, 5000]))
def test_ranges_give_their_bytes_whatever_is_read_in_one_go(wanted: list[ByteRange], gap: int, block: int) -> None:
    spy = Spy(gap, block)
    expected = b"".join(spy.content[part.file][part.start : part.start + part.length] for part in wanted)
    assert b"".join(read_ranges(spy, wanted)) == expected
    assert len(spy.requests) <= sum(part.length > 0 for part in wanted)


def test_no_block_holds_bytes_of_two_ranges() -> None:
    blocks = list(read_ranges(Spy(100, 5000), [ByteRange("a", 0, 10), ByteRange("a", 10, 20), ByteRange("a", 60, 5)]))
    assert [len(block) for block in blocks] == [10, 20, 5]


def test_near_ranges_are_one_request_and_far_or_backward_ones_are_not() -> None:
    spy = Spy(10)
    list(read_ranges(spy, [ByteRange("a", 0, 10), ByteRange("a", 20, 10), ByteRange("a", 41, 1), ByteRange("a", 0, 1)]))
    assert spy.requests == [("a", 0, 30), ("a", 41, 1), ("a", 0, 1)]


def test_a_folder_and_its_snapshot_of_links_read_alike(tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    folder.mkdir()
    (folder / "x.bin").write_bytes(DATA)
    (folder / "deep").mkdir()
    links = tmp_path / "models--org--my-model" / "snapshots" / ("a" * 40)
    links.mkdir(parents=True)
    (links.parents[1] / "blobs").mkdir()
    (links.parents[1] / "blobs" / "x.bin").write_bytes(DATA)
    (links / "x.bin").symlink_to("../../blobs/x.bin")
    for source in (LocalSource(folder), LocalSource(links), pickle.loads(pickle.dumps(LocalSource(links)))):  # noqa: S301  # our own bytes
        assert source.files == {"x.bin": SourceFile("x.bin", len(DATA))}
        assert source.read("x.bin", 1_000_000, 1_500_000) == DATA[1_000_000:2_500_000]
        assert max(len(block) for block in source.blocks("x.bin", 0, len(DATA))) == 1 << 20
    assert LocalSource(links).label == "org/my-model@aaaaaaaaaaaa"


def test_errors_name_the_file_and_no_path(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "x.bin").write_bytes(DATA[:100])
    source = LocalSource(folder)
    for call, message in (
        (lambda: source.read("x.bin", 50, 51), "base/x.bin: truncated: 1 bytes are missing"),
        (lambda: source.read("y.bin", 0, 1), "base/y.bin: cannot be read: No such file"),
        (lambda: source.read("../base/x.bin", 0, 1), "is no file name"),
        (lambda: read_small(source, "y.bin", "the index"), "base/y.bin: the index does not exist"),
        (lambda: read_small(source, "x.bin", "the index", limit=99), "100 bytes, more than 99"),
        (lambda: read_source_header(source, "x.bin"), "base/x.bin: no safetensors file"),
        (lambda: read_source_header(source, "z.bin"), "base/z.bin: the shard does not exist"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert str(tmp_path) not in str(caught.value)


def test_a_small_file_is_checked_against_the_listed_digest() -> None:
    spy = Spy(0)
    for known in (SourceFile("a", 2000, sha256="0" * 64), SourceFile("a", 2000, blob_id="0" * 40)):
        spy.files["a"] = known
        with pytest.raises(UnavailableError, match="spy/a: arrived with another digest"):
            read_small(spy, "a", "the index")
    spy.files["a"] = SourceFile("a", 2000, blob_id=git_blob_id(DATA[:2000]))
    assert read_small(spy, "a", "the index") == DATA[:2000]


@pytest.mark.parametrize(
    "address", ["hf://", "hf://name", "hf://org/name@", "hf://org/name@a b", "hf://org/name/x", "hf://a/b@c@d"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="expected hf://org/name@revision"):
        open_source(address)


NEAR = {
    "https://huggingface.co/org/x": "hf://org/x",
    "https://huggingface.co/org/x/tree/v1": "hf://org/x@v1",
    "https://huggingface.co/org/x/blob/v1/config.json": "hf://org/x@v1",
    "https://huggingface.co/org/x/commit/0123abc": "hf://org/x@0123abc",
    "hf:/org/x@v1": "hf://org/x@v1",
    "hf:org/x": "hf://org/x",
}


@pytest.mark.parametrize(("name", "what"), [("b.gguf", "is a GGUF file"), ("m.yaml", "is a manifest"), ("x.bin", "is a file")])
def test_a_file_is_not_said_to_be_missing(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=what):
        open_source(tmp_path / name)


def test_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    for text, meant in NEAR.items():
        with pytest.raises(InputError, match=f"write {meant}$"):
            open_source(text)
    for other in (
        str(tmp_path / "nothing"),
        "https://huggingface.co/datasets/org/x",
        "https://huggingface.co/api/models/org/x",
    ):
        with pytest.raises(InputError, match="does not exist; give a folder, or hf://"):
            open_source(other)
