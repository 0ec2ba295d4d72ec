"""Whether the publisher's signature over the whole repository holds, by the digests that the Hub lists."""

from __future__ import annotations

from pathlib import Path

from pruner.errors import CheckFailedError, InputError
from pruner.files import sha256_bytes
from pruner.sources import read_small
from pruner.wording import counted
from release.attestation.keys import read_key
from release.attestation.model_signature import LARGEST, NAME, PUBLIC_KEY, require_signature, signed_digests
from release.hub.published import Published
from release.reproduce import JOINING
from release.verdict import Finding, Verdict

PART = "signature"
SHORT = 12


def check_signature(published: Published, signer: Path | None = None) -> Finding | None:
    """The finding on `model.sig`; None when there is none and nobody expects one.

    Args:
        published: the release.
        signer: the publisher's public key as you have it from elsewhere; without it the repository's own is taken, and the
            finding says so.

    Raises:
        CheckFailedError: the signature does not hold, or covers other bytes.
        InputError: it cannot be read.
        UnavailableError: the library is missing, or a file cannot be had.
    """
    repository = published.weights
    if NAME not in repository.files:
        missing = f"{NAME} is missing: nothing here is signed with the given key"
        return Finding(PART, Verdict.BAD, missing) if signer else None
    own = published.path(PUBLIC_KEY)
    if signer is None and not own.is_file():
        return Finding(PART, Verdict.UNKNOWN, f"{PUBLIC_KEY} is missing: give the publisher's key with --signer KEY.pem")
    key = read_key(signer) if signer else own.read_bytes()
    signature = read_small(repository.source, NAME, "the signature", LARGEST)
    covered = signed_digests(signature)
    digests = {path: digest for path in covered if (digest := repository.sha256(path)) is not None}
    try:
        require_signature(signature, key, digests)
    except (CheckFailedError, InputError) as error:
        return Finding(PART, Verdict.BAD, str(error))
    if unsigned := [path for path in repository.files if path not in covered and not _joins_later(path)]:
        return Finding(PART, Verdict.BAD, f"{unsigned[0]}: is not signed" + _more(unsigned))
    whose = "the given key" if signer else f"the key of {PUBLIC_KEY}; whose it is you must know"
    return Finding(PART, Verdict.GOOD, f"{counted(len(covered), 'file')} signed with {sha256_bytes(key)[:SHORT]}, {whose}")


def _joins_later(path: str) -> bool:
    return path == NAME or path.startswith(JOINING)


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
