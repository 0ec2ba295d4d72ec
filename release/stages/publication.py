"""What a release publishes: which file of the work folder goes where, and the digest that it must have there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pruner.errors import CheckFailedError
from pruner.files import sha256_file
from release import reproduce
from release.card.inputs import LEADERBOARD_FOLDER
from release.context import Context
from release.lock import read_lock
from release.stages.card import card_folder
from release.stages.evaluate import evidence_path, timing_path
from release.stages.lock import gguf_sums_path, page_path, provenance_path, sums_path, work_lock_path
from release.stages.quality import quality_path, wants_quality


@dataclass(frozen=True)
class Repository:
    """One repository: local files and their SHA-256 by path in the repository."""

    repo: str
    files: dict[str, Path]
    digests: dict[str, str]


def repositories(context: Context) -> list[Repository]:
    """Weights first, then GGUFs: a GGUF's card links to the weights."""
    publish = context.publish
    result = [_repository(context, publish.weights, _weights_files(context))]
    if publish.gguf:
        result.append(_repository(context, publish.gguf, _gguf_files(context)))
    return result


def _repository(context: Context, repo: str, files: dict[str, Path]) -> Repository:
    """Digests come from the lock; only the files that a lock cannot hold (itself, inputs) are digested here."""
    lock = read_lock(work_lock_path(context))
    locked = lock.outputs if lock else {}
    digests = {}
    for name, path in files.items():
        inside = path.relative_to(context.work).as_posix() if path.is_relative_to(context.work) else ""
        digests[name] = locked[inside].sha256 if inside in locked else sha256_file(path)
    return Repository(repo, files, digests)


def _locked_files(context: Context, *folders: str) -> dict[str, Path]:
    """Files of work folders by name, exactly those that the lock lists.

    Raises:
        CheckFailedError: a folder holds another file; nothing unverified is published.
    """
    lock = read_lock(work_lock_path(context))
    locked = {path for path in (lock.outputs if lock else ()) if path.startswith(folders)}
    places = [context.work / folder for folder in folders]
    files = [file for place in places for file in place.rglob("*") if not file.is_dir()]
    found = {file.relative_to(context.work).as_posix() for file in files}
    if foreign := sorted(found - locked):
        raise CheckFailedError(
            f"{context.work / foreign[0]}: is not of this release; remove it, nothing unverified is published"
        )
    return {_inside(path, folders): context.work / path for path in sorted(locked)}


def _inside(path: str, folders: tuple[str, ...]) -> str:
    return path.removeprefix(next(folder for folder in folders if path.startswith(folder)))


def _weights_files(context: Context) -> dict[str, Path]:
    card = {"README.md": card_folder(context) / "README.md"}
    scores = _locked_files(context, f"card/{LEADERBOARD_FOLDER}/")
    leaderboard = {f".eval_results/{name}": path for name, path in scores.items()}
    return {**_locked_files(context, "weights/"), **card, **_pictures(context), **leaderboard, **_reproduce_files(context)}


def _pictures(context: Context) -> dict[str, Path]:
    return {f"pictures/{name}": path for name, path in _locked_files(context, "card/pictures/").items()}


def _gguf_files(context: Context) -> dict[str, Path]:
    folders = ("gguf/", "imatrix/") if context.gguf.imatrix else ("gguf/",)
    extra = {"README.md": card_folder(context) / "README.gguf.md", reproduce.SUMS: gguf_sums_path(context)}
    quality = {"quality.json": quality_path(context)} if wants_quality(context) else {}
    return {**_locked_files(context, *folders), **extra, **quality, **_pictures(context)}


def _reproduce_files(context: Context) -> dict[str, Path]:
    """What a stranger needs to repeat the release."""
    made = {
        reproduce.README: page_path(context),
        reproduce.CLAIMS: card_folder(context) / "claims.json",
        reproduce.LOCK: work_lock_path(context),
        reproduce.SUMS: sums_path(context),
        reproduce.DROP_MAP: context.work / "drop_map.json",
        reproduce.PROVENANCE: provenance_path(context),
    }
    if context.publish.rebuilders:
        made[reproduce.REBUILDERS] = context.loaded.file(context.publish.rebuilders)
    if context.manifest.eval:
        made[reproduce.PROTOCOL] = context.loaded.root / context.eval.protocol
        for quant in context.eval.quants:
            made[reproduce.evidence_name(quant)] = evidence_path(context, quant)
            made[reproduce.timing_name(quant)] = timing_path(context, quant)
    return reproduce.reproduce_files(context.loaded, made)
