"""Conversion of a checkpoint to GGUF by llama.cpp's own script, with the result's metadata checked against the checkpoint."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import read_json, sha256_bytes
from pruner.progress import SILENT, Advance, Progress
from release.gguf.reader import GgufHeader, read_strings
from release.gguf.remote_code import show_without_code
from release.gguf.scratch import OUTPUT, check_output, deliver, scratch_folder, tool_space
from release.gguf.toolchain import CONVERTER, Toolchain
from release.gguf.types import nearest
from release.processes import run_tool

OUTTYPES = ("bf16", "f16", "f32", "q8_0")
NEEDED_PACKAGES = ("torch", "transformers", "numpy", "safetensors", "sentencepiece", "yaml", "tqdm")
KEPT_SUFFIXES = frozenset({".json", ".jinja", ".model", ".safetensors", ".txt"})
"""What the converter gets to see.  Not README.md, whose metadata would flow into the GGUF; no Python code and no pickles, for
the converter asks transformers to trust what stands in the folder."""
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}")
_PERCENT = re.compile(r"^Writing:\s+(\d+)%")


def convert(
    toolchain: Toolchain,
    checkpoint: Path,
    target: Path,
    *,
    model_name: str,
    outtype: str = "bf16",
    log: Path,
    progress: Progress = SILENT,
) -> None:
    """Convert a checkpoint folder to GGUF; the bytes depend on the checkpoint, the name and the toolchain, not on any path.

    Args:
        toolchain: provides convert_hf_to_gguf.py and the gguf package of the same tree.
        checkpoint: folder with safetensors, config and tokenizer; never changed.
        target: appears only when it is complete and checked.
        model_name: goes into `general.name`.
        outtype: `bf16`, `f16`, `f32` or `q8_0`.
        log: the script's output is appended to it.
        progress: counts percent.

    Raises:
        InputError: wrong name or outtype, or a folder that is no checkpoint.
        UnavailableError: the script or a package that it needs is missing, the script fails, or the disk is full.
        CheckFailedError: the GGUF's metadata contradict the checkpoint.
    """
    _check_arguments(checkpoint, model_name, outtype)
    script = toolchain.converter()
    _require_packages()
    with scratch_folder(target) as folder:
        view = _view(checkpoint, folder / model_name)
        options = ["--outfile", OUTPUT, "--outtype", outtype, "--model-name", model_name]
        command: list[Path | str] = [sys.executable, script, view.name, *options]
        with progress.task("converting to GGUF", 100) as advance, tool_space(folder):
            run_tool(command, log=log, folder=folder, environment=_environment(script), on_line=_percent(advance))
        check_metadata(check_output(folder, CONVERTER), checkpoint, model_name)
        deliver(folder, target)


def _check_arguments(checkpoint: Path, model_name: str, outtype: str) -> None:
    if outtype not in OUTTYPES:
        raise InputError(f"outtype {outtype!r}: use one of {', '.join(OUTTYPES)}{nearest(outtype, [*OUTTYPES])}")
    if not MODEL_NAME.fullmatch(model_name):
        raise InputError(f"model name {model_name!r}: use letters, digits, dot, dash, underscore and space, at most 128")
    if not (checkpoint / "config.json").is_file():
        raise InputError(f"{checkpoint}: no config.json; this is no checkpoint folder")
    if not any(checkpoint.glob("*.safetensors")):
        raise InputError(f"{checkpoint}: no .safetensors file; this is no checkpoint folder")


def _require_packages() -> None:
    missing = [name for name in NEEDED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UnavailableError(
            f"{CONVERTER}: needs the Python packages {', '.join(missing)}; run `pip install 'moe-release[analysis]'`"
        )


def _view(checkpoint: Path, view: Path) -> Path:
    """A folder of symbolic links to what the converter may see; its name is fixed because the converter reads it."""
    view.mkdir()
    for path in sorted(checkpoint.iterdir()):
        if path.is_file() and path.suffix in KEPT_SUFFIXES and not path.name.startswith("."):
            show_without_code(path, view / path.name)
    return view


def _environment(script: Path) -> dict[str, str]:
    """No download, no bytecode written into the toolchain, and the gguf package of the script's own tree."""
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(script.parent / "gguf-py"),
        "PYTHONUTF8": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }


