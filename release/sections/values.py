"""Values that several sections of a manifest hold: sizes, pinned files."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt, StringConstraints

from release.documents import Document
from release.patterns import Sha256

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_size(value: Any) -> Any:
    """Bytes of a size such as `5GiB`; a number is bytes already."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)\s*([KMGT]i?B|B|)", value.strip())
        if not match:
            raise ValueError(f"{value!r} is no size; write for example 5GiB, 4GB or a number of bytes")
        return int(match[1]) * _UNITS[match[2]]
    return value


LARGEST_SIZE = 1 << 50
SizeText = Annotated[str, StringConstraints(pattern=r"^\s*\d+\s*([KMGT]i?B|B|)\s*$")]
Size = Annotated[
    int, BeforeValidator(parse_size, json_schema_input_type=SizeText | PositiveInt), Field(gt=0, le=LARGEST_SIZE, strict=True)
]


class PinnedFile(Document):
    """A file beside the manifest, with the digest that it must have."""

    path: str = Field(description="Relative to the manifest's folder, and inside it.")
    sha256: Sha256 | None = Field(None, description="Refuse the file when it has another SHA-256.")
