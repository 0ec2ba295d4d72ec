"""The YAML block on top of a card, which the Hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruner.errors import InputError
from pruner.sources import Source, read_small
from release.card.claims import SourcedText
from release.manifest import Manifest

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"
LINK = re.compile(r"https://[\w.~:/?#@!$&+,;=%-]+", re.ASCII)
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*", re.ASCII)
TEXT = "text-generation"
TASK = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True)
class BaseCard:
    """What the base's own card says that the cards of its variants keep."""

    licenses: tuple[str, ...] = ()
    license_name: str | None = None
    license_link: str | None = None
    pipeline_tag: str | None = None

    @property
    def license(self) -> str | None:
        """In words: several side by side, and the name of one that the Hub has no id for."""
        named = f" ({self.license_name})" if self.license_name else ""
        return ", ".join(self.licenses) + named if self.licenses else None

    @property
    def license_metadata(self) -> dict[str, Any]:
        """For the front matter, in the form that the base has it."""
        if not self.licenses:
            return {}
        licenses = self.licenses[0] if len(self.licenses) == 1 else list(self.licenses)
        more = {"license_name": self.license_name, "license_link": self.license_link}
        return {"license": licenses, **{key: value for key, value in more.items() if value}}


NO_CARD = BaseCard()


def read_base_card(base: Source, repo: str | None = None, revision: str | None = None) -> BaseCard:
    """What the card among the base's files says; nothing where there is none.

    `repo` and `revision` are of a base on the Hub, so that a license that is one of its files is linked there.
    """
    if CARD not in base.files:
        return NO_CARD
    return base_card(read_small(base, CARD, "the base's card").decode("utf-8", errors="replace"), repo, revision)


def base_card(text: str, repo: str | None = None, revision: str | None = None) -> BaseCard:
    """What a card says; what is none of the Hub's forms counts as not said."""
    from release.hub.card_metadata import card_metadata

    data = card_metadata(text).data
    stated = data.get("license")
    licenses = tuple(each for each in (stated if isinstance(stated, list) else [stated]) if isinstance(each, str) and each)
    name, link, tag = (data.get(key) for key in ("license_name", "license_link", "pipeline_tag"))
    return BaseCard(
        licenses=licenses,
        license_name=name if isinstance(name, str) and name else None,
        license_link=_license_link(link, repo, revision) if isinstance(link, str) else None,
        pipeline_tag=tag if isinstance(tag, str) and TASK.fullmatch(tag) else None,
    )


def _license_link(link: str, repo: str | None, revision: str | None) -> str | None:
    """An address; a file of the base's repository is linked there, at the pinned commit."""
    if LINK.fullmatch(link):
        return link
    inside = repo and revision and FILE.fullmatch(link) and ".." not in link.split("/")
    return f"https://huggingface.co/{repo}/blob/{revision}/{link}" if inside else None


def license_of(manifest: Manifest, base: Source | BaseCard) -> SourcedText | None:
    """The license of the pinned base, from its own card; of a base without one, the manifest's word.

    Raises:
        InputError: the two contradict each other.
    """
    stated = manifest.card.license
    inherited = (base if isinstance(base, BaseCard) else read_base_card(base)).license
    if stated and inherited and stated != inherited:
        raise InputError(f"card.license is {stated!r}, the base's card says {inherited!r}; remove it from the manifest")
    if inherited:
        return SourcedText(inherited, "README.md of the base: license")
    return SourcedText(stated, "manifest.yaml: card.license") if stated else None


def weights_front_matter(
    manifest: Manifest, license_name: str | None, results: Sequence[EvalResult] = (), base_card: BaseCard = NO_CARD
) -> str:
    """Metadata of the weights repository.  The Hub has no relation "pruned": it is a finetune, with the tag `pruned`.

    The license is that of `base_card` where it has one, in all its parts, else `license_name`.
    """
    base = manifest.base
    data: dict[str, Any] = {
        **_license(license_name, base_card),
        "library_name": "transformers",
        "pipeline_tag": base_card.pipeline_tag or TEXT,
        "tags": ["pruned", "mixture-of-experts", "moe-release"],
    }
    if base.repo:
        data |= {"base_model": base.repo, "base_model_relation": "finetune"}
    if manifest.prune and manifest.prune.dataset and manifest.prune.dataset.repo:
        data["datasets"] = [manifest.prune.dataset.repo]  # what the experts were chosen with
    return _block(data, manifest.name, results)


def gguf_front_matter(
    manifest: Manifest, license_name: str | None, results: Sequence[EvalResult] = (), base_card: BaseCard = NO_CARD
) -> str:
    """Metadata of the GGUF repository: quantized from the weights repository, and the language model alone."""
    publish = manifest.publish
    data: dict[str, Any] = {
        **_license(license_name, base_card),
        "library_name": "gguf",
        "pipeline_tag": TEXT,
        "tags": ["pruned", "mixture-of-experts", "gguf", "moe-release"],
    }
    if publish:
        data |= {"base_model": publish.weights, "base_model_relation": "quantized"}
    return _block(data, f"{manifest.name}-GGUF", results)


def _license(name: str | None, base_card: BaseCard) -> Mapping[str, Any]:
    return base_card.license_metadata or {"license": None if name is None else str(name)}


def _block(data: dict[str, Any], model_name: str, results: Sequence[EvalResult]) -> str:
    """The YAML between its fences, with the model-index where there are results."""
    from huggingface_hub import ModelCardData

    scores = {"model_name": model_name, "eval_results": list(results)} if results else {}
    text = ModelCardData(**{key: value for key, value in (data | scores).items() if value is not None}).to_yaml()
    return f"---\n{text}\n---\n"
