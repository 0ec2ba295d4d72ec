"""Statements of people who rebuilt a release: made by really rebuilding, proposed, counted by their keys."""

from __future__ import annotations

import base64
import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from huggingface_hub import CommitOperationAdd
from securesystemslib.signer import CryptoSigner

from pruner.errors import InputError, UnavailableError
from pruner.files import canonical_json
from release.attestation.envelope import PAYLOAD_TYPE, require_statement, sign
from release.attestation.keys import PASSPHRASE, load_signer, read_rebuilders
from release.attestation.proposal import propose_attestation
from release.hub.remote import hub_api
from release.verdict import Verdict
from tests.conftest import ROOT
from tests.end_to_end.conftest import run_command
from tests.release.verification.releases import Stage, last_byte, part


def shard_of(stage: Stage) -> str:
    return str(min(json.loads(stage.read("model.safetensors.index.json"))["weight_map"].values()))


def test_the_provenance_is_a_statement_about_the_published_weights(small: Stage) -> None:
    statement = json.loads(small.read("reproduce/provenance.json"))
    require_statement(statement, "provenance.json")
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    lock = json.loads(small.read("reproduce/lock.json"))
    digests = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    weights = {path: file["sha256"] for path, file in lock["outputs"].items() if path.startswith("weights/")}
    assert {f"weights/{name}": digest for name, digest in digests.items()} == weights
    definition = statement["predicate"]["buildDefinition"]
    sources = {each["name"]: each["digest"]["sha256"] for each in definition["resolvedDependencies"]}
    assert {f"base/{name}" for name in lock["inputs"]["base"]["files"]} < set(sources)
    assert "drop map" in sources
    text = small.read("reproduce/provenance.json").decode()
    assert os.uname().nodename not in text
    assert str(small.work) not in text


def test_the_provenance_is_about_the_quants_too(tiny: Stage) -> None:
    statement = json.loads(tiny.read("reproduce/provenance.json"))
    require_statement(statement, "provenance.json")
    digests = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    api = hub_api(tiny.hub.endpoint, tiny.hub.token)
    listed = {
        item.path: item.lfs.sha256
        for repo in (tiny.repo, f"{tiny.repo}-GGUF")
        for item in api.list_repo_tree(repo)
        if item.path.endswith((".safetensors", ".gguf"))
    }
    assert len(listed) == len([name for name in digests if name.endswith((".safetensors", ".gguf"))])
    assert listed.items() <= digests.items()
    assert {name.rpartition("-")[2] for name in listed if name.endswith(".gguf")} == {
        "Q6_K.gguf",
        "Q4_K_M.gguf",
        "imatrix.gguf",
    }


@pytest.mark.parametrize("name", ["tiny-gemma4-4e-Q6_K.gguf", "tiny-gemma4-4e-imatrix.gguf"])
def test_a_quant_of_a_provenance_is_held_against_the_lock(tiny: Stage, name: str) -> None:
    locked = {path.rpartition("/")[2]: file for path, file in json.loads(tiny.read("reproduce/lock.json"))["outputs"].items()}

    def forged(statement: Any) -> None:
        next(each for each in statement["subject"] if each["name"] == name)["digest"].update(sha256="0" * 64)

    tiny.change_json("reproduce/provenance.json", forged)
    consistency = part(tiny.verify(), "consistency")
    where = f"reproduce/provenance.json: {name} is"
    assert consistency.reason == f"{where} {'0' * 64} here and {locked[name]['sha256']} in the lock"
    kept = json.loads(tiny.read("reproduce/provenance.json"))["subject"]
    rest = [each for each in kept if each["name"] != name]
    tiny.change_json("reproduce/provenance.json", lambda statement: statement.update(subject=rest))
    assert part(tiny.verify(), "consistency").reason == f"{where} absent here and {locked[name]['sha256']} in the lock"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value["subject"][0]["digest"].update(sha256="0" * 64), f"is {'0' * 64} here and "),
        (lambda value: value["subject"].pop(0), "is absent here and "),
        (
            lambda value: value["subject"].append({"name": "x.gguf", "digest": {"sha256": "1"}}),
            "x.gguf is 1 here and absent in",
        ),
        (lambda value: value.update(predicateType="other"), "is not the statement that manifest and lock make"),
        (lambda value: value.update(subject=7), "is not the statement that manifest and lock make"),
    ],
)
def test_a_tampered_provenance_is_bad_and_named(small: Stage, change: Any, words: str) -> None:
    small.change_json("reproduce/provenance.json", change)
    consistency = part(small.verify(), "consistency")
    assert consistency.verdict is Verdict.BAD
    assert consistency.reason.startswith("reproduce/provenance.json: ")
    assert words in consistency.reason


