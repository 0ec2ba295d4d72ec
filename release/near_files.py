"""The file or folder that was probably meant by a path that leads to none."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path, PurePosixPath

MOST_FILES = 2000
"""Files that are looked at for a hint."""
ALIKE = 0.75


def near_file(root: Path, name: str) -> str:
    """`; did you mean 'protocols/x.yaml'?` for a file below `root` whose path or bare name is close, or nothing."""
    return _near(root, name, Path.is_file)


def near_folder(root: Path, name: str) -> str:
    """The same for a folder."""
    return _near(root, name, Path.is_dir)


def _near(root: Path, name: str, wanted_kind: Callable[[Path], bool]) -> str:
    """The hint, or nothing.

    Args:
        root: folder that the name is relative to; what is in it and in the folders in it is known.
        wanted_kind: whether a path is of the kind that is looked for.
        name: what leads to nothing.
    """
    try:
        found = islice(chain(root.glob("*"), root.glob("*/*"), (root / name).parent.glob("*")), MOST_FILES)
        files = sorted({each.relative_to(root).as_posix() for each in found if wanted_kind(each) and each.is_relative_to(root)})
    except (OSError, ValueError):
        return ""
    wanted = PurePosixPath(name)
    same = [each for each in files if wanted.name in (PurePosixPath(each).name, PurePosixPath(each).stem)]
    near = same if len(same) == 1 else difflib.get_close_matches(name, files, n=1, cutoff=ALIKE)
    return f"; did you mean {near[0]!r}?" if near else ""
