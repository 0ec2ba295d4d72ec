"""Keys: the private one that signs, and the public ones that a release lists as its rebuilders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.errors import InputError, UnavailableError
from pruner.files import digest_of, parse_json, sha256_bytes
from pruner.places import require_possible, unreadable

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # public, not in __all__

PASSPHRASE = "MOE_RELEASE_KEY_PASSPHRASE"  # noqa: S105  # the variable's name
"""Environment variable with the passphrase of an encrypted private key."""
KEY_LIMIT = 64 << 10
MOST_KEYS = 200
KEY_TYPES = ("ed25519", "ecdsa")


@dataclass(frozen=True)
class SigstoreIdentity:
    """Whom Sigstore's certificate names, such as a workflow, and who vouched for it."""

    identity: str
    issuer: str


@dataclass(frozen=True)
class Rebuilder:
    """Somebody whose statements a release counts, by a key or by an identity at Sigstore.

    `keyid` is securesystemslib's: SHA-256 over the canonical form of the public key; `hint` is SHA-256 of its PEM, by which
    model-signing names it.
    """

    name: str
    key: SSlibKey | None = None
    hint: str | None = None
    identity: SigstoreIdentity | None = None

    @property
    def keyid(self) -> str:
        """What a signature of this key is marked with; of an identity, a digest."""
        return str(self.key.keyid) if self.key else digest_of([self.identity and vars(self.identity)])


def require_libraries() -> None:
    """Raise UnavailableError when the extra is not installed."""
    try:
        import cryptography  # noqa: F401
        import in_toto_attestation  # noqa: F401
        import securesystemslib.signer  # noqa: F401
    except ImportError:
        raise UnavailableError("signatures need the extra: pip install 'moe-release[attest]'") from None


def load_signer(path: Path) -> CryptoSigner:
    """The signer of a private key in a PEM file (PKCS#8), ed25519 or ECDSA over a NIST curve.

    Raises:
        InputError: there is no such key in it, or the passphrase is wrong.
        UnavailableError: the libraries are not installed.
    """
    require_libraries()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public, not in __all__

    passphrase = os.environ.get(PASSPHRASE)
    try:
        data = read_key(path)
        signer = CryptoSigner(load_pem_private_key(data, passphrase.encode() if passphrase else None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise unusable_key(path, error) from None
    if signer.public_key.keytype not in KEY_TYPES:
        raise InputError(f"{path.name}: is an {signer.public_key.keytype} key; use ed25519 or ECDSA")
    return signer


def unusable_key(path: Path, error: Exception) -> InputError:
    """What a user is told of a private key that the library refuses; its links to its own pages are left out."""
    reason = str(error).partition(". See ")[0].splitlines()[0] if str(error) else "it cannot be read"
    remedy = f"give a private key in PEM; a passphrase goes into {PASSPHRASE}"
    return InputError(f"{path.name}: no usable private key: {reason}; {remedy}")


def read_key(path: Path) -> bytes:
    """Bytes of a key file.

    Raises:
        InputError: it is missing, unreadable or too large.
    """
    require_possible(path)
    try:
        if path.stat().st_size > KEY_LIMIT:
            raise InputError(f"{path.name}: is too large for a key")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path.name}: the key {unreadable(path, error)}; give a PEM file") from None


def require_public_key(path: Path) -> None:
    """Raise InputError when a file that the user named is no key in PEM, so that nobody else's signature is blamed for it."""
    if b"-----BEGIN PUBLIC KEY-----" not in read_key(path):
        raise InputError(
            f"{path.name}: no public key in PEM; make one of the private key with `openssl pkey -in KEY.pem -pubout`"
        )


def read_rebuilders(data: bytes, where: str) -> tuple[Rebuilder, ...]:
    """The keys of a `rebuilders.json`: an object of names, each with a public key in PEM, or with identity and issuer.

    Raises:
        InputError: it is no such object, a key cannot be used, or stands twice.
        UnavailableError: the libraries are not installed.
    """
    require_libraries()
    content: Any = parse_json(data, where, "the list of rebuilders")
    if not isinstance(content, dict) or len(content) > MOST_KEYS or not all(map(_usable, content.values())):
        raise InputError(
            f"{where}: expected an object of at most {MOST_KEYS} names, each with a public key in PEM, or identity and issuer"
        )
    found = tuple(
        _rebuilder(name, said, where) if isinstance(said, str) else Rebuilder(name, identity=SigstoreIdentity(**said))
        for name, said in content.items()
    )
    twice = [each.name for number, each in enumerate(found) if each.keyid in {other.keyid for other in found[:number]}]
    if twice:
        raise InputError(f"{where}: the key of {twice[0]!r} stands twice; one key is one rebuilder")
    return found


def _usable(said: Any) -> bool:
    if isinstance(said, dict):
        return said.keys() == {"identity", "issuer"} and all(isinstance(each, str) and each for each in said.values())
    return isinstance(said, str)


def _rebuilder(name: str, text: str, where: str) -> Rebuilder:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # public, not in __all__

    try:
        public = load_pem_public_key(text.encode()[:KEY_LIMIT])
        key = SSlibKey.from_crypto(public)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = str(error).splitlines()[0] if str(error) else "it cannot be read"
        raise InputError(f"{where}: the key of {name!r} is no public key in PEM: {reason}") from None
    if key.keytype not in KEY_TYPES:
        raise InputError(f"{where}: the key of {name!r} is an {key.keytype} key; use ed25519 or ECDSA")
    return Rebuilder(name, key, sha256_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)))