def test_a_provenance_of_the_weights_alone_is_that_of_an_older_release(tiny: Stage) -> None:
    def older(data: bytes) -> bytes:
        statement = json.loads(data)
        rest = [each for each in statement["subject"] if not each["name"].endswith(".gguf")]
        return canonical_json({**statement, "subject": rest})

    tiny.change("reproduce/provenance.json", older)
    assert part(tiny.verify(), "consistency").verdict is Verdict.GOOD


def test_two_keys_are_two_parties(small: Stage) -> None:
    small.attest("alice")
    small.attest("bob")
    found = part(small.verify(), "attestations")
    assert (found.verdict, found.reason) == (Verdict.GOOD, "rebuilt by 2 independent parties, 0 report BAD")
    assert [verdict for _, verdict, _ in found.items] == [Verdict.GOOD, Verdict.GOOD]
    assert small.verify().verdict is Verdict.GOOD


def test_one_key_has_one_vote(small: Stage) -> None:
    small.attest("alice", builder="A")
    small.attest("alice", builder="B")
    assert part(small.verify(), "attestations").reason.startswith("rebuilt by 1 independent party, 0 report BAD")


def test_a_statement_says_what_was_rebuilt_from_what(small: Stage) -> None:
    made = small.attested("alice")
    predicate = made.statement["predicate"]
    assert made.verdict == "GOOD"
    assert predicate["rebuilt"] == {each["name"]: each["digest"]["sha256"] for each in made.statement["subject"]}
    assert predicate["base"]["name"] == "tiny-gemma4-16e"
    assert predicate["target"].startswith(f"hf://{small.repo}@")
    keyid = load_signer(small.keys / "alice.pem").public_key.keyid
    assert made.path == f"attestations/{keyid[:12]}-{predicate['target'][-40:][:12]}.json"
    require_statement(made.statement, "statement")


def test_an_open_pull_request_is_not_counted(small: Stage) -> None:
    proposal = propose_attestation(small.attested("alice"), endpoint=small.hub.endpoint, token=small.hub.token)
    assert proposal is not None
    assert proposal.new
    discussions = list(hub_api(small.hub.endpoint, small.hub.token).get_repo_discussions(small.repo))
    assert [each.status for each in discussions] == ["open"]
    assert not [finding for finding in small.verify().findings if finding.part == "attestations"]


def test_a_statement_that_stands_there_is_not_proposed_twice(small: Stage) -> None:
    made = small.attest("alice")
    assert propose_attestation(made, endpoint=small.hub.endpoint, token=small.hub.token) is None


def test_the_same_rebuild_on_another_day_and_machine_asks_nobody_again(small: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"endpoint": small.hub.endpoint, "token": small.hub.token}
    first = propose_attestation(small.attested("alice"), **where)
    monkeypatch.setattr("platform.machine", lambda: "another")
    later = small.attested("alice")
    assert later.statement["predicate"]["platform"].endswith("another")
    again = propose_attestation(later, **where)
    assert first is not None
    assert again is not None
    assert (first.new, again.new, again.proposal.number) == (True, False, first.proposal.number)
    assert again.proposal.commit == first.proposal.commit
    hub_api(small.hub.endpoint, small.hub.token).merge_pull_request(small.repo, first.proposal.number)
    assert propose_attestation(later, **where) is None
    assert len(list(hub_api(small.hub.endpoint, small.hub.token).get_repo_discussions(small.repo))) == 1


def test_two_machines_at_once_propose_one_statement(small: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"endpoint": small.hub.endpoint, "token": small.hub.token}
    legs = []
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        legs.append(small.attested("alice"))
    assert legs[0].envelope != legs[1].envelope
    with ThreadPoolExecutor(2) as pool:
        done = [each.result() for each in [pool.submit(propose_attestation, leg, **where) for leg in legs]]
    again = propose_attestation(legs[0], **where)
    assert again is not None
    assert not again.new
    listed = hub_api(small.hub.endpoint, small.hub.token).get_repo_discussions(small.repo)
    assert [each.num for each in listed if each.status in ("draft", "open")] == [again.proposal.number]
    assert again.proposal.number in [each.proposal.number for each in done if each]


