"""What is published of a release's results, laid out like its work folder."""

from __future__ import annotations

from pathlib import Path

from pruner.errors import InputError
from pruner.files import write_atomic
from pruner.sources import read_small
from release.hub.published import FILE_LIMIT, open_repository
from release.manifest import LoadedManifest
from release.reproduce import LOCK, evidence_name


def evidence_place(quant: str) -> str:
    """Where the evidence of a quant stands in a work folder."""
    return f"eval/{quant}/evidence.json"


def has_evidence(loaded: LoadedManifest, work: Path) -> bool:
    """Whether the work folder holds evidence of any quant that the manifest evaluates; also when it evaluates none."""
    section = loaded.content.eval
    return section is None or any((work / evidence_place(quant)).is_file() for quant in section.quants)


def fetch_work(loaded: LoadedManifest, folder: Path) -> Path:
    """Copy lock and evidence of a published release into a folder.

    Raises:
        InputError: the manifest publishes nothing, or a file is not there.
        UnavailableError: the Hub cannot be reached.
    """
    from huggingface_hub import get_token

    section, publish = loaded.content.eval, loaded.content.publish
    if publish is None:
        raise InputError("the manifest publishes nothing, so there is no evidence on the Hub")
    repository = open_repository(publish.weights, publish.tag or "main", token=get_token())
    places = {
        LOCK: "lock.json",
        **{evidence_name(quant): evidence_place(quant) for quant in (section.quants if section else [])},
    }
    for name, place in places.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / place, read_small(repository.source, name, "a file of the release", FILE_LIMIT))
    return folder
