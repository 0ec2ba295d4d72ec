"""Bounds on what a Hub's API may answer: huggingface_hub waits without end, and reads each answer whole, however large."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

LARGEST_ANSWER = 64 << 20
"""Bytes; a page of a listing has one megabyte."""
LONGEST_ANSWER = 300.0
"""Seconds from the first byte to the last."""
LONGEST_SILENCE = 20.0
"""Seconds without a byte of an answer after which a question counts as failed in passing."""
UNHURRIED = ("/commit/", "/merge", "/duplicate", "/super-squash")
"""What a Hub may take its time for: it moves much, and asking twice is no harmless thing."""
API = "/api/"


def limit_answers() -> None:
    """Let huggingface_hub's client give up on an answer of the API that is no answer; downloads are not touched."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # public, not in __all__

    session = get_session()
    hooks = session.event_hooks
    if _limit not in hooks["response"]:
        session.event_hooks = {"request": [*hooks["request"], _ask_plainly], "response": [*hooks["response"], _limit]}


def _ask_plainly(request: Any) -> None:
    """Without compression, a kilobyte that arrives cannot become a gigabyte; and a server that never answers is left."""
    if API not in request.url.path:
        return
    request.headers["Accept-Encoding"] = "identity"
    bounded = ("connect",) if any(each in request.url.path for each in UNHURRIED) else ("connect", "read")
    asked = request.extensions.get("timeout", {})
    unlimited = {name: LONGEST_SILENCE for name in bounded if asked.get(name) is None}
    request.extensions = {**request.extensions, "timeout": {**asked, **unlimited}}


def _limit(response: Any) -> None:
    if API not in response.request.url.path:
        return
    http = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, or what this huggingface_hub has in its place
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise http.ReadError("the answer is compressed, though that was not asked for", request=response.request)

    class Limited(http.SyncByteStream):  # type: ignore[misc, name-defined]
        """The answer's bytes, until they are too many or take too long."""

        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __iter__(self) -> Iterator[bytes]:
            left, end = LARGEST_ANSWER, time.monotonic() + LONGEST_ANSWER
            for block in self._stream:
                left -= len(block)
                if left < 0 or time.monotonic() > end:
                    raise http.ReadError("the answer does not end", request=response.request)
                yield block

        def close(self) -> None:
            self._stream.close()

    response.stream = Limited(response.stream)
