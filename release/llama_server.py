"""A llama-server process of ours on the loopback interface: a free port, start, health, last words, and always an end."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.errors import UnavailableError
from release.processes import end_with_parent, stop_process

if TYPE_CHECKING:
    import httpx

HOST = "127.0.0.1"
LAST_LINES = 5
HEALTH_SECONDS = 5.0
MOST_STARTS = 3
"""How often in a row another free port is tried."""


class ServerProcess:
    """A llama-server; on Linux it ends even when this process is killed by SIGKILL.

    Args:
        binary: the llama-server executable.
        words: its command line without host and port.
        log: the process's output is appended here.
        environment: all of its variables.
        port: a free one at each start when None.
        name: what errors call it.
    """

    def __init__(
        self,
        binary: Path,
        words: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        port: int | None = None,
        name: str = "llama-server",
    ) -> None:
        self._binary = binary
        self._words = tuple(words)
        self._log = log
        self._environment = dict(environment)
        self._fixed_port = port
        self._name = name
        self._port = self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL of the running server."""
        return f"http://{HOST}:{self._port}"

    def start(self) -> None:
        """Start the process without waiting for it.

        Raises:
            UnavailableError: the binary or the port cannot be used.
        """
        self._starts += 1
        self._port = self._fixed_port or free_port()
        if self._fixed_port:
            require_free(self._fixed_port)
        words = [str(self._binary), *self._words, "--host", HOST, "--port", str(self._port)]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    preexec_fn=end_with_parent(),  # noqa: PLW1509  # the function only makes one system call
                )
        except OSError as error:
            raise UnavailableError(f"{self._binary}: cannot be started: {error.strerror}; run `moe-release doctor`") from None

    def await_health(self, client: httpx.Client, seconds: float, given_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until the server answers that its model is loaded.

        Raises:
            UnavailableError: it ends, is not ready after `seconds`, or the wait is given up; has its last lines.
        """
        import httpx

        assert self._process is not None  # noqa: S101  # for the type checker
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not given_up():
            code = self._process.poll()
            if code is not None and self._port_is_lost():
                self.start()
                continue
            if code is not None:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                raise UnavailableError(f"{self._name} ended with {how}: {self.last_words()}")
            try:
                if client.get(f"{self.url}/health", timeout=HEALTH_SECONDS).status_code == httpx.codes.OK:
                    self._starts = 0
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.05)
        raise UnavailableError(f"{self._name} is not ready after {seconds:g} s: {self.last_words()}")

    def _port_is_lost(self) -> bool:
        """Whether somebody else took the port between our choice and the server's use, and another may be tried."""
        if self._fixed_port or self._starts >= MOST_STARTS:
            return False
        try:
            require_free(self._port)
        except UnavailableError:
            return True
        return False

    def lives(self, grace: float = 0) -> bool:
        """Whether the process runs, and does so for `grace` seconds more."""
        if self._process is None:
            return False
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            return True
        return False

    def last_words(self) -> str:
        """The last lines of its output, and where the rest is."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        said = " | ".join([line.strip() for line in lines if line.strip()][-LAST_LINES:]) or "no output"
        return f"{said} (log: {self._log})"

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            stop_process(self._process)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def require_free(port: int) -> None:
    """Raise UnavailableError when somebody listens on `port` already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UnavailableError(f"port {port} cannot be used: {error.strerror}; choose another or leave it out") from None
