"""`model.sig`: the publisher's signature over a whole repository, in the format of OpenSSF model signing.

The library digests files that lie in a folder.  Here every digest is known already: on publishing from the lock, on verifying
from the Hub's listing.  So it is given a hashing configuration that looks digests up, and no weights are read.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import digest_of, parse_json, sha256_bytes, write_atomic
from release.attestation.keys import PASSPHRASE, read_key, unusable_key

if TYPE_CHECKING:
    from model_signing.hashing import Config

NAME = "model.sig"
PUBLIC_KEY = "reproduce/publisher.pem"
"""The publisher's public key, published with the signature."""
LARGEST = 16 << 20
"""Bytes of a signature that are read at most."""


def require_libraries() -> None:
    """Raise UnavailableError when the extra is not installed."""
    try:
        import model_signing  # noqa: F401
    except ImportError:
        raise UnavailableError("signatures need the extra: pip install 'moe-release[attest]'") from None


def public_key_of(private: Path) -> bytes:
    """PEM of the public key that belongs to a private ECDSA key.

    Raises:
        InputError: the file holds no such key, or the passphrase is wrong.
        UnavailableError: the library is not installed.
    """
    require_libraries()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        key = load_pem_private_key(read_key(private), _passphrase())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise unusable_key(private, error) from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise InputError(f"{private.name}: {NAME} needs an ECDSA key over P-256, P-384 or P-521")
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _passphrase() -> bytes | None:
    text = os.environ.get(PASSPHRASE)
    return text.encode() if text else None


def sign_repository(
    name: str, digests: Mapping[str, str], private: Path, folder: Path, standing: Iterable[bytes] = ()
) -> dict[str, Path]:
    """Sign the files of a repository, whose digests are known.

    A signature by ECDSA is another one each time, so one that was made for the same files and key is taken again: publishing
    once more changes nothing.

    Args:
        name: of the repository.
        digests: SHA-256 by path in the repository.
        private: PEM file of an ECDSA key.
        folder: where signatures are kept.
        standing: what is published as signatures; the first of this key over exactly these files is taken.

    Returns:
        Local files by path in the repository: the signature, and the public key.

    Raises:
        InputError, UnavailableError: see `public_key_of`.
    """
    public = public_key_of(private)
    signed = {**digests, PUBLIC_KEY: sha256_bytes(public)}
    place = folder / digest_of(signed)[:16]
    key, signature = place / "publisher.pem", place / NAME
    if not signature.is_file():
        place.mkdir(parents=True, exist_ok=True)
        write_atomic(key, public)
        earlier = (each for each in standing if _holds(each, public, signed))
        write_atomic(signature, next(earlier, None) or _sign(name, signed, private))
    return {NAME: signature, PUBLIC_KEY: key}


def _holds(signature: bytes, public: bytes, digests: Mapping[str, str]) -> bool:
    """Whether a signature is of a key, and covers these files and no other."""
    try:
        require_signature(signature, public, digests)
        return signed_digests(signature) == digests
    except (CheckFailedError, InputError):
        return False


def _sign(name: str, digests: Mapping[str, str], private: Path) -> bytes:
    from model_signing.signing import Config as Signing

    password: Any = _passphrase()  # the library says str and hands it to one that wants bytes
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / NAME
        config = Signing()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_signer(private_key=private, password=password)
        config.set_hashing_config(known_digests(digests)).sign(Path(folder) / name.rpartition("/")[2], target)
        return target.read_bytes()


def known_digests(digests: Mapping[str, str]) -> Config:
    """A hashing configuration of the library that reads no file."""
    from model_signing._hashing.hashing import Digest
    from model_signing.hashing import Config
    from model_signing.manifest import FileManifestItem, Manifest, SerializationType

    class Known(Config):
        def hash(self, model_path: Any, *, files_to_hash: Iterable[Any] | None = None) -> Manifest:
            wanted = set(digests)
            if files_to_hash is not None:
                wanted &= {Path(path).relative_to(model_path).as_posix() for path in files_to_hash}
            items = [
                FileManifestItem(path=PurePosixPath(path), digest=Digest("sha256", bytes.fromhex(digests[path])))
                for path in sorted(wanted)
            ]
            form = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [NAME]}
            return Manifest(Path(model_path).name, items, SerializationType.from_args(form))

    return Known()  # type: ignore[no-untyped-call]  # the library's constructors have no hints


def signed_digests(signature: bytes) -> dict[str, str]:
    """What a signature says it covers, by path; nothing is verified.

    Raises:
        InputError: it is none that says so file by file.
    """
    import base64

    bundle = parse_json(signature, NAME, "the signature")
    try:
        predicate = parse_json(base64.b64decode(bundle["dsseEnvelope"]["payload"]), NAME, "its statement")["predicate"]
        if predicate["serialization"]["method"] != "files" or predicate["serialization"]["hash_type"] != "sha256":
            raise InputError(f"{NAME}: covers other digests than SHA-256 of files; check it with model_signing on a copy")
        return {str(each["name"]): str(each["digest"]) for each in predicate["resources"]}
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{NAME}: is no signature in the format of model signing") from None


def require_signature(signature: bytes, public: bytes, digests: Mapping[str, str]) -> None:
    """Verify a signature, by the library, against digests that are known.

    Raises:
        CheckFailedError: it does not hold, or covers other bytes; says which files.
        InputError: it is none, or the key is none.
    """
    require_libraries()
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from model_signing.verifying import Config as Verifying

    covered = signed_digests(signature)
    for path in sorted(covered):
        if digests.get(path) != covered[path]:
            found = f"has SHA-256 {digests[path]}" if path in digests else "is missing"
            raise CheckFailedError(f"{path}: {found}, the signature covers {covered[path]}")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        key, local = Path(folder) / "key.pem", Path(folder) / NAME
        write_atomic(key, public)
        write_atomic(local, signature)
        try:
            config = Verifying()  # type: ignore[no-untyped-call]
            config.use_elliptic_key_verifier(public_key=key)
            config.set_hashing_config(known_digests({path: digests[path] for path in covered}))
            config.verify(Path(folder) / "model", local)
        except InvalidSignature:
            raise CheckFailedError(f"{NAME}: the signature does not hold: it was changed, or is of another key") from None
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, UnsupportedAlgorithm) as error:
            reason = " ".join(str(error).split())[:200] or "it cannot be read"
            raise CheckFailedError(f"{NAME}: the signature does not hold: {reason}") from None
