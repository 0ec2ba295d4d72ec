"""`llama-server -hf` against a GGUF that was published to the rehearsal Hub."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
import pytest

from pruner.errors import CheckFailedError, UnavailableError
from pruner.files import sha256_file
from release.gguf.toolchain import Toolchain
from release.hub.download_check import check_download
from release.hub.local import LocalHub
from tests.release.hub.releases import publish

REPO = "org/tiny-GGUF"


@pytest.fixture(scope="module")
def quants(toolchain: Toolchain, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two quants of the tiny model by their paths in the repo."""
    from release.gguf.convert import convert
    from release.gguf.quantize import quantize

    if not tiny_model.is_dir():
        pytest.skip("the tiny checkpoint is not there")
    folder = tmp_path_factory.mktemp("quants")
    whole, log = folder / "tiny-BF16.gguf", folder / "log"
    convert(toolchain, tiny_model, whole, model_name="tiny", log=log)
    result = {}
    for name in ("Q6_K", "Q8_0"):
        result[f"tiny-{name}.gguf"] = folder / f"tiny-{name}.gguf"
        quantize(toolchain, whole, folder / f"tiny-{name}.gguf", quant_type=name, threads=1, log=log)
    return result


@pytest.fixture
def question(manifests: Path) -> str:
    """A question of the tiny model's own exam."""
    row = json.loads((manifests / "tiny" / "exam" / "held_out.jsonl").read_text().splitlines()[0])
    return str(row["Question"])


@pytest.fixture
def digests(hub: LocalHub, quants: dict[str, Path]) -> dict[str, str]:
    """The quants, published to a private repo."""
    found = {path: sha256_file(file) for path, file in quants.items()}
    target = {"endpoint": hub.endpoint, "token": hub.token}
    publish(REPO, quants, found, private=True, message="v1", tag="v1", **target)
    return found


def llama_servers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "llama" in child.name()]


@pytest.mark.llama
def test_llama_server_loads_the_published_quant_and_answers(
    hub: LocalHub, digests: dict[str, str], toolchain: Toolchain, question: str, tmp_path: Path
) -> None:
    binary, log = toolchain.binary("llama-server"), tmp_path / "logs" / "server.log"
    options = {"endpoint": hub.endpoint, "token": hub.token, "log": log, "question": question, "scratch": tmp_path}
    for quant in ("Q6_K", "Q8_0"):
        file = f"tiny-{quant}.gguf"
        done = check_download(binary, REPO, quant, digests=digests, file=file, **options)
        assert (done.file, done.sha256) == (file, digests[file])
        assert done.reply.strip()
    assert llama_servers() == []
    assert hub.token not in log.read_text(errors="replace")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("llama-cache")] == []


@pytest.mark.llama
def test_a_quant_in_shards_is_loaded_and_every_shard_compared(
    hub: LocalHub, quants: dict[str, Path], toolchain: Toolchain, question: str, tmp_path: Path
) -> None:
    from release.gguf.split import split_gguf
    from release.gguf.summary import summarize

    whole = quants["tiny-Q6_K.gguf"]
    digest = summarize(whole).tensor_digest
    stem = tmp_path / "shards" / "tiny-Q6_K"
    made = split_gguf(toolchain, whole, stem, max_bytes=10**6, tensor_digest=digest, log=tmp_path / "log")
    found = {name: summary.sha256 for name, summary in made}
    assert len(found) > 2
    files = {name: stem.with_name(name) for name in found}
    publish("org/shards-GGUF", files, found, private=False, message="v1", tag="v1", endpoint=hub.endpoint, token=hub.token)
    options = {"endpoint": hub.endpoint, "token": hub.token, "log": tmp_path / "server.log", "scratch": tmp_path}
    first, last = min(found), max(found)
    check = (toolchain.binary("llama-server"), "org/shards-GGUF", "Q6_K")
    done = check_download(*check, digests=found, file=first, question=question, **options)
    assert (done.file, done.sha256) == (first, found[first])
    with pytest.raises(CheckFailedError, match=f"Q6_K: {last} was downloaded with sha256 .*, which is not what was published"):
        check_download(*check, digests={**found, last: "0" * 64}, file=first, question=question, **options)


@pytest.mark.llama
def test_what_goes_wrong_is_one_line_and_leaves_no_server(
    hub: LocalHub, digests: dict[str, str], toolchain: Toolchain, tmp_path: Path
) -> None:
    binary, log = toolchain.binary("llama-server"), tmp_path / "server.log"
    options = {"endpoint": hub.endpoint, "log": log, "scratch": tmp_path}
    with pytest.raises(CheckFailedError, match=r"chose tiny-Q6_K\.gguf instead of other\.gguf"):
        check_download(binary, REPO, "Q6_K", token=hub.token, file="other.gguf", **options)
    with pytest.raises(CheckFailedError, match="which is not what was published"):
        check_download(binary, REPO, "Q6_K", token=hub.token, digests={"tiny-Q6_K.gguf": "0" * 64}, **options)
    with pytest.raises(UnavailableError, match=f"llama-server -hf {REPO}:Q6_K ended"):
        check_download(binary, REPO, "Q6_K", token=None, **options)
    with pytest.raises(UnavailableError, match="ended"):
        check_download(binary, "org/none", "Q6_K", token=hub.token, **options)
    assert llama_servers() == []


def test_a_binary_that_cannot_run_is_one_line(tmp_path: Path) -> None:
    options = {"endpoint": "http://127.0.0.1:9", "token": None, "log": tmp_path / "log"}
    with pytest.raises(UnavailableError, match="cannot be started"):
        check_download(tmp_path / "none", REPO, "Q6_K", **options)
    with pytest.raises(UnavailableError, match="ended"):
        check_download(Path(sys.executable), REPO, "Q6_K", **options)


def test_a_server_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    sleeper = tmp_path / "llama-sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    options = {"endpoint": "http://127.0.0.1:9", "token": None, "log": tmp_path / "log"}
    with pytest.raises(UnavailableError, match="not ready after 1 s: no output"):
        check_download(sleeper, REPO, "Q6_K", timeout=1.0, **options)
    assert [child for child in psutil.Process().children() if child.name() == "sleep"] == []
