"""The publisher's signature over the weights repository, made when everything else of it stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from pruner.errors import CheckFailedError
from pruner.files import sha256_file
from release.attestation.model_signature import LARGEST, NAME, sign_repository
from release.context import Context
from release.stages.publication import Repository
from release.stages.standing import standing_trees


def signed(context: Context, repository: Repository) -> Repository:
    """The repository with `model.sig` and the public key, when the user gave a key.

    Raises:
        CheckFailedError: the repository on the Hub is signed, its files change, and there is no key: its signature would break.
        InputError, UnavailableError: the key or the library cannot be used.
    """
    key = context.options.sign
    if key is None:
        _require_unsigned(context, repository)
        return repository
    standing = _signatures(context, repository.repo)
    added = sign_repository(repository.repo, repository.digests, key, context.work / "signed", standing)
    digests = {path: sha256_file(file) for path, file in added.items()}
    return replace(repository, files={**repository.files, **added}, digests={**repository.digests, **digests})


def _signatures(context: Context, repo: str) -> Iterator[bytes]:
    """What stands on the Hub as a signature; who wrote it is not known, so it counts only when our key verifies it."""
    from release.hub.remote import hub_api, remote_tree
    from release.hub.small_files import remote_bytes

    api = hub_api(context.options.hub.endpoint, context.options.hub.token)
    for tree in standing_trees(context, api, repo, remote_tree(api, repo)):
        with suppress(CheckFailedError):  # too large to be one
            if (data := remote_bytes(api, repo, tree, NAME, LARGEST)) is not None:
                yield data


def _require_unsigned(context: Context, repository: Repository) -> None:
    from release.stages.publish import publication_plan

    plan = publication_plan(context, repository)
    if NAME in plan.foreign and plan.changes and not context.options.prune_remote:
        raise CheckFailedError(
            f"{repository.repo}: is signed, and {plan.changes[0].path} changes; sign again with --sign KEY.pem, or remove "
            f"{NAME} there"
        )
