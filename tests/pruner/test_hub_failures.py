"""What is said of a Hub's failures: one line that names what was asked, where, and what to do; never a token."""

from __future__ import annotations

import errno

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from pruner.errors import CheckFailedError, InputError, MoeReleaseError, UnavailableError
from pruner.hub_failures import MOST_SAID, TO_DO, TO_READ, Wording, harmless, one_line

ADDRESS = "http://name:password@127.0.0.1:9"
TOKEN = "hf_" + "A" * 34


def answered(status: int, said: str = "words") -> HfHubHTTPError:
    response = httpx.Response(status, request=httpx.Request("GET", ADDRESS))
    return HfHubHTTPError("long\ntext", response=response, server_message=said)


def raised(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "wording", "kind", "line"),
    [
        (answered(401), TO_DO, UnavailableError, "HUB: may not WHAT (401: words); set HF_TOKEN to a token that may, or "),
        (
            answered(403),
            TO_READ,
            UnavailableError,
            "WHAT: the Hub does not give it (403: words); check the name, and set HF_TOKEN",
        ),
        (
            answered(404),
            TO_DO,
            UnavailableError,
            "HUB: cannot WHAT (404: words); check the name, and that your token may see it",
        ),
        (
            answered(404),
            TO_READ,
            UnavailableError,
            "WHAT: the Hub does not give it (404: words); check the name, and set HF_TOKEN",
        ),
        (answered(503, ""), TO_DO, UnavailableError, "HUB: cannot WHAT now (503: no explanation); run again later, finished"),
        (answered(507), TO_DO, UnavailableError, "HUB: cannot WHAT now (507: words); run again later"),
        (answered(429), TO_READ, UnavailableError, "WHAT: the Hub does not give it (429: words); run again later"),
        (answered(400), TO_DO, CheckFailedError, "HUB: refused to WHAT (400: words)"),
        (answered(400), TO_READ, UnavailableError, "WHAT: the Hub does not give it (400: words); run again later"),
        (answered(400, "a {status} {0}"), TO_DO, CheckFailedError, "HUB: refused to WHAT (400: a {status} {0})"),
        (
            answered(403, f"\x1b[2J no {TOKEN}"),
            TO_READ,
            UnavailableError,
            "WHAT: the Hub does not give it (403: [2J no [token])",
        ),
        (raised(RuntimeError(), answered(503)), TO_DO, UnavailableError, "HUB: cannot WHAT now (503: words)"),
        (
            ConnectionError("x"),
            TO_DO,
            UnavailableError,
            "HUB: cannot be reached to WHAT; check the network, and HF_ENDPOINT or --hub",
        ),
        (
            TimeoutError("x"),
            TO_READ,
            UnavailableError,
            "WHAT: the connection to HUB failed or broke off again and again; ",
        ),
        (KeyError("sha"), TO_DO, UnavailableError, "HUB: its answer to WHAT cannot be understood (KeyError); is it a Hub?"),
        (ValueError("x"), TO_READ, UnavailableError, "WHAT: the Hub's answer cannot be understood (ValueError); is it a Hub?"),
        (HFValidationError("bad name\nmore"), TO_READ, InputError, "WHAT: bad name"),
        (OSError(errno.ENOSPC, "full", "/x/y"), TO_DO, UnavailableError, "/x/y: no space left on the disk; free some and run"),
        (OSError(errno.ENOSPC, "full"), TO_READ, UnavailableError, "WHAT: no space left on the disk; free some and run"),
    ],
)
def test_a_failure_is_one_line(error: Exception, wording: Wording, kind: type[MoeReleaseError], line: str) -> None:
    found = one_line(error, "WHAT", ADDRESS, wording)
    assert type(found) is kind
    assert str(found).startswith(line.replace("HUB", "http://127.0.0.1:9"))
    assert "\n" not in str(found)
    assert "password" not in str(found)
    assert TOKEN not in str(found)


def test_what_is_told_already_stays_and_what_is_no_hubs_doing_passes() -> None:
    ours = InputError("x")
    assert one_line(ours, "WHAT", None) is ours
    assert one_line(PermissionError(errno.EACCES, "no", "/x"), "WHAT", None) is None
    assert one_line(ZeroDivisionError(), "WHAT", None) is None


def test_what_a_server_says_shows_no_token_and_commands_no_terminal() -> None:
    said = harmless(f"bad Bearer {TOKEN}\x1b]0;x\a and {TOKEN}\nsecond line " + "y" * 500)
    assert TOKEN not in said
    assert "Bearer" not in said
    assert "\x1b" not in said
    assert "\n" not in said
    assert len(said) <= MOST_SAID
