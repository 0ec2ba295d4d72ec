from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pruner.errors import InputError
from pruner.safetensors_format import Metadata, build_header, data_order, read_header

NAMES = ["b", "a", "é\u2028", 'quote"\\', "\x7f\x01", "z.0", "z.10", "z.9"]
DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]


@pytest.mark.parametrize("metadata", ["none", "pt"])
@pytest.mark.parametrize("name", NAMES)
def test_header_bytes_equal_the_librarys(tmp_path: Path, metadata: Metadata, name: str) -> None:
    arrays = {f"{name}{number}": np.zeros((number + 1, 2), dtype) for number, dtype in enumerate(DTYPES)}
    arrays["scalar"] = np.zeros((), np.float32)
    save_file(arrays, tmp_path / "x", metadata={"format": "pt"} if metadata == "pt" else None)
    header = read_header(tmp_path / "x")
    found = {tensor.name: tensor for tensor in header.tensors}
    order = data_order((tensor.name, tensor.dtype) for tensor in header.tensors)
    assert order == [tensor.name for tensor in header.tensors]
    built = build_header(((key, found[key].dtype, found[key].shape) for key in order), metadata)
    assert built == (tmp_path / "x").read_bytes()[: header.data_start]


@pytest.mark.torch
def test_every_torch_dtype_is_ordered_as_the_library_does(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the analysis extra")
    from safetensors.torch import save_file as save_torch

    names = (
        "uint8 int8 float8_e5m2 float8_e4m3fn float8_e8m0fnu float8_e4m3fnuz float8_e5m2fnuz float4_e2m1fn_x2 int16 uint16 "
        "float16 bfloat16 int32 uint32 float32 complex64 float64 int64 uint64"
    )
    tensors = {f"t{i}": torch.zeros(16, dtype=torch.uint8).view(getattr(torch, name)) for i, name in enumerate(names.split())}
    save_torch({**tensors, "flag": torch.zeros(3, dtype=torch.bool)}, tmp_path / "x")
    header = read_header(tmp_path / "x")
    order = data_order((tensor.name, tensor.dtype) for tensor in reversed(header.tensors))
    assert order == [tensor.name for tensor in header.tensors]
    assert len(order) == 20


def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(InputError, match=r"is a pointer of Git LFS and not the file; fetch it with `git lfs pull`"):
        read_header(path)
