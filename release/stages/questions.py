"""The tables of questions that a manifest names, read before anything is loaded: a wrong field map is found at once."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from pruner.calibration import FieldMap
from pruner.errors import CheckFailedError, InputError
from release.documents import place_of, place_of_key
from release.evaluation.protocol import Protocol
from release.manifest import Analysis, DataSource, LoadedManifest, PinnedFile


def check_calibration(loaded: LoadedManifest) -> None:
    """Read the calibration set as the analysis will; one on the Hub only where it is on this disk already.

    Raises:
        InputError: it is missing or not the pinned one, a row is no question, or a reply cannot be put together.
    """
    from pruner.calibration import check_reply_format, read_calibration, read_classes, read_digests

    prune = loaded.content.prune
    named = (prune.analysis or prune.calibration) if prune else None
    if prune is None or named is None:
        return
    if isinstance(named, Analysis) and named.reply_format is not None:
        try:
            check_reply_format(named.reply_format)
        except InputError as error:
            raise InputError(f"{place_of_key(loaded.path, 'prune.analysis.reply_format')}: {error}") from None
    path = _at_hand(loaded, named.dataset)
    if path is None:
        return
    section = "prune.analysis" if isinstance(named, Analysis) else "prune.calibration"
    _require_columns(loaded, f"{section}.fields", named.fields, path, all_of_them=isinstance(named, Analysis))
    if not isinstance(named, Analysis):
        read_digests(path, named.fields)
        return
    read_calibration(path, named.fields, named.without_reasoning, named.unusable)
    if prune.ranking.class_weights:
        read_classes(path, named.fields, prune.ranking.class_weights.column)


def _require_columns(loaded: LoadedManifest, key: str, fields: FieldMap, path: Path, *, all_of_them: bool) -> None:
    """Raise InputError when the first row lacks a column that the field map names: there the manifest is wrong, not a row."""
    from pruner.calibration_rows import table_rows

    number, row = next(table_rows(path), (0, None))
    if row is None:
        return
    named = fields.model_dump() if all_of_them else {"question": fields.question}
    for field, names in named.items():
        for name in [names] if isinstance(names, str) else names:
            if field != "answer_as" and name not in row:
                near = get_close_matches(name, [*row], n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise InputError(f"{place_of_key(loaded.path, f'{key}.{field}')}: {path}:{number} has no column {name!r}{hint}")


def check_exam(loaded: LoadedManifest, protocol: Protocol) -> None:
    """Read the exam's questions as the run will; those on the Hub only where they are on this disk already.

    Raises:
        InputError: they are missing, or have not the protocol's columns.
        CheckFailedError: they are not those of the protocol.
    """
    from release.evaluation.data import load_rows

    data = protocol.data
    if data.path is None and cached_dataset(str(data.repository), str(data.revision), str(data.file)) is None:
        return
    try:
        load_rows(data, loaded.root)
    except (InputError, CheckFailedError) as error:
        name = loaded.content.eval.protocol if loaded.content.eval else protocol.name
        raise type(error)(f"{place_of(loaded.path, name)}: protocol {protocol.name}: {error}") from None


def cached_dataset(repo: str, revision: str, file: str) -> Path | None:
    """A file of a data set at a commit in the Hugging Face cache; None where it is not. The network is not asked."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision, repo_type="dataset")
    return Path(found) if isinstance(found, str) else None


def _at_hand(loaded: LoadedManifest, source: DataSource) -> Path | None:
    if source.path is not None:
        return loaded.file(PinnedFile(path=source.path, sha256=source.sha256))
    return cached_dataset(str(source.repo), str(source.revision), str(source.file))
