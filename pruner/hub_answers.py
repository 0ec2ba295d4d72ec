"""Bounds on what a Hub may answer: huggingface_hub waits without end, and reads each answer whole, however large."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pruner.hub_failures import harmless

LARGEST_ANSWER = 64 << 20
"""Bytes; a page of a listing has one megabyte."""
LONGEST_ANSWER = 300.0
"""Seconds from the first byte to the last."""
LONGEST_SILENCE = 20.0
"""Seconds without a byte of an answer after which a question counts as failed in passing."""
LONGEST_WORK = 900.0
"""The same for the requests of `UNHURRIED`."""
LONGEST_PAUSE = 60.0
"""Seconds that a server may ask to wait before the next try; more is cut down to this."""
UNHURRIED = ("/commit/", "/merge", "/duplicate", "/super-squash")
"""Requests that move much, and are not harmless to ask twice."""
API = "/api/"
WHOLE, PART = 200, 206
_QUESTION = "moe_release_question"
"""Marks a request to the API in its extensions, which the client hands on to wherever the answer redirects."""
_RESET = re.compile(r"(\bt\s*=\s*)(\d+)")
_INSTALLING = threading.Lock()


def limit_answers() -> None:
    """Let every client that huggingface_hub makes from now on, also after a failure, give up on what is no answer."""
    from huggingface_hub import get_session, set_client_factory
    from huggingface_hub.utils import _http

    with _INSTALLING:
        if _limit in get_session().event_hooks["response"]:
            return
        make = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)  # no public name gives a user's own
        set_client_factory(partial(_limited, make))
        logging.getLogger(_http.__name__).addFilter(_show_harmlessly)


def _limited(make: Callable[[], Any]) -> Any:
    """The client that another factory makes, with the bounds beside what it has already."""
    client = make()
    hooks = client.event_hooks
    if _limit not in hooks["response"]:  # a user's factory may give the same client again
        client.event_hooks = {"request": [*hooks["request"], _ask_plainly], "response": [*hooks["response"], _limit]}
    return client


def _show_harmlessly(record: logging.LogRecord) -> bool:
    """Of each failure that it repeats, huggingface_hub shows the whole address, with the password of an endpoint."""
    if record.levelno >= logging.WARNING:
        record.msg, record.args = harmless(record.getMessage()), ()
    return True


def _ask_plainly(request: Any) -> None:
    """Without compression, a kilobyte that arrives cannot become a gigabyte; and a server that never answers is left."""
    request.headers["Accept-Encoding"] = "identity"
    if API not in request.url.path and _QUESTION not in request.extensions:
        return
    read = LONGEST_WORK if any(each in request.url.path for each in UNHURRIED) else LONGEST_SILENCE
    asked = request.extensions.get("timeout", {})
    bounds = {"connect": LONGEST_SILENCE, "read": read}
    unlimited = {name: seconds for name, seconds in bounds.items() if asked.get(name) is None}
    request.extensions = {**request.extensions, _QUESTION: True, "timeout": {**asked, **unlimited}}


def _limit(response: Any) -> None:
    """Bound the pause that is asked for, and the bytes of all that is read whole: answers, refusals and redirects."""
    _cut_pauses(response.headers)
    if _QUESTION not in response.request.extensions and response.status_code in (WHOLE, PART):
        return  # a download, which whoever asked for it counts
    http = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, or what this huggingface_hub has in its place
    if response.request.method != "HEAD" and response.headers.get("Content-Encoding", "identity") != "identity":
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


def _cut_pauses(headers: Any) -> None:
    """huggingface_hub sleeps for as long as a server says, be it a year."""
    if (asked := headers.get("Retry-After")) is not None:
        if asked.strip().isdecimal():
            headers["Retry-After"] = _cut(asked)
        else:
            del headers["Retry-After"]
    if (rate := headers.get("RateLimit")) is not None:
        headers["RateLimit"] = _RESET.sub(lambda match: match[1] + _cut(match[2]), rate)


def _cut(seconds: str) -> str:
    return str(int(min(float(seconds), LONGEST_PAUSE)))
