"""A llama-server that somebody else runs: compared with the protocol and the model as far as it lets itself be looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pruner.errors import CheckFailedError, InputError, UnavailableError
from release.evaluation.client import Answer, ServerClient, clean_text, get, shown
from release.evaluation.protocol import Protocol
from release.evaluation.settings import differing_settings

LOOK_SECONDS = 30.0
UNSEEN = (
    "model_sha256",
    "server.threads",
    "server.gpu_layers",
    "server.batch",
    "server.micro_batch",
    "server.flash_attention",
    "server.cache_type_k",
    "server.cache_type_v",
    "server.context_shift",
    "server.cache_ram_mib",
    "chat_template_kwargs",
    "reasoning_effort",
    "skip_chat_parsing",
    "grammar",
    "logit_bias",
)
"""What a running llama-server tells nobody; evidence names it as unverified."""

REWRITTEN = ("<|channel|>", "[TOOL_CALLS]")
"""Marks of the templates (gpt-oss, Mistral) that llama.cpp's common_chat_templates_init changes as it loads them."""


def check_url(url: str) -> str:
    """A server's base URL without a slash at its end.

    Raises:
        InputError: it is no http(s) address of a server, or carries a credential, which logs would repeat.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"--server {url!r}: no URL: {error}; write for example http://10.0.0.5:8080") from None
    if "@" in parts.netloc:
        raise InputError("--server: leave user and password out of the URL; logs and errors repeat it")
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise InputError(f"--server {url!r}: write for example http://10.0.0.5:8080")
    return url.rstrip("/")


def identity_of(model: Path) -> dict[str, Any]:
    """What a server that has loaded this GGUF file says of it under /v1/models and /props.

    Raises:
        InputError: the file is no GGUF.
    """
    from release.gguf.reader import GgufArray, read_header

    header = read_header(model)
    tokens = header.entries.get("tokenizer.ggml.tokens")
    found: dict[str, Any] = {
        "n_params": sum(tensor.elements for tensor in header.tensors),
        "size": sum(tensor.size for tensor in header.tensors),
        "n_embd": header.model_value("embedding_length"),
        "n_ctx_train": header.model_value("context_length"),
        "n_vocab": tokens.value.count if tokens and isinstance(tokens.value, GgufArray) else None,
        "chat_template": _as_loaded(header.value("tokenizer.chat_template")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _as_loaded(template: object) -> str | None:
    """A template as /props shows it: llama.cpp cuts its last newline; what it rewrites cannot be compared."""
    if not isinstance(template, str) or any(marker in template for marker in REWRITTEN):
        return None
    return template.replace("\r\n", "\n").removesuffix("\n")


class RemoteServer:
    """A running server at a URL, with the methods of `LlamaServer`; it is neither started nor stopped.

    Args:
        url: its address.
        protocol: what /props must say.
        identity: of the model, from `identity_of`.
        number: tells the servers of one run apart.
    """

    elsewhere = True

    def __init__(self, url: str, *, protocol: Protocol, identity: Mapping[str, Any], number: int = 0) -> None:
        self.url = check_url(url)
        self.alias = ""
        self.number = number
        self.client = ServerClient()
        self.props: dict[str, Any] = {}
        self.restarts = 0
        self._protocol = protocol
        self._identity = identity
        self._aborted = threading.Event()

    def launch(self) -> None:
        """Nothing to start; a server that nobody runs is told at once."""
        answer = self._look("/health")
        if answer.status is None:
            raise UnavailableError(f"{self.url}: no llama-server answers: {answer.error}; start it or leave it out")

    def await_ready(self) -> None:
        """Wait until the model is loaded, and compare settings and model.

        Raises:
            UnavailableError: it is not ready in time.
            CheckFailedError: it runs another model, or not as the protocol says.
        """
        self._await_health()
        self.props = self._require("/props")
        model = self._model()
        name = model.get("id")
        self.alias = (clean_text(name) if isinstance(name, str) else None) or ""
        if differences := differing_settings(self._protocol, self.props):
            raise CheckFailedError(f"{self.url} does not run protocol {self._protocol.name}: {'; '.join(differences)}")
        if differences := self._other_model(model):
            raise CheckFailedError(f"{self.url} runs another model: {'; '.join(differences)}")

    def revive(self, grace: float = 0) -> bool:
        """Wait for a server that does not answer any more, as long as one may take to start; True when it had to be waited for.

        Whoever restarted it may have done so with another model or other flags, so both are compared again.
        """
        del grace
        if self._look("/health").error is None:
            return False
        self.restarts += 1
        if self.restarts > self._protocol.limits.server_restarts:
            raise UnavailableError(f"{self.url}: gone {self.restarts} times; the replies so far are in the ledger")
        self.await_ready()
        return True

    def abort(self) -> None:
        """Break what other threads do with this server, so that they end."""
        self._aborted.set()
        self.client.abort()

    def stop(self) -> None:
        """Leave the server as it is."""
        self.client.close()

    def _look(self, path: str) -> Answer:
        return get(self.client, self.url + path, seconds=LOOK_SECONDS)

    def _await_health(self) -> None:
        deadline = time.monotonic() + self._protocol.limits.start_seconds
        while (answer := self._look("/health")).error is not None:
            if time.monotonic() > deadline or self._aborted.is_set():
                seconds = self._protocol.limits.start_seconds
                raise UnavailableError(
                    f"{self.url}: not ready after {seconds:g} s: {answer.error}; the replies are in the ledger"
                )
            time.sleep(min(1.0, self._protocol.limits.start_seconds / 10))

    def _require(self, path: str) -> dict[str, Any]:
        answer = self._look(path)
        if answer.error is not None:
            raise UnavailableError(f"{self.url}{path}: {answer.error}; a llama-server is needed")
        return answer.body

    def _model(self) -> dict[str, Any]:
        models = self._require("/v1/models").get("data")
        if not isinstance(models, list) or len(models) != 1 or not isinstance(models[0], dict):
            raise CheckFailedError(f"{self.url}/v1/models: a server with exactly one model is needed")
        return models[0]

    def _other_model(self, model: dict[str, Any]) -> list[str]:
        meta = model.get("meta")
        found = {**(meta if isinstance(meta, dict) else {}), "chat_template": self.props.get("chat_template")}
        differing = [name for name, value in self._identity.items() if found.get(name) != value]
        return [
            f"{name} is {shown(found.get(name))}, of the quant {self._identity[name]!r}"
            if name != "chat_template"
            else "another chat template"
            for name in differing
        ]
