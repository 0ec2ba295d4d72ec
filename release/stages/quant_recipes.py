"""What a manifest says of its quants, checked before anything is made: types, names, labels, the imatrix that a type needs."""

from __future__ import annotations

from pruner.errors import InputError
from release.documents import place_of
from release.gguf.cut_plan import file_type
from release.gguf.experts import find_experts
from release.gguf.imatrix import read_imatrix, require_length
from release.gguf.names import check_tags, imatrix_file, labelled_otherwise, quant_file
from release.gguf.reader import GgufHeader
from release.gguf.tensor_types import assign, read_tensor_types
from release.gguf.types import FILE_TYPES, NEED_IMATRIX, nearest
from release.manifest import BaseQuant, LoadedManifest
from release.stages.cut_quant import base_quant


def check_types(loaded: LoadedManifest) -> None:
    """Check the types of quants without a llama.cpp, against those of the release that `toolchain install` builds.

    Raises:
        InputError: an unknown type, with its place and the nearest known ones.
    """
    for quant in loaded.content.gguf.quantized if loaded.content.gguf else ():
        if quant.type and quant.type.upper() not in FILE_TYPES:
            hint = nearest(quant.type, list(FILE_TYPES)) or f"; known are {', '.join(FILE_TYPES)}"
            raise InputError(f"{place_of(loaded.path, quant.type)}: unknown quantization type {quant.type!r}{hint}")


def check_recipes(loaded: LoadedManifest) -> None:
    """Check that each quant's name will find its file and no other where it is published, and that it can be what it says.

    Raises:
        InputError: a name would find another file or none, or it is the label of another type than the quant has; or a type
            needs an imatrix that the manifest does not have; or a text is too short for two chunks.
    """
    gguf, model = loaded.content.gguf, loaded.content.name
    if gguf is None:
        return
    if gguf.imatrix and gguf.imatrix.text:
        require_length(loaded.file(gguf.imatrix.text), gguf.imatrix.context, "calibration text")
    if gguf.quality:
        require_length(loaded.file(gguf.quality.text), gguf.quality.context, "quality text")
    others = ["README.md", *([imatrix_file(model)] if gguf.imatrix else []), *(source.name for source in gguf.mmproj)]
    check_tags({quant.name: quant_file(model, quant.name) for quant in gguf.quants}, others)
    for quant in gguf.quantized:
        if quant.type and not quant.tensor_types:  # a file of types makes a mix, whose name is its own
            _require_label(loaded, quant.name, quant.type.upper(), "its type is")
            if gguf.imatrix is None and quant.type.upper() in NEED_IMATRIX:
                place = place_of(loaded.path, quant.type)
                raise InputError(f"{place}: {quant.type} needs an imatrix; add gguf.imatrix, or choose a K type such as Q2_K")


def check_imatrix(loaded: LoadedManifest) -> None:
    """Check a pinned imatrix as far as the manifest tells what it is for; `calibrate` holds it against the model.

    Raises:
        InputError: it is missing or not the pinned one, it is no imatrix, it is empty, or it is of another number of experts.
    """
    gguf, prune = loaded.content.gguf, loaded.content.prune
    if gguf is None or gguf.imatrix is None or gguf.imatrix.file is None:
        return
    summary, where = read_imatrix(loaded.file(gguf.imatrix.file)), place_of(loaded.path, gguf.imatrix.file.path)
    if not summary.entries:
        raise InputError(f"{where}: {gguf.imatrix.file.path} has no entries; recompute it")
    if prune and summary.experts not in (1, prune.experts):
        raise InputError(
            f"{where}: {gguf.imatrix.file.path} is of {summary.experts} experts, the pruned model has {prune.experts}; "
            "compute one on the pruned model, or give its text"
        )


def check_tensor_types(loaded: LoadedManifest, model: GgufHeader | None = None) -> None:
    """Check the files of types per tensor, with the tensors of `model` once it is converted.

    Raises:
        InputError: one is missing or not the pinned one, or a line has an unknown type, stands twice or fits no tensor.
    """
    for quant in loaded.content.gguf.quantized if loaded.content.gguf else ():
        if quant.tensor_types is not None:
            path = loaded.file(quant.tensor_types)
            rules = read_tensor_types(path)
            if model is not None:
                assign(path, rules, [tensor.name for tensor in model.tensors])


def check_cut(loaded: LoadedManifest, name: str, source: BaseQuant) -> None:
    """Check the base's GGUF that a quant is to be cut from, by its header.

    Raises:
        InputError: it is none, its experts cannot be cut, or it is of another type than the quant's name says.
        UnavailableError: the Hub does not give it.
    """
    header = base_quant(loaded, source).header
    find_experts(header)
    _require_label(loaded, name, file_type(header), f"{source.label} is")


def _require_label(loaded: LoadedManifest, name: str, kind: str | None, what: str) -> None:
    if (claimed := labelled_otherwise(name, kind)) is not None:
        raise InputError(
            f"{place_of(loaded.path, name)}: quant {name}: the name says {claimed}, and {what} {kind}; "
            f"name it {kind}, or make it {claimed}"
        )
