"""What the Hub holds of a release already: its branch, and pull requests of ours that wait for a decision.

What differs from build to build, a signature and the seconds of the runs, is taken over from there where it is sound, so a
release that is repeated from a new work folder or a new machine changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from release.context import Context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import HfApi

    from release.hub.remote import RemoteTree


def release_title(context: Context) -> str:
    """What the commit or the pull request of a release is called: our own are found again by it."""
    return f"{context.manifest.name}: release"


def standing_trees(context: Context, api: HfApi, repo: str, main: RemoteTree | None) -> Iterator[RemoteTree]:
    """The branch, as it was read already, and for a proposal our undecided pull requests, each as a tree.

    Raises:
        UnavailableError: the Hub cannot be reached or will not say.
    """
    from release.hub.pull_request import undecided

    if main is None:
        return
    yield main
    if context.options.pull_request:
        yield from (tree for _, tree in undecided(api, repo, release_title(context)))