def test_of_two_proposals_of_one_statement_the_first_stays(small: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither machine saw the other's: each looked before the other had begun."""
    where = {"endpoint": small.hub.endpoint, "token": small.hub.token}
    here = small.attested("alice")
    monkeypatch.setattr("platform.machine", lambda: "another")
    there = small.attested("alice")
    api = hub_api(small.hub.endpoint, small.hub.token)
    titled = {"repo_id": small.repo, "commit_message": "attestation: rebuilt by Alice", "create_pr": True}
    first = api.create_commit(operations=[CommitOperationAdd(here.path, here.envelope)], **titled)
    second = api.create_commit(operations=[CommitOperationAdd(there.path, there.envelope)], **titled)
    found = propose_attestation(there, **where)
    assert found is not None
    assert (found.new, found.proposal.number) == (False, first.pr_num)
    assert api.get_discussion_details(small.repo, first.pr_num or 0).status in ("draft", "open")
    assert api.get_discussion_details(small.repo, second.pr_num or 0).status == "closed"


def test_errors_name_no_folder_that_is_gone(small: Stage, tmp_path: Path) -> None:
    small.write("reproduce/drop_map.json", b"{")
    with pytest.raises(InputError, match=rf"^{small.repo}@?.*reproduce/drop_map\.json:1:2: ") as caught:
        small.attested("alice")
    assert "moe-release-attest-" not in str(caught.value)


@pytest.mark.parametrize("data", [b"{", b'{"payload": "", "payloadType": "x", "signatures": []}', b" " * (1 << 20) + b"{}"])
def test_what_only_stands_in_its_place_keeps_no_statement_away(small: Stage, data: bytes) -> None:
    made = small.attested("alice")
    small.write(made.path, data)
    assert propose_attestation(made, endpoint=small.hub.endpoint, token=small.hub.token) is not None


def test_a_forged_statement_in_its_place_keeps_none_away(small: Stage) -> None:
    made, forged = small.attested("alice"), small.attested("mallory")
    small.write(made.path, forged.envelope)
    assert propose_attestation(made, endpoint=small.hub.endpoint, token=small.hub.token) is not None


def test_another_result_is_proposed_although_one_stands(small: Stage) -> None:
    made = small.attested("alice")
    predicate = {**made.statement["predicate"], "verdict": "BAD", "reason": "x"}
    bad = {**made.statement, "predicate": predicate}
    signed = sign(bad, load_signer(small.keys / "alice.pem"))
    small.write(made.path, signed)
    assert propose_attestation(made, endpoint=small.hub.endpoint, token=small.hub.token) is not None


def test_an_unknown_key_is_named_and_not_counted(small: Stage) -> None:
    small.attest("alice")
    small.attest("mallory")
    found = part(small.verify(), "attestations")
    assert found.verdict is Verdict.GOOD
    assert found.reason == "rebuilt by 1 independent party, 0 report BAD; 1 not counted"
    assert any("does not list" in reason for _, verdict, reason in found.items if verdict is Verdict.UNKNOWN)


def test_only_unknown_keys_say_nothing(small: Stage) -> None:
    small.attest("mallory")
    found = part(small.verify(), "attestations")
    assert (found.verdict, found.reason) == (Verdict.UNKNOWN, "rebuilt by 0 independent parties, 0 report BAD; 1 not counted")


def test_a_changed_statement_is_bad_and_named(small: Stage) -> None:
    made = small.attest("alice")

    def forged(envelope: Any) -> None:
        statement = json.loads(base64.b64decode(envelope["payload"]))
        statement["predicate"]["builder"]["id"] = "somebody else"
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    small.change_json(made.path, forged)
    found = part(small.verify(), "attestations")
    assert found.verdict is Verdict.BAD
    assert made.path in found.reason
    assert "the signature of alice does not hold" in found.reason
    assert found.reason.startswith("rebuilt by 0 independent parties, 0 report BAD")


def test_a_rebuild_that_came_out_otherwise_is_counted_as_bad(small: Stage) -> None:
    name = shard_of(small)
    small.attest("bob")
    small.change(name, last_byte)
    made = small.attest("alice")
    assert made.verdict == "BAD"
    assert name in made.statement["predicate"]["reason"]
    rebuilt, about = made.statement["predicate"]["rebuilt"], {each["name"]: each for each in made.statement["subject"]}
    assert rebuilt[name] != about[name]["digest"]["sha256"]
    found = part(small.verify(), "attestations")
    assert found.verdict is Verdict.BAD
    assert found.reason.startswith("rebuilt by 0 independent parties, 1 reports BAD; 1 not counted")
    assert any("whose shards are others" in reason for _, _, reason in found.items)


def test_a_statement_that_contradicts_itself_is_bad(small: Stage) -> None:
    statement = json.loads(json.dumps(small.attested("alice").statement))
    name = next(iter(statement["predicate"]["rebuilt"]))
    statement["predicate"]["rebuilt"][name] = "0" * 64
    small.write("attestations/lie.json", sign(statement, load_signer(small.keys / "alice.pem")))
    found = part(small.verify(), "attestations")
    assert "says GOOD and lists other digests" in found.reason
    assert found.reason.startswith("rebuilt by 0 independent parties")


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b"no json",
        b'{"payload": "", "payloadType": "", "signatures": []}',
        b'{"payload": 1, "payloadType": 2, "signatures": [3]}',
        b'{"payload": "e30=", "payloadType": "x", "signatures": [{"keyid": "a", "sig": "!!"}]}',
        b"[" * 200_000,
    ],
)
def test_what_is_no_statement_is_named_and_not_counted(small: Stage, data: bytes) -> None:
    small.write("attestations/x.json", data)
    found = part(small.verify(), "attestations")
    assert found.verdict is Verdict.UNKNOWN
    assert found.items[0][0] == "attestations/x.json"
    assert found.reason == "rebuilt by 0 independent parties, 0 report BAD; 1 not counted"


@pytest.mark.parametrize(
    "change",
    [
        lambda statement: statement.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda statement: statement["predicate"].update(verdict="PERFECT"),
        lambda statement: statement["predicate"].update(extra=1),
        lambda statement: statement.update(subject=[]),
        lambda statement: statement.update(_type="other"),
        lambda statement: statement["subject"].append(statement["subject"][0]),
    ],
)
def test_a_listed_key_must_sign_a_rebuild_of_these_shards(small: Stage, change: Any) -> None:
    from securesystemslib.dsse import Envelope

    statement = json.loads(json.dumps(small.attested("alice").statement))
    change(statement)
    envelope = Envelope(canonical_json(statement), PAYLOAD_TYPE, {})
    envelope.sign(load_signer(small.keys / "alice.pem"))
    small.write("attestations/x.json", canonical_json(envelope.to_dict()))
    found = part(small.verify(), "attestations")
    assert found.verdict is Verdict.UNKNOWN
    assert found.reason.startswith("rebuilt by 0 independent parties, 0 report BAD")


def test_without_the_list_nobody_counts(small: Stage) -> None:
    small.attest("alice")
    small.remove("reproduce/rebuilders.json")
    found = small.verify()
    assert part(found, "attestations").verdict is Verdict.UNKNOWN
    assert part(found, "consistency").verdict is Verdict.BAD, "the manifest names the list"


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret words")))
    monkeypatch.delenv(PASSPHRASE, raising=False)
    with pytest.raises(InputError, match=PASSPHRASE):
        load_signer(path)
    monkeypatch.setenv(PASSPHRASE, "wrong")
    with pytest.raises(InputError) as refused:
        load_signer(path)
    assert "wrong" not in str(refused.value)
    monkeypatch.setenv(PASSPHRASE, "secret words")
    assert isinstance(load_signer(path), CryptoSigner)


def test_keys_that_nobody_should_use_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(CryptoSigner(rsa.generate_private_key(65537, 2048)).private_bytes)
    with pytest.raises(InputError, match="is an rsa key; use ed25519 or ECDSA"):
        load_signer(path)
    path.write_bytes(CryptoSigner.generate_ed25519().private_bytes[:-40])
    with pytest.raises(InputError, match=r"key\.pem: no usable private key"):
        load_signer(path)
    with pytest.raises(InputError, match=r"absent\.pem: the key does not exist; give a PEM file"):
        load_signer(tmp_path / "absent.pem")


def test_a_list_of_rebuilders_is_checked(small: Stage) -> None:
    pem = (small.keys / "alice.pub").read_text()
    for content, words in {
        "[]": "expected an object",
        '{"a": 1}': "expected an object",
        '{"a": "nothing"}': "the key of 'a' is no public key",
        json.dumps({"a": pem, "b": pem}): "stands twice",
        '{"a": "x", "a": "x"}': "not usable JSON",
        "{": "is not JSON",
    }.items():
        with pytest.raises(InputError, match=words):
            read_rebuilders(content.encode(), "rebuilders.json")
    assert [each.name for each in read_rebuilders(json.dumps({"a": pem}).encode(), "x")] == ["a"]


def test_nothing_is_stated_without_the_base(small: Stage) -> None:
    with pytest.raises(UnavailableError, match="--base"):
        small.attested("alice", base=None)