def _percent(advance: Advance) -> Callable[[str], None]:
    done = 0

    def on_line(line: str) -> None:
        nonlocal done
        if (found := _PERCENT.match(line)) and int(found[1]) > done:
            advance(int(found[1]) - done)
            done = int(found[1])

    return on_line


def check_metadata(header: GgufHeader, checkpoint: Path, model_name: str) -> None:
    """Compare a converted GGUF with its checkpoint: name, layers, experts, end tokens, chat template.

    Raises:
        CheckFailedError: the first difference, in one line.
    """
    for what, expected, found in _comparisons(header, checkpoint, model_name):
        if expected != found:
            raise CheckFailedError(f"{checkpoint}: the converted GGUF has {what} {found!r}, the checkpoint {expected!r}")


def _comparisons(header: GgufHeader, checkpoint: Path, model_name: str) -> Iterator[tuple[str, Any, Any]]:
    config = read_json(checkpoint / "config.json", "checkpoint config")
    text = config.get("text_config") or config
    yield "the name", model_name, header.value("general.name")
    yield "the layer count", text.get("num_hidden_layers"), header.model_value("block_count")
    if experts := next((text[key] for key in EXPERT_KEYS if text.get(key)), None):
        yield "the expert count", experts, header.model_value("expert_count")
    yield from _end_tokens(header, checkpoint)
    template = header.value("tokenizer.chat_template")
    found = sha256_bytes(template.encode()) if isinstance(template, str) else None
    yield "the chat template with SHA-256", _template_digest(checkpoint), found


def _end_tokens(header: GgufHeader, checkpoint: Path) -> Iterator[tuple[str, Any, Any]]:
    """The tokens that end a text and a turn: their ids, and the text at the turn token's id."""
    settings = _optional_json(checkpoint / "tokenizer_config.json", "tokenizer config")
    ids = _token_ids(checkpoint)
    eos = ids.get(_content(settings.get("eos_token")))
    if eos is not None:
        yield "the eos token id", eos, header.value("tokenizer.ggml.eos_token_id")
    turn = _content(settings.get("eot_token"))
    if turn in ids:
        tokens = read_strings(header, "tokenizer.ggml.tokens")
        yield f"at token id {ids[turn]} the text", turn, tokens[ids[turn]] if ids[turn] < len(tokens) else None
        if (named := header.value("tokenizer.ggml.eot_token_id")) is not None:
            yield "the eot token id", ids[turn], named


def _content(token: Any) -> str:
    """The text of a token in tokenizer_config.json: a string, or an object with `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _token_ids(checkpoint: Path) -> dict[str, int]:
    """Ids of a tokenizer.json by token text; empty when there is none or it has no vocabulary by text."""
    tokenizer = _optional_json(checkpoint / "tokenizer.json", "tokenizer")
    vocabulary = (tokenizer.get("model") or {}).get("vocab")
    ids = dict(vocabulary) if isinstance(vocabulary, Mapping) else {}
    return {**ids, **{added["content"]: added["id"] for added in tokenizer.get("added_tokens", ())}}


def _template_digest(checkpoint: Path) -> str | None:
    """SHA-256 of the chat template's text: chat_template.jinja, or the tokenizer config's own; None when there is none."""
    file = checkpoint / "chat_template.jinja"
    if file.is_file():
        return sha256_bytes(file.read_text(encoding="utf-8").encode())
    template = _optional_json(checkpoint / "tokenizer_config.json", "tokenizer config").get("chat_template")
    return sha256_bytes(template.encode()) if isinstance(template, str) else None


def _optional_json(path: Path, what: str) -> dict[str, Any]:
    value = read_json(path, what) if path.is_file() else {}
    return value if isinstance(value, dict) else {}
