"""What can go wrong between huggingface_hub and a Hub: which failures pass, and how often something is tried again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

LOG = logging.getLogger(__name__)
Result = TypeVar("Result")
GARBLED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What huggingface_hub raises when an answer is not what a Hub answers: no JSON, no such key, another type."""
BACK_OFF = (1.0, 2.0, 4.0, 8.0)
"""Seconds between tries of a request that failed in passing."""
SILENT_SECONDS = 6.0
"""Seconds that a call may take before the user is told whom it waits for."""
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


def http_failure(error: BaseException) -> HfHubHTTPError | None:
    """The HTTP failure that an error is, or was raised from."""
    from huggingface_hub.errors import HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    return cause


def connection_failure(error: BaseException) -> bool:
    """Whether an error is, or was raised from, a connection that failed or took too long."""
    from huggingface_hub.errors import HfHubHTTPError

    library_errors = HfHubHTTPError.__mro__[1]  # HTTPError of the HTTP library that this huggingface_hub uses
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (library_errors, ConnectionError, TimeoutError)):
            return True
        cause = cause.__cause__
    return False


def garbled(error: BaseException) -> bool:
    """Whether an error is, or was raised from, an answer that no Hub gives."""
    return isinstance(error, GARBLED) and http_failure(error) is None and not connection_failure(error)


def status_of(error: BaseException) -> int | None:
    """HTTP status of a failure that reached the Hub, None for any other."""
    failure = http_failure(error)
    return failure.response.status_code if failure is not None else None


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    status = status_of(error)
    return status in TRANSIENT if status is not None else connection_failure(error)


def endpoint_of(url: str | None) -> str:
    """An endpoint as messages name it, without a password; None is the client's own."""
    from huggingface_hub import constants

    parts = urlsplit(url or constants.ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def say_again(url: str | None) -> None:
    """Say that a Hub is asked again: a line on stderr unless the program that uses this library logs otherwise."""
    LOG.warning("asking %s again", endpoint_of(url))


@contextmanager
def told_of_waiting(url: str | None) -> Iterator[None]:
    """Say once whom the body of the block waits for, when it takes more than some seconds."""
    timer = threading.Timer(SILENT_SECONDS, LOG.warning, ("waiting for %s", endpoint_of(url)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def patiently(
    call: Callable[[], Result], pause: Callable[[float], None] = time.sleep, *, endpoint: str | None = None
) -> Result:
    """Call something that may safely be repeated until it does not fail in passing, at most five times.

    A call that takes long and the first repetition are told, with the `endpoint` (None: the client's own).
    """
    for number, seconds in enumerate(BACK_OFF):
        try:
            with told_of_waiting(endpoint) if number == 0 else nullcontext():
                return call()
        except Exception as error:
            if not passes(error):
                raise
        if number == 0:
            say_again(endpoint)
        pause(seconds)
    return call()
