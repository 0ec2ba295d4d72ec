from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pruner.errors import CheckFailedError, InputError, UnavailableError
from release.gguf.imatrix import compute_imatrix, read_imatrix
from release.gguf.reader import read_header
from release.gguf.toolchain import Toolchain


def write_imatrix(path: Path, counts: dict[str, list[float]], *, kind: str = "imatrix", columns: int = 4) -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.add_type(kind)
    writer.add_uint32("imatrix.chunk_count", 5)
    writer.add_uint32("imatrix.chunk_size", 128)
    for name, values in counts.items():
        writer.add_tensor(f"{name}.in_sum2", np.ones((len(values), columns), dtype=np.float32))
        writer.add_tensor(f"{name}.counts", np.array(values, dtype=np.float32).reshape(len(values), 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_experts_that_no_token_reached_are_counted(tmp_path: Path):
    counts = {
        "blk.0.attn_q.weight": [640.0],
        "blk.0.ffn_down_exps.weight": [3.0, 0.0, 5.0, 0.0],
        "blk.0.ffn_gate_up_exps.weight": [3.0, 0.0, 5.0, 0.0],
        "blk.1.ffn_down_exps.weight": [0.0, 1.0, 1.0, 1.0],
    }
    summary = read_imatrix(write_imatrix(tmp_path / "i.gguf", counts))
    assert (summary.chunks, summary.context, summary.entries, summary.experts) == (5, 128, 4, 4)
    assert summary.unreached == {
        "blk.0.ffn_down_exps.weight": (1, 3),
        "blk.0.ffn_gate_up_exps.weight": (1, 3),
        "blk.1.ffn_down_exps.weight": (0,),
    }
    assert summary.unreached_experts == 3
    assert summary.to_json()["unreached_experts"] == 3


def test_a_gguf_of_something_else_is_no_imatrix(tmp_path: Path):
    with pytest.raises(InputError, match="is no imatrix"):
        read_imatrix(write_imatrix(tmp_path / "m.gguf", {}, kind="model"))


def test_an_imatrix_of_the_older_form_is_told_from_the_newer(tmp_path: Path):
    (tmp_path / "i.dat").write_bytes(b"\x02\0\0\0\x13\0\0\0blk.0.attn_q.weight" + bytes(64))
    with pytest.raises(InputError, match=r"i\.dat: is no imatrix in GGUF form; .*`llama-imatrix --in-file`"):
        read_imatrix(tmp_path / "i.dat")
    with pytest.raises(InputError, match="cannot be read"):
        read_imatrix(tmp_path / "none.gguf")


@pytest.mark.llama
def test_bytes_depend_on_neither_folder_nor_threads(
    toolchain: Toolchain, model: Path, text: Path, imatrix: Path, tmp_path: Path, recorder: Any
):
    other_text = tmp_path / "another name.txt"
    shutil.copy(text, other_text)
    shutil.copy(model, tmp_path / "other.gguf")
    target = tmp_path / "deep" / "er" / "i.gguf"
    summary = compute_imatrix(
        *(toolchain, tmp_path / "other.gguf", other_text, target),
        chunks=4,
        context=128,
        threads=1,
        log=tmp_path / "log",
        progress=recorder,
    )
    data = target.read_bytes()
    assert data == imatrix.read_bytes()
    assert str(tmp_path).encode() not in data
    assert b"another name" not in data
    assert recorder.done == {"calibrating": 4}
    assert (summary.chunks, summary.context) == (4, 128)
    assert summary.experts == read_header(model).model_value("expert_count")
    assert [path.name for path in target.parent.iterdir()] == ["i.gguf"]


@pytest.mark.llama
@pytest.mark.parametrize("content", ["the name of it", "the name of it " * 20])
def test_a_text_that_is_too_short_says_so(toolchain: Toolchain, model: Path, tmp_path: Path, content: str):
    (tmp_path / "short.txt").write_text(content)
    # llama-imatrix may lose its last lines; then the error is the tool's, with a hint.
    expected = r"short\.txt: the calibration text has \d+ (bytes|tokens), two chunks need 256|if the text is short: two chunks"
    with pytest.raises((InputError, UnavailableError), match=expected) as caught:
        compute_imatrix(
            *(toolchain, model, tmp_path / "short.txt", tmp_path / "i.gguf"),
            chunks=1,
            context=128,
            threads=1,
            log=tmp_path / "log",
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "i.gguf").exists()


@pytest.mark.llama
def test_a_missing_text_and_a_truncated_model_are_input_errors(toolchain: Toolchain, model: Path, text: Path, tmp_path: Path):
    options = {"chunks": 1, "context": 128, "threads": 1, "log": tmp_path / "log"}
    with pytest.raises(InputError, match=r"none\.txt: calibration text does not exist"):
        compute_imatrix(toolchain, model, tmp_path / "none.txt", tmp_path / "i.gguf", **options)
    (tmp_path / "cut.gguf").write_bytes(model.read_bytes()[:-4096])
    with pytest.raises(InputError, match="truncated GGUF"):
        compute_imatrix(toolchain, tmp_path / "cut.gguf", text, tmp_path / "i.gguf", **options)


@pytest.mark.llama
def test_a_full_disk_is_named_and_leaves_nothing(toolchain: Toolchain, model: Path, text: Path, tmp_path: Path, tiny_disk: Any):
    disk = tiny_disk("64k")
    with pytest.raises(UnavailableError, match="no space left on the disk") as caught:
        compute_imatrix(toolchain, model, text, disk / "i.gguf", chunks=2, context=128, threads=1, log=tmp_path / "log")
    assert "\n" not in str(caught.value)
    assert list(disk.iterdir()) == []


BROKEN = {
    "killed": (
        "pathlib.Path('output.gguf').write_bytes(b'GGUF half'); os.kill(os.getpid(), signal.SIGKILL)",
        "killed by signal 9",
    ),
    "crashing": ("print('out of luck'); sys.exit(7)", "failed with exit code 7: out of luck"),
    "half written": ("pathlib.Path('output.gguf').write_bytes(b'GGUF')", "output is unusable: truncated"),
    "writing nothing": ("pass", "output is unusable: GGUF cannot be read"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_tool_gets_one_line_and_leaves_nothing(
    tmp_path: Path, how: str, fake_tools: Callable[[dict[str, str]], Toolchain]
):
    body, expected = BROKEN[how]
    toolchain = fake_tools({"llama-imatrix": f"if '--version' in sys.argv: sys.exit()\n{body}"})
    model = write_imatrix(tmp_path / "model.gguf", {}, kind="model")
    (tmp_path / "text.txt").write_text("words " * 99)
    (tmp_path / "out").mkdir()
    with pytest.raises((UnavailableError, CheckFailedError), match=expected) as caught:
        compute_imatrix(
            *(toolchain, model, tmp_path / "text.txt", tmp_path / "out" / "i.gguf"),
            chunks=1,
            context=128,
            threads=1,
            log=tmp_path / "log",
        )
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []
