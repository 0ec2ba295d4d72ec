"""Files in a repository that no release put there: which of them a user's loader, or the Hub, would take for part of it."""

from __future__ import annotations

from pruner.strangers import taken_for
from release.hub.card_check import RESULTS


def what_it_is(path: str) -> str | None:
    """What a file of a model repository would do to its users, by its name alone; None for one that nobody reads."""
    return "results" if path.startswith(RESULTS) else taken_for(path)
