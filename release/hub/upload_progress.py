"""Progress while a large file is on its way: huggingface_hub counts the bytes, and shows them on bars of its own alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from pruner.progress import Advance

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd


class Sent:
    """How far one upload has come; bytes that are sent again count once, and a file ends where it should."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self._told = advance, 0

    def reach(self, position: int) -> None:
        """Report what is new up to a position."""
        if position > self._told:
            self._advance(position - self._told)
            self._told = position


def counted_add(path: str, local: Path, sent: Sent) -> CommitOperationAdd:
    """An operation for a file on this disk that tells how much of it was read to be sent by plain LFS."""
    from huggingface_hub import CommitOperationAdd

    class Counted(CommitOperationAdd):
        @contextmanager
        def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:  # noqa: FBT001, FBT002  # the client's own signature
            with super().as_file() as file:
                yield _counting(file, sent) if with_tqdm else file  # only uploads ask for a bar

    return Counted(path, local.absolute())


def _counting(file: IO[bytes], sent: Sent) -> Any:
    read = file.read

    def counted(size: int = -1) -> bytes:
        data = read(size)
        sent.reach(file.tell())
        return data

    file.read = counted  # type: ignore[method-assign]  # as the client does it for its own bar
    return file


@contextmanager
def xet_told(sent: Sent) -> Iterator[None]:
    """Take the place of the client's bars for Xet while one file is uploaded.

    A client that has none of this name, or whose bars are off by its environment, tells nothing: then progress moves file by
    file.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars  # type: ignore[attr-defined]

    bars = _xet_bars()
    if bars is None or constants.HF_HUB_DISABLE_PROGRESS_BARS:
        yield
        return

    class Reporter:
        def __init__(self, *_words: Any, **_options: Any) -> None: ...

        def update_progress(self, report: Any, _files: Any) -> None:
            sent.reach(report.total_bytes_completed)

        def close(self) -> None: ...

    theirs = bars.XetUploadProgressReporter
    bars.XetUploadProgressReporter = Reporter
    enable_progress_bars()
    try:
        yield
    finally:
        disable_progress_bars()
        bars.XetUploadProgressReporter = theirs


def _xet_bars() -> Any:
    """The client's module of bars for Xet, where it has one and sends by Xet."""
    try:
        from huggingface_hub.utils import _xet_progress_reporting as bars
        from huggingface_hub.utils._runtime import is_xet_available
    except ImportError:
        return None
    return bars if is_xet_available() and hasattr(bars, "XetUploadProgressReporter") else None
