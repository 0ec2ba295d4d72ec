"""Signing without a key of one's own: Sigstore ties a statement to an identity, such as a workflow's, in a public log.

Needs the network and an identity token, as a GitHub workflow with `id-token: write` has; verifying uses the roots that come
with the library.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import canonical_json, digest_of, parse_json
from release.attestation.envelope import PAYLOAD_TYPE, require_statement
from release.attestation.keys import SigstoreIdentity

BUNDLE = "application/vnd.dev.sigstore.bundle"


def sign_keyless(statement: Mapping[str, Any]) -> bytes:
    """A Sigstore bundle of the statement.

    Raises:
        UnavailableError: there is no identity token here, or Sigstore does not answer.
    """
    _require_library()
    from sigstore.dsse import Statement
    from sigstore.errors import Error
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    require_statement(statement, "the statement")
    token = ambient_token()
    try:
        context = SigningContext.from_trust_config(ClientTrustConfig.production())
        with context.signer(IdentityToken(token)) as signer:
            return signer.sign_dsse(Statement(canonical_json(statement))).to_json().encode()
    except (Error, OSError) as error:
        raise UnavailableError(f"Sigstore does not sign: {' '.join(str(error).split())[:200]}; use --key instead") from None


def ambient_token() -> str:
    """The identity token of the machine that this runs on.

    Raises:
        UnavailableError: it has none.
    """
    _require_library()
    from sigstore.errors import Error
    from sigstore.oidc import detect_credential

    try:
        token = detect_credential()
    except (Error, OSError):
        token = None
    if token is None:
        raise UnavailableError("no Sigstore identity: run in a workflow with `id-token: write`, or sign with --key KEY.pem")
    return token


def own_identity() -> str:
    """A short name of the identity that would sign, for file names."""
    _require_library()
    from sigstore.oidc import IdentityToken

    token = IdentityToken(ambient_token())
    return digest_of([token.identity, token.federated_issuer])


def own_signer(bundle: bytes, where: str) -> SigstoreIdentity | None:
    """Whom a bundle that was signed just now names, None when it does not name one.

    A workflow's certificate names the workflow's file, which its token calls otherwise.
    """
    from sigstore.oidc import IdentityToken

    names = [*claimed_identities(bundle, where)]
    return SigstoreIdentity(names[0], IdentityToken(ambient_token()).federated_issuer) if len(names) == 1 else None


def is_bundle(data: bytes, where: str) -> bool:
    """Whether a file says that it is a Sigstore bundle; raises InputError when it is no JSON."""
    content = parse_json(data, where, "the attestation")
    return isinstance(content, dict) and str(content.get("mediaType", "")).startswith(BUNDLE)


def claimed_identities(data: bytes, where: str) -> frozenset[str]:
    """Whose a bundle says it is, by the names in its certificate; nothing is verified.

    Raises:
        InputError: it is no JSON.
        UnavailableError: the library is missing.
    """
    _require_library()
    from cryptography.x509 import (
        ExtensionNotFound,
        RFC822Name,
        SubjectAlternativeName,
        UniformResourceIdentifier,
        load_der_x509_certificate,
    )

    try:
        material = parse_json(data, where, "the attestation")["verificationMaterial"]
        first = material["certificate"] if "certificate" in material else material["x509CertificateChain"]["certificates"][0]
        certificate = load_der_x509_certificate(base64.b64decode(first["rawBytes"]))
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
        kinds = (RFC822Name, UniformResourceIdentifier)
        return frozenset(str(name) for kind in kinds for name in names.get_values_for_type(kind))
    except (KeyError, TypeError, ValueError, IndexError, ExtensionNotFound):
        return frozenset()


def verified_bundle(data: bytes, identity: SigstoreIdentity, where: str) -> dict[str, Any]:
    """The statement of a bundle that an identity has signed.

    Raises:
        CheckFailedError: it is of another identity, or does not hold.
        InputError: its content is no statement.
        UnavailableError: the library is missing.
    """
    _require_library()
    from sigstore.errors import Error
    from sigstore.models import Bundle
    from sigstore.verify import Verifier, policy

    try:
        bundle = Bundle.from_json(data)
        who = policy.Identity(identity=identity.identity, issuer=identity.issuer)
        kind, payload = Verifier.production(offline=True).verify_dsse(bundle, who)
    except (Error, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckFailedError(f"{where}: does not hold for {identity.identity}: {reason}") from None
    if kind != PAYLOAD_TYPE:
        raise InputError(f"{where}: holds {kind!r}, not an in-toto statement")
    statement = parse_json(payload, where, "the statement")
    if not isinstance(statement, dict):
        raise InputError(f"{where}: is no in-toto statement")
    require_statement(statement, where)
    return statement


def _require_library() -> None:
    try:
        import sigstore.dsse  # noqa: F401
    except ImportError:
        raise UnavailableError("Sigstore needs the extra: pip install 'moe-release[attest]'") from None
