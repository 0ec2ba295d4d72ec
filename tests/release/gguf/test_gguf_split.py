from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pruner.errors import CheckFailedError, UnavailableError
from pruner.files import sha256_file
from release.gguf.perplexity import Predictions, compare_quant, predict
from release.gguf.reader import read_header
from release.gguf.shards import shard_names
from release.gguf.split import split_gguf
from release.gguf.summary import summarize
from release.gguf.toolchain import Toolchain

FakeTools = Callable[[Mapping[str, str]], Toolchain]


def test_names_follow_llama_cpp():
    assert shard_names("Model-Q6_K", 2) == ["Model-Q6_K-00001-of-00002.gguf", "Model-Q6_K-00002-of-00002.gguf"]


@pytest.mark.llama
def test_shards_hold_the_tensors_of_the_file_and_load_from_the_first(
    toolchain: Toolchain, model: Path, text: Path, tmp_path: Path, recorder: Any
):
    whole = summarize(model)
    shards = split_gguf(
        *(toolchain, model, tmp_path / "out" / "Model-BF16"),
        max_bytes=1_999_999,
        tensor_digest=whole.tensor_digest,
        log=tmp_path / "log",
        progress=recorder,
    )
    assert len(shards) > 2
    names = [name for name, _ in shards]
    assert names == shard_names("Model-BF16", len(shards)) == sorted(path.name for path in (tmp_path / "out").iterdir())
    for name, summary in shards:
        path = tmp_path / "out" / name
        assert (sha256_file(path), path.stat().st_size) == (summary.sha256, summary.file_size)
        assert sum(tensor.size for tensor in read_header(path).tensors) <= 10**6, "rounded down to whole megabytes"
    found = sorted(tensor.name for _, summary in shards for tensor in summary.tensors)
    assert found == sorted(tensor.name for tensor in whole.tensors)
    log = tmp_path / "log"
    predictions = predict(toolchain, model, text, tmp_path / "p.bin", chunks=4, context=64, threads=1, log=log)
    assert isinstance(predictions, Predictions)
    divergence, _ = compare_quant(toolchain, tmp_path / "out" / names[0], predictions, threads=1, log=log, title="x")
    assert divergence.kl_divergence.value < 1e-5
    again = split_gguf(
        *(toolchain, model, tmp_path / "elsewhere" / "Model-BF16"),
        max_bytes=10**6,
        tensor_digest=whole.tensor_digest,
        log=log,
    )
    assert [summary.sha256 for _, summary in again] == [summary.sha256 for _, summary in shards]


@pytest.mark.llama
def test_a_full_disk_leaves_nothing(
    toolchain: Toolchain, model: Path, tmp_path: Path, tiny_disk: Any, monkeypatch: pytest.MonkeyPatch
):
    disk = tiny_disk("2m")
    arguments: dict[str, Any] = {"max_bytes": 10**6, "tensor_digest": "0" * 64, "log": tmp_path / "log"}
    with pytest.raises(UnavailableError, match="splitting a GGUF needs"):
        split_gguf(toolchain, model, disk / "m", **arguments)
    monkeypatch.setattr("release.gguf.split.require_space", lambda *_: None)
    with pytest.raises((UnavailableError, CheckFailedError)) as caught:
        split_gguf(toolchain, model, disk / "m", **arguments)
    assert "no space left on the disk" in str(caught.value)
    assert list(disk.iterdir()) == []


COPY = "data = open('model.gguf', 'rb').read()\n"
BROKEN = {
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
    "writing nothing": ("pass", "not numbered 1 to 0"),
    "missing a number": (COPY + "open('shard-00002-of-00002.gguf', 'wb').write(data)", "not numbered 1 to 1"),
    "of another count": (COPY + "open('shard-00001-of-00001.gguf', 'wb').write(data)", "does not say that it is one of 1"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_tool_gets_one_line_and_leaves_nothing(tmp_path: Path, small_model: Path, fake_tools: FakeTools, how: str):
    body, expected = BROKEN[how]
    tools = fake_tools({"llama-gguf-split": body})
    with pytest.raises((CheckFailedError, UnavailableError), match=expected) as caught:
        split_gguf(tools, small_model, tmp_path / "out" / "m", max_bytes=10**6, tensor_digest="0" * 64, log=tmp_path / "log")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.llama
def test_shards_of_other_tensors_are_found(toolchain: Toolchain, model: Path, tmp_path: Path):
    with pytest.raises(CheckFailedError, match="do not hold the tensors of the file"):
        split_gguf(toolchain, model, tmp_path / "out" / "m", max_bytes=10**6, tensor_digest="0" * 64, log=tmp_path / "log")
    assert list((tmp_path / "out").iterdir()) == []
