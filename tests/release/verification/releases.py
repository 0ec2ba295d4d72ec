"""A published release, and copies of its Hub that a test may spoil."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pruner.files import sha256_bytes, sha256_file
from pruner.sources import TEMPLATES
from release.attestation.proposal import propose_attestation
from release.attestation.rebuild import Attestation, AttestRequest, attest
from release.hub.local import LocalHub
from release.hub.remote import hub_api
from release.reproduce import LOCK
from release.verdict import Finding, Verification
from release.verification.request import Request
from release.verification.run import verify_published
from tests.conftest import MANIFESTS, ROOT
from tests.end_to_end.conftest import run_command
from tests.shared import TinyRelease
from tests.small_release import DROPPED

if TYPE_CHECKING:
    from starlette.types import ASGIApp

SMALL = "moe-release/small-4e"
TINY = "moe-release/tiny-gemma4-4e"
MANIFEST = """schema: moe-release/v1
name: small-4e
base: {{path: tiny/model, name: tiny-gemma4-16e}}
prune:
  experts: 4
  drop_map: {{path: map.json, sha256: {digest}}}
weights: {{max_shard_size: 1MiB}}
card: {{license: apache-2.0}}
publish: {{weights: {repo}, tag: v1, private: false, rebuilders: {{path: rebuilders.json, sha256: {rebuilders}}}}}
"""


@dataclass(frozen=True)
class Stage:
    """A Hub of the test's own that holds the release."""

    repo: str
    base: Path
    keys: Path
    hub: LocalHub
    work: Path

    @property
    def address(self) -> str:
        return f"hf://{self.repo}"

    def read(self, path: str, repo: str | None = None) -> bytes:
        api = hub_api(self.hub.endpoint, self.hub.token)
        local = api.hf_hub_download(repo or self.repo, path, local_dir=self.work / "read", force_download=True)
        return Path(local).read_bytes()

    def write(self, path: str, data: bytes, repo: str | None = None) -> None:
        api = hub_api(self.hub.endpoint, self.hub.token)
        api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id=repo or self.repo)

    def change(self, path: str, change: Callable[[bytes], bytes], repo: str | None = None) -> None:
        before = self.read(path, repo)
        after = change(before)
        assert after != before
        self.write(path, after, repo)

    def change_json(self, path: str, change: Callable[[Any], Any]) -> None:
        def changed(data: bytes) -> bytes:
            value = json.loads(data)
            if path == LOCK:
                value.pop("digest", None)  # as whoever changes a lock on purpose would
            change(value)
            return json.dumps(value).encode()

        self.change(path, changed)

    def remove(self, path: str) -> None:
        hub_api(self.hub.endpoint, self.hub.token).delete_file(path, self.repo)

    def verify(self, **options: Any) -> Verification:
        words: dict[str, Any] = {"base": str(self.base), "endpoint": self.hub.endpoint, "token": self.hub.token, **options}
        return verify_published(Request(self.repo, **words))

    def attested(self, who: str, **options: Any) -> Attestation:
        """What somebody would state, with nothing proposed."""
        words: dict[str, Any] = {"base": str(self.base), "revision": "main", "builder": who.title(), **options}
        token, endpoint = self.hub.token, self.hub.endpoint
        return attest(AttestRequest(self.repo, key=self.keys / f"{who}.pem", endpoint=endpoint, token=token, **words))

    def attest(self, who: str, **options: Any) -> Attestation:
        """State it, propose it, and merge the pull request as the owner of the repository."""
        made = self.attested(who, **options)
        proposal = propose_attestation(made, endpoint=self.hub.endpoint, token=self.hub.token)
        assert proposal is not None
        hub_api(self.hub.endpoint, self.hub.token).merge_pull_request(self.repo, proposal.proposal.number)
        return made


@dataclass(frozen=True)
class PublishedRelease:
    """The folder of a Hub with one release; it is never changed."""

    repo: str
    base: Path
    hub_folder: Path
    manifest: Path

    @contextmanager
    def staged(self, folder: Path, wrap: Callable[[ASGIApp], ASGIApp] | None = None) -> Iterator[Stage]:
        shutil.copytree(self.hub_folder, folder / "hub")
        with LocalHub(folder / "hub", wrap=wrap) as hub:
            yield Stage(self.repo, self.base, self.manifest.parent / "keys", hub, folder)


def write_keys(folder: Path) -> Path:
    """Private keys of three people; the first two are listed as rebuilders."""
    folder.mkdir()
    made = {
        "alice": ed25519.Ed25519PrivateKey.generate(),
        "bob": ec.generate_private_key(ec.SECP256R1()),
        "mallory": ed25519.Ed25519PrivateKey.generate(),
        "publisher": ec.generate_private_key(ec.SECP256R1()),
    }
    for name, key in made.items():
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.pem").write_bytes(pem)
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    listed = {name: (folder / f"{name}.pub").read_text() for name in ("alice", "bob", "publisher")}
    (folder.parent / "rebuilders.json").write_text(json.dumps(listed))
    return folder


def publish_small(folder: Path, dropped: dict[str, list[int]] = DROPPED) -> PublishedRelease:
    write_keys(folder / "keys")
    shutil.copytree(MANIFESTS / "tiny", folder / "tiny")
    templates = folder / "tiny" / "model" / TEMPLATES
    templates.mkdir()
    (templates / "tool_use.jinja").write_text("{{ tools }}")
    text = json.dumps(dropped).encode()
    (folder / "map.json").write_bytes(text)
    manifest = folder / "small-4e.yaml"
    manifest.write_text(
        MANIFEST.format(digest=sha256_bytes(text), repo=SMALL, rebuilders=sha256_file(folder / "rebuilders.json"))
    )
    run_command("cut", manifest, "--work", folder / "build/small", "--hub", "local", PYTHONPATH=str(ROOT))
    return PublishedRelease(SMALL, folder / "tiny/model", folder / "build/hub", manifest)


def published_tiny(made: TinyRelease) -> PublishedRelease:
    manifests = made.folder / "manifests"
    return PublishedRelease(TINY, manifests / "tiny/model", made.folder / "build/hub", manifests / "tiny-gemma4-4e.yaml")


def part(found: Verification, name: str) -> Finding:
    return next(finding for finding in found.findings if finding.part == name)


def last_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])
