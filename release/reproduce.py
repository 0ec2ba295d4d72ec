"""`reproduce/`: the part of a weights repository from which a stranger repeats the release.

    reproduce/README.md               a page of three commands: rebuild, compare, prove
    reproduce/manifest.yaml           the manifest, byte for byte
    reproduce/lock.json               digests of every input and output (`release.lock.Lock`)
    reproduce/SHA256SUMS              digests of the weights by name, in the form of coreutils' sha256sum
    reproduce/drop_map.json           which experts go: with the base and the manifest's layout, all that a rebuild needs
    reproduce/claims.json             every value on the card with its source
    reproduce/provenance.json         how weights and GGUFs were built, as an in-toto statement with SLSA provenance
    reproduce/rebuilders.json         keys of those whose statements count   (with publish.rebuilders)
    reproduce/protocol.yaml           the locked exam           (with an eval section)
    reproduce/evidence/<quant>.json   one scored run per quant  (with an eval section)
    reproduce/timing/<quant>.json     the seconds of its questions; they, and their digests in the lock, differ from run to run
    reproduce/<path>                  every other file that the manifest names, at the path that the manifest gives it

So `reproduce/manifest.yaml` resolves from its own folder, and its lock stands beside it.  Withheld are tables of questions and
outputs of lm-eval, which hold questions that may be gated, and calibration texts, whose result (the importance matrix) lies
beside the GGUFs: their digests stand in the lock, and whoever has them puts them at the manifest's paths.

The GGUF repository carries `reproduce/SHA256SUMS` alone: digests of its own files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pruner.errors import InputError
from pruner.files import path_inside, sha256_file
from release.lock import LockedFile
from release.manifest import LoadedManifest, Manifest, PinnedFile

CARD = "README.md"
FOLDER = "reproduce"
README = f"{FOLDER}/README.md"
TEMPLATE = "reproduce.md.j2"
MANIFEST = f"{FOLDER}/manifest.yaml"
LOCK = f"{FOLDER}/lock.json"
SUMS = f"{FOLDER}/SHA256SUMS"
DROP_MAP = f"{FOLDER}/drop_map.json"
CLAIMS = f"{FOLDER}/claims.json"
PROTOCOL = f"{FOLDER}/protocol.yaml"
PROVENANCE = f"{FOLDER}/provenance.json"
REBUILDERS = f"{FOLDER}/rebuilders.json"
FIXED = (README, MANIFEST, LOCK, SUMS, DROP_MAP, CLAIMS, PROTOCOL, PROVENANCE, REBUILDERS)
JOINING = (".gitattributes", "attestations/")
"""What joins a repository later, unsigned, and is never removed: the Hub's own file, and what others state."""


def evidence_name(quant: str) -> str:
    """Where the evidence of a quant stands in the weights repository."""
    return f"{FOLDER}/evidence/{quant}.json"


def timing_name(quant: str) -> str:
    """Where the seconds of a quant's run stand; a folder of their own, since a quant may be called anything."""
    return f"{FOLDER}/timing/{quant}.json"


Kind = Literal["weights", "gguf"]
"""Of the two repositories of a release."""
BOTH: tuple[Kind, ...] = ("weights", "gguf")
FOLDERS: tuple[tuple[str, str, tuple[Kind, ...]], ...] = (
    ("weights/", "", ("weights",)),
    ("gguf/", "", ("gguf",)),
    ("imatrix/", "", ("gguf",)),
    ("card/pictures/", "pictures/", BOTH),
    ("card/eval_results/", ".eval_results/", ("weights",)),
)
FILES: dict[str, tuple[Kind, str]] = {
    "card/README.md": ("weights", CARD),
    "card/README.gguf.md": ("gguf", CARD),
    "card/claims.json": ("weights", CLAIMS),
    "drop_map.json": ("weights", DROP_MAP),
    "quality.json": ("gguf", "quality.json"),
}
RUN = re.compile(r"eval/([^/]+)/(evidence|timing)\.json")


