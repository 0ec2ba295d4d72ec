"""Whether a release finds its place on the Hub: a tag that names other files, and a public repository for a private release.

Publishing asks it again of the finished files.  Before the hours of a build it is asked of the lock, where one says what comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from release.context import Context
from release.lock import Lock, read_committed_lock

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from release.hub.remote import RemoteTree

MODEL = ("weights/", "gguf/", "imatrix/")


def require_place(context: Context, api: HfApi) -> None:
    """Refuse what is certain to stop the release at its end, and say what may.

    Raises:
        CheckFailedError: the lock's files stand elsewhere than the tag says, or the repository is public.
        UnavailableError: the Hub cannot be reached or will not say.
    """
    if context.options.pull_request:
        return
    lock = None if context.options.update_lock else read_committed_lock(context.loaded.lock_path)
    for repo in filter(None, (context.publish.weights, context.publish.gguf)):
        for tree, problem in _occupied(context, api, repo):
            if lock is None:
                context.progress.note(f"{problem}; publishing will be refused unless it holds the very files of this release")
            elif not _holds(lock, tree):
                raise CheckFailedError(problem)


def _occupied(context: Context, api: HfApi, repo: str) -> Iterator[tuple[RemoteTree, str]]:
    """What stands in the way, if it holds anything but this release."""
    from release.hub.remote import remote_tree, tag_tree

    publish = context.publish
    main = remote_tree(api, repo)
    if main is None:
        return
    if publish.private and not main.private:
        yield main, f"{repo}: is public, and the release is to stay private; make it private there, or say `private: false`"
    if publish.tag and (named := tag_tree(api, repo, publish.tag)):
        yield named, f"{repo}: the tag {publish.tag} names commit {named.commit[:12]}; choose another, or delete that one"


def _holds(lock: Lock, tree: RemoteTree) -> bool:
    """Whether no large file of the model that stands there is another one than the lock's."""
    locked = {path.partition("/")[2]: file.sha256 for path, file in lock.outputs.items() if path.startswith(MODEL)}
    large = {name: file.sha256 for name, file in tree.files.items() if file.sha256 and name in locked}
    return bool(large) and all(locked[name] == sha256 for name, sha256 in large.items())
