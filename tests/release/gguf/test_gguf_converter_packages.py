"""What the pinned llama.cpp's converter needs of Python: it must all come with the extra that its remedy names."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from release.gguf.convert import NEEDED_PACKAGES, convert
from release.gguf.reader import read_header, read_strings
from release.gguf.toolchain import Toolchain
from tests.conftest import MANIFESTS
from tests.pruner.family_models import mixtral, save

sentencepiece = pytest.importorskip("sentencepiece", reason="comes with the analysis extra")
pytestmark = [pytest.mark.llama, pytest.mark.torch]

OWN = {"gguf", "conversion"}
OTHERS = {
    "huggingface_hub": "with --remote alone",
    "mistral_common": "of Mistral's own tokenizer files; asked for where it is missing",
}
FAMILIES = ("base", "deepseek", "gemma", "gpt_oss", "llama", "olmo", "qwen")
"""Modules of the converter that know the families in `pruner/families.py`."""


def imported(path: Path) -> set[str]:
    """Packages that a module imports, also within its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found - sys.stdlib_module_names - OWN - OTHERS.keys()


def test_the_packages_are_those_that_the_converter_imports(toolchain: Toolchain) -> None:
    script = toolchain.converter()
    modules = [script, *(script.parent / "conversion" / f"{name}.py" for name in FAMILIES)]
    writers = [script.parent / "gguf-py" / "gguf" / f"{name}.py" for name in ("gguf_writer", "metadata", "vocab")]
    assert set().union(*map(imported, [*modules, *writers])) <= set(NEEDED_PACKAGES)


def test_a_mixtral_with_a_sentencepiece_tokenizer_is_converted(toolchain: Toolchain, tmp_path: Path) -> None:
    model = mixtral()
    save(model, tmp_path / "base")
    sentencepiece.SentencePieceTrainer.train(
        input=str(MANIFESTS / "tiny" / "calibration.txt"),
        model_prefix=str(tmp_path / "base" / "tokenizer"),
        vocab_size=model.config.vocab_size,
        minloglevel=2,
    )
    convert(toolchain, tmp_path / "base", tmp_path / "m.gguf", model_name="tiny", log=tmp_path / "log")
    header = read_header(tmp_path / "m.gguf")
    assert header.value("tokenizer.ggml.model") == "llama"
    assert len(read_strings(header, "tokenizer.ggml.tokens")) == model.config.vocab_size