def published_places(output: str) -> dict[Kind, str]:
    """Where an output of a lock stands in the repositories that it is published in; none for what is not published.

    Args:
        output: its path in the work folder.
    """
    if output in FILES:
        kind, place = FILES[output]
        return {kind: place}
    if run := RUN.fullmatch(output):
        return {"weights": evidence_name(run[1]) if run[2] == "evidence" else timing_name(run[1])}
    for folder, place, kinds in FOLDERS:
        if output.startswith(folder):
            return dict.fromkeys(kinds, place + output.removeprefix(folder))
    return {}


def places_in(kind: Kind, outputs: Iterable[str]) -> dict[str, str]:
    """The path in one of the repositories of each output that stands there, in the order of the outputs."""
    return {output: places[kind] for output in outputs if kind in (places := published_places(output))}


def named_files(manifest: Manifest) -> list[PinnedFile]:
    """The files beside the manifest that are published with it, in the manifest's order; what is withheld is left out."""
    files: list[PinnedFile | None] = [manifest.base.headers, manifest.prune.drop_map if manifest.prune else None]
    if manifest.gguf:
        files += [manifest.gguf.imatrix.file if manifest.gguf.imatrix else None]
        files += [quant.tensor_types for quant in manifest.gguf.quants]
    if manifest.eval:
        files.append(PinnedFile(path=manifest.eval.protocol))
    files += [row.evidence for row in manifest.compare]
    files += [prior.file for prior in manifest.prior]
    files += manifest.card.earlier_maps.values()
    if manifest.card.prose:
        files.append(PinnedFile(path=manifest.card.prose))
    if manifest.publish:
        files.append(manifest.publish.rebuilders)
    return [file for file in files if file is not None]


def _own_templates(loaded: LoadedManifest) -> list[PinnedFile]:
    folder = loaded.content.card.templates
    found = sorted(path_inside(loaded.root, folder).glob("*.j2")) if folder else []
    return [PinnedFile(path=f"{folder}/{file.name}") for file in found]


def reproduce_files(loaded: LoadedManifest, made: dict[str, Path]) -> dict[str, Path]:
    """All of `reproduce/`: path in the repository -> local file.

    Args:
        loaded: the manifest, whose named files are added.
        made: the files that have a fixed name, from the work folder.

    Raises:
        InputError: a file that the manifest names would stand where another one must.
    """
    files = {**made, MANIFEST: loaded.path}
    for name, pinned in named_places(loaded).items():
        local = loaded.file(pinned)
        if name in files and sha256_file(files[name]) != sha256_file(local):
            raise InputError(f"{loaded.path}: {pinned.path} would be published as {name}, which has its own meaning; rename it")
        files.setdefault(name, local)
    return files


def named_places(loaded: LoadedManifest) -> dict[str, PinnedFile]:
    """The files beside the manifest that are published with it, by their path in the repository.

    Raises:
        InputError: one lies elsewhere.
    """
    root = path_inside(loaded.root, ".")
    named = [*named_files(loaded.content), *_own_templates(loaded)]
    return {f"{FOLDER}/{path_inside(loaded.root, each.path).relative_to(root).as_posix()}": each for each in named}


def sums(files: Mapping[str, LockedFile]) -> bytes:
    """Digests by name in the form of coreutils' sha256sum."""
    return "".join(f"{file.sha256}  {name}\n" for name, file in files.items()).encode()


def page(manifest: Manifest, own: Mapping[str, str] | None = None) -> str:
    """`reproduce/README.md`: three commands, to be typed in a copy of the repository.

    Args:
        manifest: of the release.
        own: templates of the person who publishes, by name.

    Raises:
        InputError: their own page asks for something that it does not get.
    """
    from release.card.render import render  # the others need no jinja

    base, publish, weights = manifest.base, manifest.publish, manifest.weights
    facts = {
        "name": manifest.name,
        "base": {"name": base.label, "repo": base.repo, "revision": base.revision},
        "publish": {"weights": publish.weights, "gguf": publish.gguf, "tag": publish.tag} if publish else None,
        "layout": {"max_shard_size": str(weights.max_shard_size), "metadata": weights.metadata},
    }
    return render(TEMPLATE, facts, own or {})
