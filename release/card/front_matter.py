"""The YAML block on top of a card, which the Hub reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pruner.errors import InputError
from pruner.sources import Source, read_small
from release.manifest import Manifest

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"


def license_of(manifest: Manifest, base: Source) -> str | None:
    """The license of the pinned base, from its own card; of a base by path, the manifest's word.

    Raises:
        InputError: the two contradict each other.
    """
    stated = manifest.card.license
    inherited = None
    if CARD in base.files:
        inherited = _card_license(read_small(base, CARD, "the base's card").decode("utf-8", errors="replace"))
    if stated and inherited and stated != inherited:
        raise InputError(f"card.license is {stated!r}, the base's card says {inherited!r}; remove it from the manifest")
    return inherited or stated


def _card_license(text: str) -> str | None:
    from release.hub.card_metadata import card_metadata

    value = card_metadata(text).data.get("license")
    return value if isinstance(value, str) else None


def weights_front_matter(manifest: Manifest, license_name: str | None, results: Sequence[EvalResult] = ()) -> str:
    """Metadata of the weights repository.  The Hub has no relation "pruned": it is a finetune, with the tag `pruned`."""
    base = manifest.base
    data: dict[str, Any] = {
        "license": license_name,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["pruned", "mixture-of-experts", "moe-release"],
    }
    if base.repo:
        data |= {"base_model": base.repo, "base_model_relation": "finetune"}
    if manifest.prune and manifest.prune.dataset and manifest.prune.dataset.repo:
        data["datasets"] = [manifest.prune.dataset.repo]  # what the experts were chosen with
    return _block(data, manifest.name, results)


def gguf_front_matter(manifest: Manifest, license_name: str | None, results: Sequence[EvalResult] = ()) -> str:
    """Metadata of the GGUF repository: quantized from the weights repository."""
    publish = manifest.publish
    data: dict[str, Any] = {
        "license": license_name,
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["pruned", "mixture-of-experts", "gguf", "moe-release"],
    }
    if publish:
        data |= {"base_model": publish.weights, "base_model_relation": "quantized"}
    return _block(data, f"{manifest.name}-GGUF", results)


def _block(data: dict[str, Any], model_name: str, results: Sequence[EvalResult]) -> str:
    """The YAML between its fences, with the model-index where there are results."""
    from huggingface_hub import ModelCardData

    scores = {"model_name": model_name, "eval_results": list(results)} if results else {}
    text = ModelCardData(**{key: value for key, value in (data | scores).items() if value is not None}).to_yaml()
    return f"---\n{text}\n---\n"
