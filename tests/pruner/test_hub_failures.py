"""What is said of a Hub's failures: one line that names what was asked, where, and what to do; never a token."""

from __future__ import annotations

import errno

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from pruner.errors import CheckFailedError, InputError, MoeReleaseError, UnavailableError
from pruner.hub_failures import MOST_SAID, TO_DO, TO_READ, Wording, endpoint_of, harmless, one_line

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


@pytest.mark.parametrize(
    "secret",
    [
        "hf_oauth_eyJhbGciOi.eyJzdWIiOiIx.c2ln-bmF0dXJl",
        "hf_jwt_eyJhbGciOi.eyJzdWIiOiIx.c2lnbmF0dXJl",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2lnbmF0dXJl",
        "github_pat_11ABCDEFG0abcdefgh",
        "ghp_" + "A" * 36,
        "api_org_ABCDEFGHIJKLMNOP",
        "Authorization: Basic bmFtZTpwYXNz",
        '"authorization": "Bearer abc"',
        "Basic bmFtZTpwYXNz",
        "bearer=abcdef",
        "BEARER: abcdef",
        "token=abcdef",
        "access_token: abcdef",
        "password=abcdef",
        "https://name:password@",
        "bearer abcdef",
    ],
)
@pytest.mark.parametrize("split", ["", "\0", "\x1b", "\n", "\u200b", "\u00a0", "\u2028"])
def test_no_kind_of_token_is_shown_whole_or_split(secret: str, split: str) -> None:
    for place in (secret.index("_") + 3 if "_" in secret else len(secret) - 4, len(secret) - 5):
        said = harmless(f"first line\nrefused: {secret[:place]}{split}{secret[place:]} here")
        assert "[token]" in said
        assert secret[place:].rstrip("@") not in said


def test_a_control_character_in_the_place_of_a_blank_hides_no_token() -> None:
    for written in ("bearer\nabcdef", "Authorization:\nBasic\nabcdef", "Basic\0bmFtZTpwYXNz", "token\n=\nabcdef"):
        assert harmless(f"{written} here") in ("[token] here", "[token]", "[token]here")


@pytest.mark.parametrize(
    "words",
    ["Repository Not Found", "basic access is off", "the token is too old", "see https://huggingface.co/docs", "HF_TOKEN"],
)
def test_plain_words_stay_and_lines_become_one(words: str) -> None:
    assert harmless(f"{words}\r\n\tsecond\nthird") == f"{words} second third"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "unit",
    ["authorization:", "authorization ", "basic ", "basic a", "bearer", "://", "hf_", "token=", "eyJ", "a", " ", "\n", "="],
)
def test_no_text_takes_long_to_clean(unit: str) -> None:
    assert len(harmless(unit * (4_000_000 // len(unit)))) <= MOST_SAID


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://name:SECRET@host:9", "http://host:9"),
        ("http://name:SE/C?R#ET@host:9/hub", "http://host:9/hub"),
        ("http://na@me:SECRET@host", "http://host"),
        ("name:SECRET@host", "host"),
        ("http://[", "http://["),
        ("https://huggingface.co", "https://huggingface.co"),
    ],
)
def test_an_endpoint_is_named_without_its_password(url: str, shown: str) -> None:
    assert endpoint_of(url) == shown
