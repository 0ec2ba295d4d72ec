"""A base that is larger than memory: a model whose decoder layers are empty until their turn comes.

The model's own forward pass runs for every layer, so that masks, positions and the order of all operations are exactly those
of the whole model; layers before the one whose turn it is hand on what they are given, and the pass ends behind it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.analysis.model import MeasuredModel, config_of, loading_errors, quiet_transformers
from pruner.analysis.outline import Outline
from pruner.errors import InputError

if TYPE_CHECKING:
    import torch

MODEL_TYPES = frozenset({"gemma4", "qwen3_moe", "olmoe", "mixtral", "gpt_oss"})
"""Families in which a decoder layer needs nothing of the layers before it but their hidden states."""


class _PassEndsError(Exception):
    """Ends a forward pass behind the layer whose turn it is."""


class _Turn(threading.local):
    """What the thread's forward pass is to do: run layer `layer` on `hidden`; None: only embed the tokens."""

    layer: int | None = None
    hidden: torch.Tensor | None = None
    result: torch.Tensor | None = None


@dataclass(frozen=True)
class LayeredModel:
    """A measured model of which no weight is in memory outside of `loaded`."""

    measured: MeasuredModel
    layers: tuple[Any, ...]
    """All decoder layers, those without experts too."""
    _embedding: Any
    _names: dict[str, tuple[str, ...]]
    """For each part ("embedding" or the number of a layer) the names of its tensors in the checkpoint."""
    _files: dict[str, Path]
    _load: Callable[[dict[str, Any]], None]
    _device: str
    _turn: _Turn = field(default_factory=_Turn)

    @contextmanager
    def loaded(self, layer: int | None) -> Iterator[None]:
        """Read the weights of a layer, or with None those of the embedding; they are dropped at the end.

        Raises:
            InputError: a shard is damaged.
        """
        part, module = ("embedding", self._embedding) if layer is None else (str(layer), self.layers[layer])
        self._read(self._names[part])
        try:
            module.to(self._device)
            yield
        finally:
            module.to("meta")

    def _read(self, names: Sequence[str]) -> None:
        """Fill the tensors of these names.  The shards are closed at the end, so that their pages leave memory too."""
        from safetensors import safe_open

        with ExitStack() as opened, loading_errors(self._files[names[0]].parent):
            shards = {path: opened.enter_context(safe_open(path, "pt")) for path in {self._files[name] for name in names}}
            self._load({name: shards[self._files[name]].get_slice(name) for name in names})

    def embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Hidden states [1, T, H] before the first layer; needs `loaded(None)`."""
        return self._pass(token_ids, None, None)

    def run(self, layer: int, token_ids: Sequence[int], hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [1, T, H] behind a layer from those before it; needs `loaded(layer)`.

        The layer's experts are recorded as in a whole forward pass.
        """
        return self._pass(token_ids, layer, hidden)

    def _pass(self, token_ids: Sequence[int], layer: int | None, hidden: torch.Tensor | None) -> torch.Tensor:
        import torch

        self._turn.layer, self._turn.hidden = layer, None if hidden is None else hidden.to(self._device)
        try:
            with torch.inference_mode():
                self.measured.model(input_ids=torch.tensor([list(token_ids)], device=self._device), use_cache=False)
        except _PassEndsError:
            result = self._turn.result
            assert result is not None  # noqa: S101  # what ended the pass has put it there
            return result.cpu()
        finally:
            self._turn.hidden = self._turn.result = None
        raise AssertionError("a forward pass did not reach its layer")

    def attach(self) -> None:
        """Put ourselves between the model and its embedding and layers."""
        embed = self._embedding.forward

        def embedded(token_ids: torch.Tensor) -> Any:
            hidden = self._turn.hidden
            return embed(token_ids) if hidden is None else hidden

        self._embedding.forward = embedded
        for number, layer in enumerate(self.layers):
            layer.forward = self._relay(number, layer.forward)

    def _relay(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def relay(hidden_states: torch.Tensor, *args: Any, **options: Any) -> Any:
            turn = self._turn
            if turn.layer is not None and number < turn.layer:
                return hidden_states
            # The layer may write into its input, and the embedding's answer is the caller's own tensor: run on a copy.
            turn.result = hidden_states if turn.layer is None else forward(hidden_states.clone(), *args, **options)
            raise _PassEndsError

        return relay


def open_layers(folder: Path, found: Outline, *, device: str = "cpu") -> LayeredModel:
    """A model that can be run layer by layer; only headers are read.

    Args:
        folder: a checkpoint in safetensors with its config.
        found: its model, empty, which becomes the one that is run.
        device: where the layers run, each for its turn.

    Raises:
        InputError: the checkpoint cannot be loaded, or is incomplete.
    """
    measured = found.measured
    _fill_buffers(measured.model, device)
    prefix, layers = _decoder(measured)
    load, targets = _loader(found, folder)
    names, files = _parts(measured.model, prefix, targets, folder)
    made = LayeredModel(measured, layers, measured.model.get_submodule(prefix).embed_tokens, names, files, load, device)
    made.attach()
    return made


def _fill_buffers(model: Any, device: str) -> None:
    """Give buffers that no checkpoint holds (frequencies, scales) their values, as `from_pretrained` does.

    They are made on the CPU, where `from_pretrained` makes them, and then moved.
    """
    import torch

    for module in model.modules():
        names = [name for name in module._buffers if name in module._non_persistent_buffers_set]  # noqa: SLF001
        for name in names:
            setattr(module, name, torch.empty_like(getattr(module, name), device="cpu"))
        if names:
            model._init_weights(module)  # noqa: SLF001 - the families' own hook; its parameters are empty and stay so
        for name in names:
            setattr(module, name, getattr(module, name).to(device))


def require_separable(folder: Path) -> None:
    """Raise InputError unless the layers of a base can be run one by one."""
    with loading_errors(folder):
        config = config_of(folder)
    if config.model_type not in MODEL_TYPES:
        raise InputError(f"{folder}: {config.model_type} cannot be run layer by layer; measure it without --offload")
    text = config.get_text_config()
    for name in ("num_kv_shared_layers", "hidden_size_per_layer_input"):
        if getattr(text, name, 0):
            raise InputError(f"{folder}: layers that share more than hidden states ({name}) cannot be run one by one")


def _decoder(measured: MeasuredModel) -> tuple[str, tuple[Any, ...]]:
    """Name of the text model, and its decoder layers."""
    model = measured.model
    module = next(module for module in model.modules() if hasattr(module, "has_post_expert_norm"))
    name = next(name for name, each in model.named_modules() if each is module)
    prefix = name[: name.index(f".layers.{measured.layers[0]}.")]
    return prefix, tuple(model.get_submodule(prefix).layers)


def _loader(found: Outline, folder: Path) -> tuple[Callable[[dict[str, Any]], None], Callable[[str], str]]:
    """What fills a model's tensors from slices of a checkpoint, and what names the model's tensor of a checkpoint's name.

    Both are what transformers' `from_pretrained` does, for some of the tensors.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        convert_and_load_state_dict_in_model,
        rename_source_key,
    )
    from transformers.modeling_utils import LoadStateDictConfig

    model, dtype, quantizer = found.measured.model, found.dtype, found.quantizer
    mapping = get_model_conversion_mapping(model, hf_quantizer=quantizer)
    plan = model._get_dtype_plan(dtype)  # noqa: SLF001 - transformers has no public name for it
    options = LoadStateDictConfig(dtype=dtype, dtype_plan=plan, weight_mapping=mapping, hf_quantizer=quantizer)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    known = model.state_dict()

    def target(name: str) -> str:
        return str(rename_source_key(name, renamings, converters, model.base_model_prefix, known)[0])

    def load(slices: dict[str, Any]) -> None:
        with quiet_transformers():
            info, _ = convert_and_load_state_dict_in_model(model, slices, options)
        wrong = sorted(str(key[0]) for key in info.mismatched_keys) + sorted(map(str, info.conversion_errors))
        if wrong or info.error_msgs:
            raise InputError(
                f"{folder}: tensors of the base do not fit its config, the first is {(wrong or info.error_msgs)[0]}"
            )

    return load, target


def _parts(
    model: Any, prefix: str, target: Callable[[str], str], folder: Path
) -> tuple[dict[str, tuple[str, ...]], dict[str, Path]]:
    """The checkpoint's tensors of each part, and each one's shard.

    Raises:
        InputError: a tensor that the model needs is missing.
    """
    from safetensors import safe_open

    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with loading_errors(folder), safe_open(path, "pt") as shard:
            files |= dict.fromkeys(shard.keys(), path)
    wanted = re.compile(rf"^{re.escape(prefix)}\.(?:layers\.(?P<layer>\d+)\.|embed_tokens\.)")
    names: dict[str, list[str]] = {}
    missing = {name for name in model.state_dict() if wanted.match(name)}
    for name in files:
        key = target(name)
        if match := wanted.match(key):
            names.setdefault(match["layer"] or "embedding", []).append(name)
            missing.discard(key)
    if missing:
        raise InputError(f"{folder}: the base lacks {len(missing)} of its model's tensors, the first is {min(missing)}")
    return {part: tuple(each) for part, each in names.items()}, files
