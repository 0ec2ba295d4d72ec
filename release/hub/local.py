"""A rehearsal Hub for as long as a block of code runs, or until Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pruner.errors import UnavailableError
from release.hub.server import LOCAL_TOKEN

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from release.hub.server.call import Settings
    from release.hub.server.run import HubServer

START_TIMEOUT = 60.0


class LocalHub:
    """A Hub over `folder`, served by a thread of this process on a free port while the context is open.

    The environment is not touched: give `endpoint` and `token` to `HfApi` or to child processes (see `environment`).

    Args:
        folder: the Hub's state; created when missing, kept afterwards.
        port: 0 for any that is free.
        settings: sizes from which uploads are large or in parts.
        wrap: puts something in front of the application; tests inject faults with it.
    """

    token = LOCAL_TOKEN

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        settings: Settings | None = None,
        wrap: Callable[[ASGIApp], ASGIApp] | None = None,
    ) -> None:
        self.folder = folder
        self.endpoint = ""
        self._port = port
        self._settings = settings
        self._wrap = wrap
        self._server: HubServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LocalHub:
        """Start serving.

        Raises:
            UnavailableError: the port is taken, another process serves the folder, or the server does not start.
            InputError: the folder holds other things.
        """
        from release.hub.server.run import HubServer

        server = HubServer(self.folder, port=self._port, settings=self._settings, wrap=self._wrap)
        self._server, self.endpoint = server, server.endpoint
        self._thread = threading.Thread(target=server.run, name="rehearsal-hub", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT
        while not server.ready:
            if time.monotonic() > deadline or not self._thread.is_alive():
                self.close()
                raise UnavailableError(
                    f"{self.folder}: the rehearsal Hub did not start; run it alone with `moe-release hub serve`"
                )
            time.sleep(0.005)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; the folder keeps everything."""
        if self._server:
            self._server.stop()
        if self._thread:
            self._thread.join(START_TIMEOUT)
        self._server = self._thread = None

    def environment(self) -> dict[str, str]:
        """What a child process needs to find this Hub."""
        return client_environment(self.endpoint, self.token)


def client_environment(endpoint: str, token: str | None) -> dict[str, str]:
    """Environment variables that lead huggingface_hub, `hf` and llama.cpp to an endpoint, by plain HTTP, without telemetry."""
    quiet = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK")
    environment = {"HF_ENDPOINT": endpoint, "MODEL_ENDPOINT": f"{endpoint}/", **dict.fromkeys(quiet, "1")}
    return {**environment, "HF_TOKEN": token} if token else environment


def _say(line: str) -> None:
    print(line, flush=True)  # a pipe would keep it until the end


def serve(folder: Path, *, host: str = "127.0.0.1", port: int = 0, announce: Callable[[str], None] = _say) -> None:
    """Serve a Hub over `folder` until SIGINT or SIGTERM, and say how clients reach it.

    Raises:
        InputError: the host is not loopback, or the folder holds other things.
        UnavailableError: the port is taken, or another process serves the folder.
    """
    from release.hub.server.run import HubServer

    new = "" if (folder / "hub.json").exists() else ", new and empty"
    with _ended_by_signal(), closing(HubServer(folder, host=host, port=port)) as server:
        announce(f"rehearsal Hub on {server.endpoint} (folder {folder}{new}, stop with Ctrl-C)")
        announce(f"for clients: export HF_ENDPOINT={server.endpoint} HF_TOKEN={LOCAL_TOKEN}")
        server.run()


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """A server ends by SIGINT or SIGTERM: nothing is interrupted then, whether uvicorn had taken them over or not yet."""
    try:
        with suppress(KeyboardInterrupt):
            yield
    except SystemExit as end:  # what the command line makes of SIGTERM; uvicorn leaves with other codes when it cannot start
        if end.code != 128 + signal.SIGTERM:
            raise