def test_the_command_proves_signs_and_proposes(small: Stage) -> None:
    words = ("attest", small.address, "--key", small.keys / "alice.pem", "--base", small.base, "--builder", "Alice's laptop")
    environment = {**small.hub.environment(), "PYTHONPATH": str(ROOT)}
    dry = run_command(*words, "--dry-run", **environment)
    assert json.loads(dry.stdout)["predicate"]["builder"]["id"] == "Alice's laptop"
    api = hub_api(small.hub.endpoint, small.hub.token)
    assert not list(api.get_repo_discussions(small.repo))
    done = run_command(*words, **environment)
    assert "GOOD: proposed attestations/" in done.stdout
    assert "as pull request 1 of" in done.stdout
    again = run_command(*words, **environment)
    assert (again.returncode, "waits in pull request 1 of" in again.stdout) == (0, True)
    api.merge_pull_request(small.repo, 1)
    shown = run_command("verify", small.address, "--base", small.base, **environment)
    assert "rebuilt by 1 independent party, 0 report BAD" in shown.stdout


def test_curves_that_securesystemslib_has_work(tmp_path: Path) -> None:
    for curve in (ec.SECP256R1(), ec.SECP384R1()):
        key = ec.generate_private_key(curve)
        (tmp_path / "key.pem").write_bytes(CryptoSigner(key).private_bytes)
        assert load_signer(tmp_path / "key.pem").public_key.keytype == "ecdsa"


def test_without_an_identity_sigstore_signs_nothing(small: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("GITHUB_", "ACTIONS_", "BUILDKITE", "CIRCLE", "GITLAB"))]:
        monkeypatch.delenv(name)
    from release.attestation.rebuild import AttestRequest, attest

    with pytest.raises(UnavailableError, match="no Sigstore identity"):
        attest(AttestRequest(small.repo, "main", None, endpoint=small.hub.endpoint, token=small.hub.token))


def test_a_bundle_of_nobody_who_is_listed_is_named_and_not_counted(small: Stage) -> None:
    listed = {"a workflow": {"identity": "https://github.com/x/y/.github/workflows/z.yml", "issuer": "https://token.example"}}
    (entry,) = read_rebuilders(json.dumps(listed).encode(), "rebuilders.json")
    assert entry.identity is not None
    small.write("reproduce/rebuilders.json", json.dumps(listed).encode())
    small.write("attestations/x.json", b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}')
    found = part(small.verify(), "attestations")
    assert found.verdict is Verdict.UNKNOWN
    assert "is a Sigstore bundle of no identity" in found.items[0][2]


IDENTITY = "https://github.com/x/y/.github/workflows/z.yml@refs/heads/main"
ISSUER = "https://token.actions.githubusercontent.com"


def self_made_bundle(statement: dict[str, Any], identity: str) -> bytes:
    """A bundle that anybody can make: a certificate with that name which no authority gave out."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, start + timedelta(days=9999))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True)
        .sign(key, SHA256())
    )
    encoded = {
        "raw": base64.b64encode(certificate.public_bytes(Encoding.DER)).decode(),
        "payload": base64.b64encode(canonical_json(statement)).decode(),
        "signature": base64.b64encode(b"no signature").decode(),
    }
    envelope = {"payload": encoded["payload"], "payloadType": PAYLOAD_TYPE, "signatures": [{"sig": encoded["signature"]}]}
    material = {"certificate": {"rawBytes": encoded["raw"]}, "tlogEntries": []}
    media = "application/vnd.dev.sigstore.bundle.v0.3+json"
    return json.dumps({"mediaType": media, "verificationMaterial": material, "dsseEnvelope": envelope}).encode()


def test_a_bundle_of_a_listed_identity_that_does_not_hold_is_bad(small: Stage) -> None:
    statement = small.attested("alice").statement
    listed = {"a workflow": {"identity": IDENTITY, "issuer": ISSUER}}
    small.write("reproduce/rebuilders.json", json.dumps(listed).encode())
    small.write("attestations/other.json", self_made_bundle(statement, f"{IDENTITY}-of-somebody-else"))
    found = part(small.verify(), "attestations")
    assert found.verdict is Verdict.UNKNOWN, "anybody can propose a statement of their own"
    small.write("attestations/forged.json", self_made_bundle(statement, IDENTITY))
    found = part(small.verify(), "attestations")
    assert found.verdict is Verdict.BAD
    assert f"attestations/forged.json: does not hold for {IDENTITY}" in found.reason
    assert found.reason.startswith("rebuilt by 0 ")
