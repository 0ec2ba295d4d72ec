"""What may not be published, and what looks similar and may."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pruner.errors import CheckFailedError
from release.hub.secret_scan import require_no_secrets, scan_file

A = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"token: hf_{A}", "a Hugging Face token"),
        (f'"hf_{A}"', "a Hugging Face token"),
        (f"ghp_{A}", "a GitHub token"),
        (f"github_pat_{A}", "a GitHub token"),
        ("AKIA" + "ABCDEFGH12345678", "an AWS key"),
        ("-----BEGIN OPENSSH " + "PRIVATE KEY-----", "a private key"),
        ("path: /ho" + "me/ann/work", "an absolute home path"),
        ("see (/Us" + "ers/ann)", "an absolute home path"),
        ("/ro" + "ot/models", "an absolute home path"),
        (r"C:\Us" + r"ers\ann", "an absolute home path"),
        ("C:/Us" + "ers/ann", "an absolute home path"),
        ('"cwd": "\\/ho' + 'me\\/ann"', "an absolute home path"),
        ('"cwd": "/ro' + 'ot",', "an absolute home path"),
        ("cd /ro" + "ot", "an absolute home path"),
        ("sk-" + "proj-" + A, "an API key"),
        ("key=sk-" + "ant-api03-" + A, "an API key"),
        ("AIza" + A[:35], "a Google API key"),
        ("xoxb-" + "123456789012-abcdef", "a Slack token"),
        ("glpat-" + A[:20], "a GitLab token"),
        ("curl -H 'Authorization: Bearer " + A + "'", "a credential in a header"),
        ('{"Authorization": "Bearer ' + A + '"}', "a credential in a header"),
        ("-----BEGIN " + "PRIVATE KEY-----", "a private key"),
        ("https://ann:" + "pass12@example.org/x", "a password in an address"),
        ("at /srv/build/release/x", "a path of this machine"),
    ],
)
def test_a_secret_is_found_on_its_line(tmp_path: Path, text: str, kind: str) -> None:
    file = tmp_path / "notes.md"
    file.write_text(f"first\n{text}\nlast\n")
    (finding,) = scan_file("notes.md", file, [Path("/srv/build/release")])
    assert (finding.path, finding.place, finding.kind) == ("notes.md", 2, kind)


@pytest.mark.parametrize(
    "text",
    [
        "hf_hub_download and hf_transfer",
        "https://example.org/home/page",
        "~/home/x and ./home/x",
        "set HF_TOKEN to hf_...",
        "/srv/build/release-notes",
        "sha256 " + "0" * 64,
        "shf_" + A,
        "Authorization: Bearer $HF_TOKEN",
        "Authorization: Bearer <your token here>",
        "task-" + A,
        "sk-learn-is-a-library-with-a-long-name",
        "https://example.org:8080/x@y",
        "http://127.0.0.1:8080/v1",
        '  "/root": 12345,',
        "the /rooted tree and ../root and a/root",
        "AKIA" + "ABCDEFGH1234567890ABC",
    ],
)
def test_harmless_text_passes(tmp_path: Path, text: str) -> None:
    file = tmp_path / "notes.md"
    file.write_text(text)
    assert list(scan_file("notes.md", file, [Path("/srv/build/release")])) == []


@pytest.mark.parametrize("ending", ["gguf", "bin"])
def test_a_token_in_any_binary_file_is_found(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.{ending}"
    file.write_bytes(b"GGUF\0\0" + f"hf_{A}".encode())
    assert [str(finding) for finding in scan_file(file.name, file)] == [f"a.{ending}:binary holds a Hugging Face token"]


def test_the_metadata_of_weights_is_read_and_their_tensors_are_not(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    data = {"t": np.frombuffer(f"hf_{A}".encode()[:32], dtype=np.uint8)}
    save_file(data, file, metadata={"format": "pt", "made_by": "/ho" + "me/ann/x"})
    assert [str(finding) for finding in scan_file(file.name, file)] == [
        "model.safetensors:__metadata__.made_by holds an absolute home path"
    ]
    save_file(data, file, metadata={"format": "pt"})
    assert list(scan_file(file.name, file)) == []


def test_the_metadata_of_a_gguf_is_read(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    file = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_string("general.source", "/srv/build/release/w")
    writer.add_string("general.note", f"hf_{A}")
    writer.add_tensor("t", np.zeros(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert [str(finding) for finding in scan_file("a.gguf", file, [Path("/srv/build/release")])] == [
        "a.gguf:general.source holds a path of this machine",
        "a.gguf:general.note holds a Hugging Face token",
    ]


def test_bytes_of_the_base_are_not_searched(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text('{"/ho' + 'me/user": 7}')
    require_no_secrets({"tokenizer.json": file}, inherited={"tokenizer.json"})
    with pytest.raises(CheckFailedError, match=r"tokenizer\.json:1"):
        require_no_secrets({"tokenizer.json": file})


def test_all_files_are_scanned_and_the_message_is_one_line(tmp_path: Path) -> None:
    files = {}
    for number in range(8):
        files[f"f{number}.md"] = tmp_path / str(number)
        files[f"f{number}.md"].write_text(f"hf_{A}\n")
    with pytest.raises(CheckFailedError) as caught:
        require_no_secrets(files)
    message = str(caught.value)
    assert "f0.md:1 holds a Hugging Face token" in message
    assert "and 3 more" in message
    assert A not in message
    assert "\n" not in message
