"""A llama-server process that the evaluation owns: started with the protocol's flags, proved by /props, always stopped."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pruner.errors import CheckFailedError, UnavailableError
from release.evaluation.client import ServerClient, get
from release.evaluation.protocol import Protocol
from release.evaluation.settings import differing_settings, server_flags
from release.llama_server import ServerProcess
from release.processes import environment_without_secrets

PROPS_SECONDS = 30.0


class LlamaServer:
    """A llama-server for one model, as a context manager.

    On entry the process runs, is healthy and agrees with the protocol.  However the block is left, the process is ended; on
    Linux it ends even when this process is killed by SIGKILL.  `ServerPool` runs several and ends them on SIGTERM too.

    Args:
        binary: the llama-server executable.
        model: the GGUF file.
        alias: the name under which the server answers; every reply repeats it.
        protocol: flags, and what /props must say.
        log: the process's output is appended here.
        port: a free one when None.
        number: tells the servers of one run apart.
        environment: more variables for the process, such as the GPUs that it may see.

    Raises:
        UnavailableError: the binary or the port cannot be used, or the server does not become healthy.
        CheckFailedError: the running server's settings differ from the protocol's.
    """

    elsewhere = False

    def __init__(
        self,
        *,
        binary: Path,
        model: Path,
        alias: str,
        protocol: Protocol,
        log: Path,
        port: int | None = None,
        number: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        words = ["--model", str(model), "--alias", alias, *server_flags(protocol)]
        self._process = ServerProcess(binary, words, log=log, environment=environment_without_secrets(environment), port=port)
        self._protocol = protocol
        self._log = log
        self._aborted = threading.Event()
        self.alias = alias
        self.number = number
        self.client = ServerClient()
        self.props: dict[str, Any] = {}
        self.restarts = 0

    @property
    def url(self) -> str:
        """Base URL of the running server."""
        return self._process.url

    def __enter__(self) -> Self:
        try:
            self.launch()
            self.await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def revive(self, grace: float = 0) -> bool:
        """Start the process again if it has died, or dies within `grace` seconds; True when it had.

        Raises:
            UnavailableError: it has died more often than the protocol allows, or does not start again.
        """
        if self._process.lives(grace):
            return False
        self.restarts += 1
        if self.restarts > self._protocol.limits.server_restarts:
            raise UnavailableError(f"llama-server died {self.restarts} times: {self._process.last_words()}")
        self.launch()
        self.await_ready()
        return True

    def launch(self) -> None:
        """Start the process without waiting for it: several servers load their models side by side."""
        self._process.start()

    def await_ready(self) -> None:
        """Wait until the process is healthy, and compare its settings with the protocol's."""
        self._process.await_health(self.client, self._protocol.limits.start_seconds, self._aborted.is_set)
        self._check_props()

    def abort(self) -> None:
        """Break what other threads do with this server, so that they end; only `stop` may follow."""
        self._aborted.set()
        self.client.abort()

    def stop(self) -> None:
        """End the process."""
        self._process.stop()
        self.client.close()

    def _check_props(self) -> None:
        answer = get(self.client, f"{self.url}/props", seconds=PROPS_SECONDS)
        if answer.error is not None:
            raise UnavailableError(f"llama-server does not answer /props: {answer.error} (log: {self._log})")
        self.props = answer.body
        differences = differing_settings(self._protocol, self.props)
        if differences:
            raise CheckFailedError(f"llama-server does not run protocol {self._protocol.name}: {'; '.join(differences)}")
