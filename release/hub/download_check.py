"""The proof that a published GGUF can be used: `llama-server -hf org/name-GGUF:QUANT` fetches it from the Hub and answers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruner.errors import CheckFailedError, UnavailableError
from pruner.files import sha256_file
from release.hub.local import client_environment
from release.llama_server import ServerProcess
from release.processes import environment_without_secrets

QUESTION = "Say hello."
LONGEST_ANSWER = 64


@dataclass(frozen=True)
class DownloadCheck:
    """What `llama-server -hf` made of a repo.

    Attributes:
        file: path in the repo of the GGUF that it chose; of one in shards, the first.
        sha256: digest of that file as it was downloaded.
        reply: its answer (reasoning and content) to one short question.
    """

    file: str
    sha256: str
    reply: str


def check_download(
    binary: Path,
    repo: str,
    quant: str,
    *,
    endpoint: str,
    token: str | None,
    log: Path,
    digests: Mapping[str, str] | None = None,
    file: str | None = None,
    question: str = QUESTION,
    scratch: Path | None = None,
    timeout: float = 600.0,
) -> DownloadCheck:
    """Let llama-server download `repo:quant` into an empty cache, load it and answer one question; it is always stopped.

    Args:
        binary: the llama-server executable.
        repo: "namespace/name" of the GGUF repo.
        quant: the label after the colon, such as "Q6_K".
        endpoint: address of the Hub.
        token: for a private repo; passed in the environment, None for none.
        log: the server's output is appended here.
        digests: path in the repo -> sha256 that the chosen file, and every further shard, must have.
        file: path in the repo that must be chosen, None when any of `digests` may be.
        question: what the model is asked; a model that knows little needs one that it can answer.
        scratch: folder with space for the GGUF, None for the system's temporary folder.
        timeout: seconds for the download and the loading.

    Raises:
        CheckFailedError: another file was chosen, its digest differs, or the answer is empty.
        UnavailableError: the server cannot be started, does not find the file, or does not become healthy.
    """
    with tempfile.TemporaryDirectory(prefix="llama-cache-", dir=scratch) as cache:
        environment = {**client_environment(endpoint, token), "LLAMA_CACHE": cache, "HF_HOME": cache}
        with _server(binary, f"{repo}:{quant}", environment, log, timeout) as url:
            reply = _ask(url, question, log)
        found = _downloaded(Path(cache), repo)
    chosen, digest = next(iter(found.items()))
    if file is not None and chosen != file:
        raise CheckFailedError(f"{repo}:{quant}: llama-server chose {chosen} instead of {file}; rename the files in the repo")
    for name, sha256 in found.items():
        if digests is not None and digests.get(name) != sha256:
            raise CheckFailedError(
                f"{repo}:{quant}: {name} was downloaded with sha256 {sha256}, which is not what was published"
            )
    if not reply.strip():
        raise CheckFailedError(f"{repo}:{quant}: the downloaded model gave an empty answer (log: {log})")
    return DownloadCheck(chosen, digest, reply)


@contextmanager
def _server(binary: Path, model: str, environment: Mapping[str, str], log: Path, timeout: float) -> Iterator[str]:
    """Run llama-server until the block is left; yields its address once it is healthy."""
    import httpx

    words = ["-hf", model, "--ctx-size", "1024", "--parallel", "1", "--no-mmproj"]
    clean = {name: value for name, value in environment_without_secrets().items() if not name.startswith(("LLAMA_", "HF_"))}
    server = ServerProcess(binary, words, log=log, environment={**clean, **environment}, name=f"llama-server -hf {model}")
    try:
        server.start()
        with httpx.Client(trust_env=False) as client:
            server.await_health(client, timeout)
        yield server.url
    finally:
        server.stop()


def _ask(url: str, question: str, log: Path) -> str:
    import httpx

    body = {"messages": [{"role": "user", "content": question}], "max_tokens": LONGEST_ANSWER, "temperature": 0, "seed": 1}
    try:
        with httpx.Client(trust_env=False, timeout=600) as client:
            answer = client.post(f"{url}/v1/chat/completions", json=body).raise_for_status().json()
        message: dict[str, Any] = answer["choices"][0]["message"]
        return " ".join(str(message[key]) for key in ("reasoning_content", "content") if message.get(key))
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnavailableError(f"llama-server did not answer a chat completion: {error} (log: {log})") from None


def _downloaded(cache: Path, repo: str) -> dict[str, str]:
    """Digest of every GGUF in a cache that was empty before, by path in the repo: the chosen one, or its shards in order."""
    snapshots = cache / f"models--{repo.replace('/', '--')}" / "snapshots"
    found = sorted(path for path in snapshots.rglob("*.gguf") if path.is_file())
    if not found:
        raise CheckFailedError(f"{repo}: llama-server left no GGUF in its cache; it may be older than its shared Hub cache")
    return {path.relative_to(snapshots).as_posix().partition("/")[2]: sha256_file(path) for path in found}
