"""File names that a quant's tag resolves: each advertised tag must find its own file and no other, by two rules.

llama.cpp (`llama-server -hf user/repo:TAG`, `find_best_model` in common/download.cpp): of the repository's paths in order, the
first that matches `TAG[.-]`, upper or lower case, anywhere.  A model whose name contains a quant's label therefore answers for
that quant.  The Hub (its file browser and the programs that it offers for a file; `parseGGUFQuantLabel` of huggingface.js):
the last quant label in a file's name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pruner.errors import InputError
from release.gguf.shards import SHARD
from release.gguf.types import FILE_TYPES

PASSED_OVER = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
PRESET = "preset.ini"
"""A repository with this file serves no GGUF by tag: llama.cpp loads the preset instead."""
LABELS = (
    *("F32", "F16", "Q4_0", "Q4_1", "Q4_1_SOME_F16", "Q4_2", "Q4_3", "Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M"),
    *("Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S"),
    *("IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0"),
    *("TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0", "Q2_K_XL", "Q3_K_XL", "Q4_K_XL", "Q5_K_XL", "Q6_K_XL", "Q8_K_XL"),
)
"""Labels that the Hub knows, in its order: of several that begin at one place the first in this list is found."""
_LABEL = re.compile(rf"(?:UD-)?(?:{'|'.join(LABELS)})(?:_[A-Z]+)?")
_SAME = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""llama-quantize's short names of a file type."""


def file_for_tag(paths: Iterable[str], tag: str) -> str | None:
    """The path that llama.cpp chooses for a tag, or None; paths are taken in the Hub's order, which is sorted.

    llama.cpp takes the tag for a regular expression; of what the name of a quant may hold only the dot means something there.
    """
    ordered = sorted(paths)
    if PRESET in ordered:
        return None
    pattern = re.compile(f"{re.escape(tag).replace(re.escape('.'), '.')}[.-]", re.IGNORECASE)
    return next((path for path in ordered if _is_model(path) and pattern.search(path)), None)


def last_label(name: str) -> str | None:
    """The quant label that the Hub reads from a file's name, in upper case, or None."""
    return next(iter(reversed(_LABEL.findall(name.upper()))), None)


def files_for_label(paths: Iterable[str], tag: str) -> list[str]:
    """The models that the Hub shows under the label of a tag, in order; of a split one its first part."""
    label = last_label(tag)
    named = sorted(path for path in paths if _is_model(path))
    return [path for path in named if label is not None and last_label(path.rpartition("/")[2]) == label]


def _is_model(path: str) -> bool:
    name = path.rpartition("/")[2]
    split = SHARD.search(name)
    return path.endswith(".gguf") and not any(word in name for word in PASSED_OVER) and (split is None or int(split[1]) == 1)


def check_tags(files: Mapping[str, str], others: Iterable[str] = ()) -> None:
    """Check that every tag finds its own file among all that will be published, by llama.cpp's rule and by the Hub's.

    Args:
        files: path in the repository by tag, such as `{"Q6_K": "Model-Q6_K.gguf"}`.
        others: further paths of the repository, such as the imatrix.

    Raises:
        InputError: a tag finds another file, or none; one line with the tag, both files and what to rename.
    """
    paths = {*files.values(), *others}
    for tag, expected in files.items():
        if (problem := wrong_tag(tag, expected, paths)) is not None:
            raise InputError(f"quant {tag}: {problem.reason}; {problem.remedy}")


@dataclass(frozen=True)
class WrongTag:
    """Why a tag does not find its own file alone, what to do where one can rename, and the file that it finds, if any."""

    reason: str
    remedy: str
    found: str | None


def wrong_tag(tag: str, expected: str, paths: Collection[str]) -> WrongTag | None:
    """What is wrong with a tag among the paths of a repository; None when both rules find `expected` alone."""
    rename = "rename the quant or the model"
    found = file_for_tag(paths, tag)
    if found is None:
        return WrongTag(f"`-hf …:{tag}` would not find {expected}", f"end its name in -{tag}.gguf", None)
    if found != expected:
        return WrongTag(f"`-hf …:{tag}` would load {found} and not {expected}", rename, found)
    if last_label(tag) is None:
        return WrongTag("the Hub finds no quant label in this name", f"end it in one, such as {tag}-Q6_K", None)
    named = files_for_label(paths, tag)
    if named == [expected]:
        return None
    other = next((path for path in named if path != expected), None)
    shown = other or f"{expected} for {last_label(expected.rpartition('/')[2])}"
    reason = (
        f"the Hub reads the last quant label of a name and would show {shown} for {last_label(tag)} and not {expected} alone"
    )
    return WrongTag(reason, rename, other)


def labelled_otherwise(name: str, file_type: str | None) -> str | None:
    """The file type that a quant's name claims although the file is of another; None when it claims none, or its own.

    Only a label that llama-quantize has as a type claims one: `Q4_K_XL` is none.
    """
    claimed = (last_label(name) or "").removeprefix("UD-")
    claimed, own = _SAME.get(claimed, claimed), _SAME.get(file_type or "", file_type or "")
    return claimed if {claimed, own} <= {*FILE_TYPES} - {"COPY"} and claimed != own else None


def quant_file(model: str, quant: str) -> str:
    """The file name of a quant.  llama.cpp's `-hf repo:TAG` wants the quant label last."""
    return f"{model}-{quant}.gguf"


def imatrix_file(model: str) -> str:
    """The file name of the importance matrix, which llama.cpp passes over."""
    return f"{model}-imatrix.gguf"
