"""A statement as a pull request: proposed once, whoever says the same again, on another day or on another machine at once."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import sha256_bytes, write_atomic
from pruner.hub_failures import patiently
from pruner.progress import SILENT, Progress
from release.attestation.envelope import verified_statement
from release.attestation.keyless import verified_bundle
from release.attestation.keys import SigstoreIdentity
from release.attestation.rebuild import Attestation
from release.hub.remote import RemoteTree

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from release.hub.pull_request import Proposal

PASSING = ("date", "platform", "tool")
"""What another rebuild with the same result says otherwise."""
LARGEST = 1 << 20
"""Bytes of a standing statement that are read at most."""
MESSAGE = "attestation: rebuilt by {builder}"
DUPLICATE = "Says the same as pull request {number}, which was made at the same time."


@dataclass(frozen=True)
class Proposed:
    """Where a statement waits, in which envelope, and whether it was proposed just now."""

    proposal: Proposal
    envelope: bytes
    new: bool = False


def propose_attestation(
    made: Attestation,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    progress: Progress = SILENT,
    pause: Callable[[float], None] = time.sleep,
) -> Proposed | None:
    """Propose the statement as a pull request to the repository; None when the branch has it already.

    The same said by the same signer stands, whenever and on whatever machine it was said: who rebuilds every week asks once.
    Of two that were made at the same time, the first stays.

    Raises:
        UnavailableError: the Hub cannot be reached, or takes no pull request from this token.
        CheckFailedError: the branch moved meanwhile, or the Hub does not hold what was sent.
    """
    from release.hub.remote import hub_api, hub_errors, quiet_client, remote_tree

    api = hub_api(endpoint, token)
    with hub_errors(api.endpoint, f"propose to {made.repo}"), quiet_client(progress):
        tree = remote_tree(api, made.repo)
        if _standing(api, made, tree):
            return None
        waiting = _first_waiting(api, made, pause)
        if waiting and waiting.proposal.is_open:
            return waiting
        if waiting:  # a draft: whoever made it was killed, or is at work
            made = replace(made, envelope=waiting.envelope)
        try:
            proposal = _propose(api, made, tree, progress, pause)
        except (CheckFailedError, UnavailableError):  # another machine may have taken up our draft, or we its
            if waiting := _first_waiting(api, made, pause):
                return waiting
            raise
        first = _first_waiting(api, made, pause)
        return first if first and first.proposal.number != proposal.number else Proposed(proposal, made.envelope, new=True)


def _propose(
    api: HfApi, made: Attestation, tree: RemoteTree | None, progress: Progress, pause: Callable[[float], None]
) -> Proposal:
    from release.hub.commit import Job, operations
    from release.hub.pull_request import propose

    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "attestation.json"
        write_atomic(local, made.envelope)
        job = Job(api, made.repo, {made.path: local}, {made.path: sha256_bytes(made.envelope)}, pause)
        plan = job.plan(tree)
        return propose(job, plan, lambda revision: operations(job, plan, progress, revision), _title(made))


def _title(made: Attestation) -> str:
    return MESSAGE.format(builder=made.statement["predicate"]["builder"]["id"])


def _first_waiting(api: HfApi, made: Attestation, pause: Callable[[float], None]) -> Proposed | None:
    """Our oldest pull request that waits with the same statement; later ones are closed."""
    from release.hub.pull_request import Proposal, undecided

    found = []
    for each, tree in undecided(api, made.repo, _title(made), pause):
        if envelope := _standing(api, made, tree):
            found.append(Proposed(Proposal(each.num, tree.commit, is_open=each.status == "open"), envelope))
    found.sort(key=lambda each: each.proposal.number)
    for later in found[1:]:
        _close(api, made, later.proposal.number, found[0].proposal.number, pause)
    return found[0] if found else None


def _close(api: HfApi, made: Attestation, number: int, first: int, pause: Callable[[float], None]) -> None:
    comment = DUPLICATE.format(number=first)
    patiently(lambda: api.change_discussion_status(made.repo, number, "closed", comment=comment), pause, endpoint=api.endpoint)


def _standing(api: HfApi, made: Attestation, tree: RemoteTree | None) -> bytes | None:
    """The envelope of the same statement by the same signer in a revision, None when it has none."""
    from release.hub.small_files import remote_bytes

    try:
        data = remote_bytes(api, made.repo, tree, made.path, LARGEST)
    except CheckFailedError:
        return None
    return data if data is not None and _says_the_same(data, made) else None


def _says_the_same(data: bytes, made: Attestation) -> bool:
    """Whether a file is the statement; what its signer did not sign says nothing."""
    if data == made.envelope:
        return True
    if made.signer is None:
        return False
    try:
        if isinstance(made.signer, SigstoreIdentity):
            statement = verified_bundle(data, made.signer, made.path)
        else:
            statement = verified_statement(data, made.signer, made.path)
    except (CheckFailedError, InputError, UnavailableError):
        return False
    return _bare(statement) == _bare(made.statement)


def _bare(statement: dict[str, Any]) -> dict[str, Any]:
    """A statement without when, where and with which version it was made."""
    predicate = statement.get("predicate")
    kept = {key: value for key, value in predicate.items() if key not in PASSING} if isinstance(predicate, dict) else predicate
    return {**statement, "predicate": kept}
