"""A card's metadata and a repo's results, as the Hub itself judges them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.hub_failures import harmless, patiently
from release.hub.card_metadata import card_metadata
from release.hub.remote import hub_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
RESULTS = ".eval_results/"
BAD_REQUEST = 400
MOST_SHOWN = 3


def require_valid_card(api: HfApi, content: str) -> None:
    """Let the Hub lint the metadata on top of a card.

    The commit asks the same (and shows warnings), but only after hours of upload.

    Raises:
        CheckFailedError: the Hub would refuse it; says what is wrong.
        UnavailableError: the Hub cannot be reached.
    """
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not listed in __all__
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    def ask() -> dict[str, object]:
        answer = get_session().post(
            f"{api.endpoint}/api/validate-yaml",
            json={"content": content, "repoType": "model"},
            headers=build_hf_headers(token=api.token),
        )
        if answer.status_code != BAD_REQUEST:
            hf_raise_for_status(answer)
        try:
            value = answer.json()
        except ValueError:
            value = None
        return value if isinstance(value, dict) else {}

    with hub_errors(api.endpoint, "validate the card"):
        said = patiently(ask, endpoint=api.endpoint)
    rows = said.get("errors")
    errors = [harmless(str(row.get("message", ""))) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if errors:
        raise CheckFailedError(f"{CARD}: the Hub refuses its metadata: {'; '.join(errors[:MOST_SHOWN])}")


def unreadable(path: str, read: Callable[[], bytes]) -> str | None:
    """Why a file of metadata means nothing to the Hub: a card's head, or results below `.eval_results/`; None for any other.

    Any other is not read.
    """
    import yaml
    from huggingface_hub import parse_eval_result_entries

    if path != CARD and not (path.startswith(RESULTS) and path.endswith((".yaml", ".yml"))):
        return None
    try:
        text = read().decode()
    except UnicodeDecodeError:
        return "no UTF-8 text"
    if path == CARD:
        errors = card_metadata(text).errors
        return errors[0] if errors else None
    try:
        entries = parse_eval_result_entries(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"no list of results ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
    return None if entries else "an empty list of results"
