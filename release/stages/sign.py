"""The publisher's signature over the weights repository, made when everything else of it stands."""

from __future__ import annotations

from dataclasses import replace

from pruner.errors import CheckFailedError
from pruner.files import sha256_file
from release.attestation.model_signature import NAME, sign_repository
from release.context import Context
from release.stages.publication import Repository


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
    added = sign_repository(repository.repo, repository.digests, key, context.work / "signed")
    digests = {path: sha256_file(file) for path, file in added.items()}
    return replace(repository, files={**repository.files, **added}, digests={**repository.digests, **digests})


def _require_unsigned(context: Context, repository: Repository) -> None:
    from release.stages.publish import publication_plan

    plan = publication_plan(context, repository)
    if NAME in plan.foreign and plan.changes and not context.options.prune_remote:
        raise CheckFailedError(
            f"{repository.repo}: is signed, and {plan.changes[0].path} changes; sign again with --sign KEY.pem, or remove "
            f"{NAME} there"
        )
