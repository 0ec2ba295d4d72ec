"""Links that lead nowhere: anchors without a heading, files that the repository does not hold, addresses that are none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge

KIND = "link"
HUB = frozenset({"huggingface.co", "hf.co"})
FILE_PAGE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/(?:blob|resolve|raw|tree)/main/(?P<file>.+?)/?")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})  # noqa: S104  # names to refuse, nothing is bound


def find(document: Document, knowledge: Knowledge) -> Iterator[Finding]:
    """No network: a remote address is only checked for its form, and in the card's own repository by the list of files."""
    for link in document.links:
        if (reason := _broken(link.target, document, knowledge)) is not None:
            yield Finding(link.number, KIND, f"{link.target[:80] or 'an empty link'}: {reason}")


def _broken(target: str, document: Document, knowledge: Knowledge) -> str | None:
    try:
        parts = urlsplit(target)
        host = parts.hostname or ""
    except ValueError:
        return "is no address"
    if parts.scheme:
        return _remote(parts.scheme, host, target) or _missing(host, unquote(parts.path), knowledge)
    if not parts.path:
        return None if unquote(parts.fragment).lower() in document.anchors else "no heading of this card has this anchor"
    path = unquote(parts.path)
    elsewhere = path.startswith(("/", "../"))  # another page of the Hub
    return None if elsewhere or knowledge.files is None or knowledge.has(path) else "the repository has no such file"


def _missing(host: str, path: str, knowledge: Knowledge) -> str | None:
    """A file of the card's own repository that is not among its files; what another commit had is not known."""
    match = FILE_PAGE.fullmatch(path)
    if host not in HUB or match is None or knowledge.files is None or match["repo"] not in knowledge.repositories:
        return None
    return None if knowledge.has(match["file"]) else "the repository has no such file"


def _remote(scheme: str, host: str, target: str) -> str | None:
    if scheme not in ("http", "https"):
        return None if scheme == "mailto" else f"readers cannot follow {scheme}:"
    if host in LOOPBACK:
        return "leads to the reader's own machine"
    return None if "." in host and " " not in target else "has no host"
