"""The statistics file: canonical, small, checked, and joined from shards without a trace."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from pruner.errors import InputError
from pruner.files import sha256_file
from pruner.ranking import coverage, reap, score
from pruner.statistics import (
    HEADER_KEY,
    ExpertStatistics,
    QuestionSums,
    merge,
    read_statistics,
    select,
    statistics_bytes,
    write_statistics,
)
from tests.hostile import assert_read_or_refused

from .make import header_for, random_statistics, statistics_of


def test_round_trip(tmp_path: Path):
    written = random_statistics()
    digest = write_statistics(tmp_path / "statistics.safetensors", written)
    read = read_statistics(tmp_path / "statistics.safetensors")
    assert digest == sha256_file(tmp_path / "statistics.safetensors")
    assert read.header == written.header
    for scope in ("all", "answer"):
        before, after = written.sums(scope), read.sums(scope)
        np.testing.assert_array_equal(after.count, before.count)
        for name in ("weighted_norm", "weighted_norm_squared", "norm", "weight"):
            np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-6, atol=0, err_msg=name)
    for name in ("tokens", "answer_tokens", "skipped", "truncated"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))


@pytest.mark.parametrize("seed", range(20))
def test_reading_and_writing_again_changes_nothing(tmp_path: Path, seed: int):
    path = tmp_path / "statistics.safetensors"
    write_statistics(path, random_statistics(seed=seed, questions=30))
    assert statistics_bytes(read_statistics(path)) == path.read_bytes()


def test_a_value_that_rounds_up_to_a_power_of_two(tmp_path: Path):
    statistics = statistics_of([[[1.99999, 0.3, 0.0001], [np.nextafter(4.0, 0), 2.0, 0.0]]])
    path = tmp_path / "statistics.safetensors"
    write_statistics(path, statistics)
    assert statistics_bytes(read_statistics(path)) == path.read_bytes()


def test_size_for_the_real_model(tmp_path: Path):
    path = tmp_path / "statistics.safetensors"
    write_statistics(path, random_statistics(questions=196, layers=30, experts=128))
    assert path.stat().st_size < 20_000_000


def test_one_metadata_key_with_canonical_json_and_no_path(tmp_path: Path):
    path = tmp_path / "statistics.safetensors"
    write_statistics(path, random_statistics())
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert list(header["__metadata__"]) == [HEADER_KEY]
    text = header["__metadata__"][HEADER_KEY]
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert str(tmp_path) not in text
    assert "/" not in json.loads(text)["base"]


def test_bytes_do_not_change_from_process_to_process(tmp_path: Path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from make import random_statistics;"
        "from pruner.statistics import statistics_bytes; from pruner.files import sha256_bytes;"
        "print(sha256_bytes(statistics_bytes(random_statistics())))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    root = Path(__file__).parents[3]
    digests = {
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=root, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_reading_needs_no_torch():
    code = "import sys, pruner.statistics, pruner.ranking, pruner.calibration; print('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root).stdout == "False\n"
    )


@pytest.mark.parametrize("deal", [[[0, 1, 2, 3, 4]], [[0, 3], [1, 4], [2]], [[2], [4, 1], [3, 0]]])
def test_shards_join_to_the_same_bytes(tmp_path: Path, deal: list[list[int]]):
    whole = random_statistics(questions=5)
    parts = []
    for number, rows in enumerate(deal):
        write_statistics(tmp_path / f"{number}", select(whole, rows))
        parts.append(read_statistics(tmp_path / f"{number}"))
    assert [part.complete for part in parts] == [len(deal) == 1] * len(deal)
    assert statistics_bytes(merge(parts)) == statistics_bytes(whole)
    assert statistics_bytes(merge(parts[::-1])) == statistics_bytes(whole)
    assert merge(parts).complete


def test_shards_that_do_not_belong_together():
    whole = random_statistics(questions=4)
    with pytest.raises(InputError, match="no expert statistics were given"):
        merge([])
    with pytest.raises(InputError, match="a question stands in two parts"):
        merge([select(whole, [0, 1]), select(whole, [1, 2])])
    other = random_statistics(questions=4, dtype="float32", base="0" * 64)
    with pytest.raises(InputError, match="part 2 differs from part 1 in base, dtype"):
        merge([select(whole, [0, 1]), select(other, [2, 3])])


def test_a_file_ranks_as_the_measurement_did(tmp_path: Path):
    statistics = random_statistics(questions=40, layers=4, experts=32, seed=3)
    write_statistics(tmp_path / "s", statistics)
    read = read_statistics(tmp_path / "s")
    for method in (coverage, score, reap):
        assert method(read) == method(statistics)


def save_with(path: Path, statistics: ExpertStatistics, **changes: Any) -> None:
    write_statistics(path, dataclasses.replace(statistics, **changes))


def test_damaged_files_are_refused(tmp_path: Path):
    path = tmp_path / "statistics.safetensors"
    with pytest.raises(InputError, match="does not exist; `moe-release analyze` makes"):
        read_statistics(path)
    write_statistics(path, random_statistics())
    data = path.read_bytes()
    for broken in (b"", data[:7], data[: len(data) // 2], b"\xff" * 64, data + b"x"):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="cannot be read"):
            read_statistics(path)
    path.write_bytes(data.replace(b"moe_release", b"moe_releasf"))
    with pytest.raises(InputError, match="are no expert statistics"):
        read_statistics(path)
    path.write_bytes(data.replace(b"expert-statistics/v2", b"expert-statistics/v9"))
    with pytest.raises(InputError, match="format"):
        read_statistics(path)
    path.write_bytes(data.replace(b'"all.norm"', b'"all.gone"'))
    with pytest.raises(InputError, match=r"lack the array 'all\.norm'"):
        read_statistics(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"experts\":8", r"experts\":9"),
        (r"layers\":[0,1,2]", r"layers\":[0,1]  "),
        (r"max_tokens\":4096", r"max_tokens\":8192"),
        (r"positions\":[0,1,2,3,4]", r"positions\":[0,1,2,3]  "),
        (r"positions\":[0,1,2,3,4]", r"positions\":[1,0,2,3,4]"),
        (r"positions\":[0,1,2,3,4]", r"positions\":[0,1,2,3,5]"),
        (r"positions\":[0,1,2,3,4]", r"positions\":[0,1,1,3,4]"),
    ],
)
def test_arrays_that_do_not_fit_the_header_are_refused(tmp_path: Path, old: str, new: str):
    path = tmp_path / "statistics.safetensors"
    write_statistics(path, random_statistics())
    data = path.read_bytes()
    assert data.count(old.encode()) == 1
    path.write_bytes(data.replace(old.encode(), new.encode()))
    with pytest.raises(InputError, match=r"fit their header|lack the array 'all.count.high'"):
        read_statistics(path)


@pytest.mark.parametrize(
    ("count", "norm", "message"),
    [(4097, 1.0, "count of tokens is not 0 to 4096"), (-1, 0.0, "is not 0 to 4096"), (0, 1.0, "no token was routed to")],
)
def test_sums_of_no_tokens_are_not_written(tmp_path: Path, count: int, norm: float, message: str):
    with pytest.raises(ValueError, match=message):
        write_statistics(tmp_path / "s", statistics_of([[[norm, 2.0]]], [[[count, 1]]]))
    assert not list(tmp_path.iterdir())


def test_sums_that_are_not_of_the_headers_shape_are_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match="are none of the header's"):
        save_with(tmp_path / "s", random_statistics(), header=header_for(3, 9, 5))


def test_a_row_with_a_sum_that_is_not_finite_stays_damaged(tmp_path: Path):
    statistics = statistics_of([[[np.nan, 1.0, 0.0], [1e39, 1.0, 0.0]]])
    write_statistics(tmp_path / "s", statistics)
    read = read_statistics(tmp_path / "s").sums("all")
    for sums in (read.norm, read.weighted_norm, read.weighted_norm_squared):
        assert np.isnan(sums[0, 0, :2]).all()
        assert sums[0, 0, 2] == 0
    np.testing.assert_allclose(read.weighted_norm[0, 1], [1e39, 1, 0], atol=1e30)
    assert statistics_bytes(read_statistics(tmp_path / "s")) == (tmp_path / "s").read_bytes()


def test_a_sum_of_squares_that_is_not_finite_is_not_hidden(tmp_path: Path):
    whole = statistics_of([[[3.0, 1.0]]])
    sums = dataclasses.replace(whole.question(0).all, weighted_norm_squared=np.array([[np.inf, 1.0]]))
    write_statistics(tmp_path / "s", dataclasses.replace(whole, question=lambda _row: QuestionSums(sums, sums)))
    assert np.isnan(read_statistics(tmp_path / "s").sums("all").weighted_norm_squared).all()


def test_a_negative_sum_of_weights_keeps_its_sign(tmp_path: Path):
    whole = statistics_of([[[3.0, 1.0, 2.0]]])
    sums = dataclasses.replace(whole.question(0).all, weight=np.array([[-0.5, 0.25, -3.0]]))
    write_statistics(tmp_path / "s", dataclasses.replace(whole, question=lambda _row: QuestionSums(sums, sums)))
    np.testing.assert_array_equal(read_statistics(tmp_path / "s").sums("answer").weight, [[[-0.5, 0.25, -3.0]]])


@pytest.mark.parametrize("max_tokens", [4096, 4097, 32767])
def test_counts_are_exact_up_to_the_limit(tmp_path: Path, max_tokens: int):
    counts = [[[0, 1, 255, 256, 257, 4095, 4096, max_tokens]]]
    write_statistics(tmp_path / "s", statistics_of(np.sign(counts), counts, max_tokens=max_tokens))
    assert read_statistics(tmp_path / "s").sums("all").count.tolist() == counts
    assert statistics_bytes(read_statistics(tmp_path / "s")) == (tmp_path / "s").read_bytes()


def test_small_means_lose_digits_only_far_below_the_largest(tmp_path: Path):
    values = 1.2345678 * 2.0 ** -np.arange(0, 16)
    write_statistics(tmp_path / "s", statistics_of([[values]]))
    np.testing.assert_allclose(read_statistics(tmp_path / "s").sums("all").weighted_norm[0, 0, :15], values[:15], rtol=2**-20)


@pytest.mark.parametrize("seed", range(5))
def test_hostile_arrays_are_read_or_refused_without_a_traceback(tmp_path: Path, seed: int):
    """Any bytes may stand where sums should."""
    path = tmp_path / "s"
    write_statistics(path, statistics_of([[[1.0, 2.0]]], max_tokens=1000))
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    noise = np.random.default_rng(seed).integers(0, 256, len(data) - start, dtype=np.uint8).tobytes()
    path.write_bytes(data[:start] + noise)
    assert_read_or_refused(lambda: statistics_bytes(read_statistics(path)), str(path), len(data))


def test_the_bytes_are_those_that_the_library_writes(tmp_path: Path):
    path = tmp_path / "statistics.safetensors"
    write_statistics(path, random_statistics(seed=2))
    with safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        metadata = file.metadata()
    assert save(arrays, metadata=metadata) == path.read_bytes()
