"""Signed statements: in-toto Statement v1 in a DSSE envelope (https://github.com/secure-systems-lab/dsse)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pruner.errors import CheckFailedError, InputError
from pruner.files import canonical_json, parse_json
from release.attestation.keys import Rebuilder, require_libraries

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public, not in __all__

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def require_statement(statement: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless it is an in-toto Statement v1, by in-toto's own library."""
    require_libraries()
    from google.protobuf.json_format import ParseDict, ParseError
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    try:
        Statement.copy_from_pb(ParseDict(dict(statement), Message())).validate()
    except (ParseError, ValueError, TypeError) as error:
        raise InputError(f"{where}: is no in-toto statement: {str(error).splitlines()[0]}") from None


def sign(statement: Mapping[str, Any], signer: CryptoSigner) -> bytes:
    """The statement in an envelope with one signature, as canonical JSON."""
    from securesystemslib.dsse import Envelope

    require_statement(statement, "the statement")
    envelope = Envelope(canonical_json(statement), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return canonical_json(envelope.to_dict())


def key_ids(data: bytes, where: str) -> tuple[str, ...]:
    """Ids of the keys that an envelope says it is signed with; nothing is verified.

    Raises:
        InputError: it is no envelope.
    """
    return tuple(_parsed(data, where).signatures)


def verified_statement(data: bytes, key: Rebuilder, where: str) -> dict[str, Any]:
    """The statement of an envelope that a key has signed.

    Raises:
        InputError: it is no envelope, or its content no statement.
        CheckFailedError: the signature does not hold.
    """
    from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError

    envelope = _parsed(data, where)
    try:
        envelope.verify([key.key] if key.key else [], 1)
    except (VerificationError, UnverifiedSignatureError, ValueError):
        raise CheckFailedError(
            f"{where}: the signature of {key.name} does not hold; it was changed after it was signed"
        ) from None
    if envelope.payload_type != PAYLOAD_TYPE:
        raise InputError(f"{where}: holds {envelope.payload_type!r}, not an in-toto statement")
    statement = parse_json(envelope.payload, where, "the statement")
    if not isinstance(statement, dict):
        raise InputError(f"{where}: is no in-toto statement")
    require_statement(statement, where)
    return statement


def _parsed(data: bytes, where: str) -> Envelope:
    require_libraries()
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import FormatError

    content = parse_json(data, where, "the attestation")
    try:
        return Envelope.from_dict(content)
    except (KeyError, ValueError, TypeError, AttributeError, FormatError):
        raise InputError(f"{where}: is no DSSE envelope with one signature per key") from None
