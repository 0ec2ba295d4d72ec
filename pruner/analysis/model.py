"""Loading a base for the analysis, and what of it must be pinned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pruner.analysis.experts import IMPLEMENTATION, RECORDER, Recorder, register
from pruner.analysis.quantized import unpacking
from pruner.errors import InputError, UnavailableError
from pruner.files import digest_of, read_json, sha256_file

if TYPE_CHECKING:
    import torch

INSTALL = "pip install 'moe-release[analysis]'"
LIBRARIES = ("numpy", "tokenizers", "torch", "transformers")
DTYPES = ("auto", "float32", "bfloat16", "float16")
LARGEST_FUSED_HEAD = 256
"""Fused attention kernels stop at this head dimension; Gemma 4's global layers have 512."""
TOKENIZER_FILES = (
    "added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "vocab.json",
)  # fmt: skip
BASE_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json")


@dataclass(frozen=True)
class MeasuredModel:
    """A base whose experts are being measured."""

    model: Any
    """The transformers model, in evaluation mode."""
    layers: tuple[int, ...]
    """Number of each MoE layer in the model, ascending."""
    recorders: tuple[Recorder, ...]
    """One per MoE layer, in the same order."""
    experts: int
    top_k: int
    model_type: str
    attention: str
    dtype: str


def require_libraries() -> None:
    """Raise UnavailableError, with the command that mends it, when torch or transformers is not installed."""
    try:
        import torch
        import transformers

        del torch, transformers
    except ImportError as error:
        raise UnavailableError(f"the expert analysis needs {error.name}; install it with `{INSTALL}`") from None


def library_versions() -> dict[str, str]:
    """Versions of the libraries that have a part in the numbers."""
    return {name: version(name) for name in LIBRARIES}


def base_digest(folder: Path) -> str:
    """Digest of the names and SHA-256 of the files that make the base: shards, index and config.

    Raises:
        InputError: the folder holds no safetensors shard or no config.
    """
    files = sorted({path for pattern in BASE_FILES for path in folder.glob(pattern)})
    if not any(path.suffix == ".safetensors" for path in files):
        raise InputError(f"{folder}: no .safetensors file; the base must be a folder with safetensors shards")
    return digest_of({path.name: sha256_file(path) for path in files})


def tokenizer_digest(folder: Path) -> str:
    """Digest of the names and SHA-256 of the tokenizer's files."""
    return digest_of({name: sha256_file(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()})


def load_tokenizer(folder: Path) -> Any:
    """The base's tokenizer, from the folder alone.

    Raises:
        InputError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: the tokenizer cannot be loaded: {_one_line(error)}") from None


def attention_for(folder: Path) -> str | None:
    """`eager` where some head is wider than the fused kernels allow, else None: the architecture's default.

    Every `head_dim` and `global_head_dim` anywhere in config.json counts.
    """
    return "eager" if _widest_head(read_json(folder / "config.json", "the base's config")) > LARGEST_FUSED_HEAD else None


def _widest_head(config: Any) -> int:
    if isinstance(config, list):
        return max((_widest_head(value) for value in config), default=0)
    if not isinstance(config, dict):
        return 0
    named = [value for key, value in config.items() if key in {"head_dim", "global_head_dim"} and isinstance(value, int)]
    return max([*named, *(_widest_head(value) for value in config.values())], default=0)


def load_measured(folder: Path, dtype: torch.dtype | Literal["auto"] = "auto", *, device: str = "cpu") -> MeasuredModel:
    """Load a base so that its experts run through `measured_experts`.

    Args:
        folder: a checkpoint in safetensors with its config; nothing is fetched and no code of the checkpoint is run.
        dtype: of its weights, to which packed ones are unpacked; `auto` is the checkpoint's own.
        device: where the forward passes run.

    Raises:
        InputError: the checkpoint cannot be loaded, is incomplete, or has no experts that transformers' registry runs.
        UnavailableError: unpacking it needs a library that is not installed.
    """
    register()
    model, problems = _load(folder, dtype)
    missing = sorted({*problems["missing_keys"], *(str(key) for key in problems.get("mismatched_keys", ()))})
    if missing:
        raise InputError(f"{folder}: the base lacks {len(missing)} of its model's tensors, the first is {missing[0]}")
    return measured_model(model.to(device).eval(), folder)


def measured_model(model: Any, folder: Path) -> MeasuredModel:
    """Put a recorder at the experts of each MoE layer of a model.

    Raises:
        InputError: it has no experts that transformers' registry runs, or layers with different numbers of them.
    """
    found = experts_modules(model)
    if not found:
        raise InputError(f"{folder}: {model.config.model_type} has no experts that the analysis can measure")
    sizes = {module.num_experts for _, module in found}
    if len(sizes) != 1:
        raise InputError(f"{folder}: layers with different numbers of experts ({sorted(sizes)}) are not supported")
    recorders = tuple(Recorder() for _ in found)
    for (_, module), recorder in zip(found, recorders, strict=True):
        setattr(module, RECORDER, recorder)
    return MeasuredModel(
        model=model,
        layers=tuple(layer for layer, _ in found),
        recorders=recorders,
        experts=sizes.pop(),
        top_k=_top_k(model.config.get_text_config(), folder),
        model_type=model.config.model_type,
        attention=text_attention(model),
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _load(folder: Path, dtype: torch.dtype | str) -> tuple[Any, dict[str, Any]]:
    with loading_errors(folder), quiet_transformers():
        config = config_of(folder)
        options = {
            "attn_implementation": attention_for(folder),
            "experts_implementation": IMPLEMENTATION,
            "quantization_config": unpacking(config, folder),
        }
        result: tuple[Any, dict[str, Any]] = model_class(config).from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **{key: value for key, value in options.items() if value is not None},
        )
    return result


def config_of(folder: Path) -> Any:
    """The config of a checkpoint as transformers reads it; no code of the checkpoint is run."""
    import transformers

    return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def model_class(config: Any) -> Any:
    """The class that the config names, or transformers' choice."""
    import transformers

    return getattr(transformers, (config.architectures or [""])[0], None) or transformers.AutoModelForCausalLM


@contextmanager
def loading_errors(folder: Path) -> Iterator[None]:
    """Turn what transformers and safetensors raise over a checkpoint into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except ImportError as error:
        raise UnavailableError(f"{folder}: the base cannot be loaded: {_one_line(error)}") from None
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: the base cannot be loaded: {_one_line(error)}") from None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own bars and remarks off the screen; what matters of them is said by what we raise."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def experts_modules(model: Any) -> list[tuple[int, Any]]:
    """Every (layer number, experts module) that runs through transformers' registry, by layer number."""
    found = []
    for name, module in model.named_modules():
        layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
        if layer and hasattr(module, "has_post_expert_norm") and hasattr(module, "num_experts"):
            found.append((int(layer.group(1)), module))
    return sorted(found, key=lambda pair: pair[0])


def _top_k(config: Any, folder: Path) -> int:
    for name in ("top_k_experts", "num_experts_per_tok"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise InputError(f"{folder}: config.json does not say how many experts a token is routed to")


def text_attention(model: Any) -> str:
    """Name of the attention implementation that the text model uses."""
    return str(model.config.get_text_config()._attn_implementation)  # noqa: SLF001 - transformers has no public name for it


def _one_line(error: Exception) -> str:
    """What is raised, without its reference to a report that `quiet_transformers` keeps off the screen."""
    return " ".join(str(error).split()).partition(" For details look at")[0][:300]
