"""What a manifest says of its quants, checked before anything is made: types, names, labels, the imatrix that a type needs."""

from __future__ import annotations

from pruner.errors import InputError
from release.documents import place_of
from release.gguf.cut_plan import file_type
from release.gguf.experts import find_experts
from release.gguf.names import check_tags, imatrix_file, labelled_otherwise, quant_file
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
            needs an imatrix that the manifest does not have.
    """
    gguf, model = loaded.content.gguf, loaded.content.name
    if gguf is None:
        return
    others = ["README.md", *([imatrix_file(model)] if gguf.imatrix else [])]
    check_tags({quant.name: quant_file(model, quant.name) for quant in gguf.quants}, others)
    for quant in gguf.quantized:
        if quant.type and not quant.tensor_types:  # a file of types makes a mix, whose name is its own
            _require_label(loaded, quant.name, quant.type.upper(), "its type is")
            if gguf.imatrix is None and quant.type.upper() in NEED_IMATRIX:
                place = place_of(loaded.path, quant.type)
                raise InputError(f"{place}: {quant.type} needs an imatrix; add gguf.imatrix, or choose a K type such as Q2_K")


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
