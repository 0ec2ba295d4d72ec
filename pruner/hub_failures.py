"""What can go wrong between huggingface_hub and a Hub: which failures pass, how often one tries again, and what is said."""

from __future__ import annotations

import errno
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pruner.errors import CheckFailedError, InputError, MoeReleaseError, UnavailableError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

LOG = logging.getLogger(__name__)
Result = TypeVar("Result")
NO_ADDRESS = "InvalidURL"
"""What the client's HTTP library, whichever it is, raises for an address made of a name that is far too long."""
GARBLED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What huggingface_hub raises when an answer is not what a Hub answers: no JSON, no such key, another type."""
BACK_OFF = (1.0, 2.0, 4.0, 8.0)
"""Seconds between tries of a request that failed in passing."""
SILENT_SECONDS = 6.0
"""Seconds that a call may take before the user is told whom it waits for."""
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
FORBIDDEN = frozenset({401, 403})
NOT_FOUND, NO_SPACE = 404, 507
CREDENTIAL = re.compile(
    r"(?i:authorization\W{0,9}(?:\w{1,20}\s{1,9})?\S+)"
    r"|(?i:bearer\W{0,9}\S+)"
    r"|(?i:basic)\s{0,9}(?=[a-z]{0,99}[A-Z0-9+/=])\S{8,}"
    r"|(?i:(?:token|passw(?:or)?d|secret|api[_-]?key)[\"']?\s{0,9}[:=]\s{0,9}\S+)"
    r"|(?<=://)[^\s/@]{1,999}(?=@)"
    r"|hf_[\w.-]{8,}|gh[a-z]_\w{20,}|github_pat_\w{8,}|api_(?:org_)?\w{8,}"
    r"|eyJ[\w-]{8,}[\w.-]*"
)
"""Anything like a token, also where it is none: a word too few of what a server says is no loss.

Blanks in it are optional: between them there may have been control characters alone.
"""
MOST_SAID, MOST_READ = 200, 20_000


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
    strange = isinstance(error, GARBLED) and not isinstance(error, OSError)  # the client's "not in the cache" is both
    strange |= type(error).__name__ == NO_ADDRESS
    return strange and http_failure(error) is None and not connection_failure(error)


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

    return re.sub(r"\A(\w+://)?.*@", r"\1", url or constants.ENDPOINT, flags=re.DOTALL)


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


def patiently(call: Callable[[], Result], pause: Callable[[float], None] = time.sleep, *, endpoint: str | None) -> Result:
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


@dataclass(frozen=True)
class Wording:
    """How the failures of a request are told.

    Sentences name the `{endpoint}`, `{what}` was asked, the `{status}` and what the Hub `{said}`, or the `{kind}` of an answer
    that no Hub gives.

    Attributes:
        garbled: the answer cannot be understood.
        cut: no connection, or one that broke off.
        forbidden: the token may not (401, 403).
        missing: there is no such thing, or it may not be seen (404).
        busy: the Hub cannot now.
        refused: any other status.
        blamed: whether a refusal is a check that failed, of what was sent; else something that cannot be had.
    """

    garbled: str
    cut: str
    forbidden: str
    missing: str
    busy: str
    refused: str
    blamed: bool


TO_DO = Wording(
    garbled="{endpoint}: its answer to {what} cannot be understood ({kind}); is it a Hub?",
    cut="{endpoint}: cannot be reached to {what}; check the network, and HF_ENDPOINT or --hub",
    forbidden="{endpoint}: may not {what} ({status}: {said}); set HF_TOKEN to a token that may, or run `hf auth login`",
    missing="{endpoint}: cannot {what} (404: {said}); check the name, and that your token may see it",
    busy="{endpoint}: cannot {what} now ({status}: {said}); run again later, finished uploads are kept",
    refused="{endpoint}: refused to {what} ({status}: {said})",
    blamed=True,
)
"""Of something to do, which completes "cannot …"."""

_NOT_GIVEN = "{what}: the Hub does not give it ({status}: {said}); "
_NO_RIGHT = _NOT_GIVEN + "check the name, and set HF_TOKEN to a token that may read it (or run `hf auth login`)"
TO_READ = Wording(
    garbled="{what}: the Hub's answer cannot be understood ({kind}); is it a Hub?",
    cut=(
        "{what}: the connection to {endpoint} failed or broke off again and again; "
        "check the network and HF_ENDPOINT, and run again"
    ),
    forbidden=_NO_RIGHT,
    missing=_NO_RIGHT,
    busy=_NOT_GIVEN + "run again later",
    refused=_NOT_GIVEN + "run again later",
    blamed=False,
)
"""Of something to read, which is named: a repository or one of its files."""


def one_line(error: Exception, what: str, endpoint: str | None, wording: Wording = TO_DO) -> MoeReleaseError | None:
    """The error for the user, None when it was neither the Hub's doing nor a full disk's.

    Args:
        error: what was raised.
        what: what was asked, as the wording wants it.
        endpoint: address of the Hub; None is the client's own.
        wording: how it is told.
    """
    from huggingface_hub.errors import HFValidationError

    if isinstance(error, MoeReleaseError):
        return error
    if isinstance(error, HFValidationError):
        return InputError(f"{what}: {str(error).splitlines()[0]}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnavailableError(f"{error.filename or what}: no space left on the disk; free some and run again")
    named = {"endpoint": endpoint_of(endpoint), "what": what}
    failure = http_failure(error)
    if garbled(error):
        return UnavailableError(wording.garbled.format(**named, kind=type(error).__name__))
    if failure is None:
        return UnavailableError(wording.cut.format(**named)) if connection_failure(error) else None
    named["said"] = harmless(failure.server_message or "") or "no explanation"
    return _http_line(failure.response.status_code, wording, named)


def _http_line(status: int, wording: Wording, named: Mapping[str, str]) -> MoeReleaseError:
    kind: type[MoeReleaseError] = UnavailableError
    if status in FORBIDDEN:
        sentence = wording.forbidden
    elif status == NOT_FOUND:
        sentence = wording.missing
    elif status in TRANSIENT or status == NO_SPACE:
        sentence = wording.busy
    else:
        sentence, kind = wording.refused, CheckFailedError if wording.blamed else UnavailableError
    return kind(sentence.format(**named, status=status))


def harmless(text: str) -> str:
    """What a server says, fit to be shown: one short line without control characters and without anything like a token.

    Control characters become nothing rather than blanks, or one inside of a token would hide it.  Only the ends of lines are
    blanks, unless a token shows without them.
    """
    said = "".join(each for each in text[:MOST_READ] if each.isprintable() or each.isspace())
    lines, joined = (" ".join(each.split()) for each in (said, "".join(each for each in said if each.isprintable())))
    return (CREDENTIAL.sub("[token]", joined) if CREDENTIAL.search(joined) else lines)[:MOST_SAID]
