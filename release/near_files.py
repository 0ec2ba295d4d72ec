"""The file that was probably meant by a path that leads to none."""

from __future__ import annotations

import difflib
from itertools import chain, islice
from pathlib import Path, PurePosixPath

MOST_FILES = 2000
"""Files that are looked at for a hint."""
ALIKE = 0.75


def near_file(root: Path, name: str) -> str:
    """`; did you mean 'protocols/x.yaml'?` for a file below `root` whose path or bare name is close, or nothing.

    Args:
        root: folder that the name is relative to; its files and those of the folders in it are known.
        name: what leads to no file.
    """
    try:
        found = islice(chain(root.glob("*"), root.glob("*/*"), (root / name).parent.glob("*")), MOST_FILES)
        files = sorted({each.relative_to(root).as_posix() for each in found if each.is_file() and each.is_relative_to(root)})
    except (OSError, ValueError):
        return ""
    wanted = PurePosixPath(name)
    same = [each for each in files if wanted.name in (PurePosixPath(each).name, PurePosixPath(each).stem)]
    near = same if len(same) == 1 else difflib.get_close_matches(name, files, n=1, cutoff=ALIKE)
    return f"; did you mean {near[0]!r}?" if near else ""
