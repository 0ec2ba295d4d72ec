"""One commit: contents uploaded, digests compared with what was meant, and nothing of anybody else overwritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.files import sha256_bytes
from pruner.hub_failures import BACK_OFF, passes, status_of
from pruner.progress import Progress
from release.hub.publication_plan import PlannedFile, PublicationPlan, compare_tree
from release.hub.remote import RemoteTree, remote_tree
from release.hub.upload_progress import Sent, counted_add, xet_told

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    Operation = CommitOperationAdd | CommitOperationDelete

IN_MEMORY = 4 << 20
"""Files up to this size are read once, checked and sent from memory, so what is sent is what was checked."""
PRECONDITION_FAILED = 412
MAIN = "main"


@dataclass(frozen=True)
class Job:
    """What every step of one publication needs."""

    api: HfApi
    repo: str
    files: Mapping[str, Path]
    digests: Mapping[str, str]
    pause: Callable[[float], None]

    def plan(self, tree: RemoteTree | None) -> PublicationPlan:
        """What would have to change in `tree` for it to hold every file."""
        return compare_tree(self.files, self.digests, tree, self.repo)


def require_digest(path: str, found: str, expected: str) -> None:
    """Raise CheckFailedError when a file is not what the lock says."""
    if found != expected:
        raise CheckFailedError(
            f"{path}: the file on disk is not what the lock says (sha256 {found[:12]}…, expected {expected[:12]}…); "
            "nothing was committed: delete it and run the same command again"
        )


def operations(job: Job, plan: PublicationPlan, progress: Progress, revision: str = MAIN) -> list[Operation]:
    """Upload the contents of large files, and return the operations of the commit, each with the digest that was meant.

    Whole files are held in memory only up to 4 MiB each; what an earlier run uploaded is not sent again.
    """
    from huggingface_hub import CommitOperationDelete

    changes = plan.changes
    small = [_from_memory(file, job.files[file.path]) for file in changes if file.size <= IN_MEMORY]
    large: list[CommitOperationAdd] = []
    with progress.task(f"uploading to {job.repo}", sum(file.size for file in changes), "bytes") as advance:
        job.api.preupload_lfs_files(job.repo, small, revision=revision, free_memory=False)
        advance(sum(operation.upload_info.size for operation in small))
        for file in [file for file in changes if file.size > IN_MEMORY]:
            sent = Sent(advance)
            large.append(_from_disk(file, job.files[file.path], sent))
            with xet_told(sent):
                job.api.preupload_lfs_files(job.repo, large[-1:], revision=revision, free_memory=False)
            sent.reach(file.size)
    added = [*small, *large]
    for operation in added:
        path = operation.path_in_repo
        require_digest(path, operation.upload_info.sha256.hex(), job.digests[path])
    return [*added, *(CommitOperationDelete(path) for path in plan.removed)]


def _from_memory(file: PlannedFile, local: Path) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    data = local.read_bytes()
    require_digest(file.path, sha256_bytes(data), file.sha256)
    return CommitOperationAdd(file.path, data)


def _from_disk(file: PlannedFile, local: Path, sent: Sent) -> CommitOperationAdd:
    """An operation that reads a large file from disk.

    Its digest is left for the client to compute: over plain LFS before the upload, whose arrival the Hub checks; over Xet from
    the very bytes that are sent.
    """
    return counted_add(file.path, local, sent)


def commit_operations(job: Job, plan: PublicationPlan, made: Sequence[Operation], message: str, revision: str = MAIN) -> str:
    """Commit on top of the plan's head and return the new commit.

    The client does not repeat this request, since a success may get lost on its way back.  So after a failure the branch is
    read again: our files there are our success, the old head allows another try, anything else is somebody else's work.

    Raises:
        CheckFailedError: somebody else moved the branch meanwhile.
    """
    head = str(plan.head)
    for seconds in (*BACK_OFF, None):
        try:
            done = job.api.create_commit(job.repo, made, commit_message=message, parent_commit=head, revision=revision)
            return str(done.oid)
        except Exception as error:
            if not (passes(error) or status_of(error) == PRECONDITION_FAILED):
                raise
            tree = remote_tree(job.api, job.repo, revision)
            if tree and tree.commit != head:
                return _adopted(job, plan, tree, revision)
            if seconds is None or status_of(error) == PRECONDITION_FAILED:
                raise
        job.pause(seconds)
    raise AssertionError("the last try returns or raises")


def _adopted(job: Job, plan: PublicationPlan, tree: RemoteTree, revision: str) -> str:
    """The head that stands there now, if it holds our files and nothing that we removed."""
    if job.plan(tree).changes or tree.files.keys() & set(plan.removed):
        raise CheckFailedError(
            f"{job.repo}: somebody else moved {revision} from {str(plan.head)[:12]} to {tree.commit[:12]} meanwhile; "
            "nothing was committed, look at their commit and run again"
        )
    return tree.commit
