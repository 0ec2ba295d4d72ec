"""The Hub's two ports on loopback, served until told to stop."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.errors import InputError, UnavailableError, printable
from pruner.exclusive import exclusive
from pruner.files import canonical_json, read_json, write_atomic
from pruner.places import missing
from release.hub.server import LOCAL_TOKEN

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from release.hub.server.call import Settings

LOOPBACK = "127.0.0.1"
ADDRESS = "server.url"
"""File beside the lock with the address of the server that holds it."""
SCHEMA = "moe-release/hub/v1"
HIGHEST_PORT = 65535


class HubServer:
    """A Hub over a folder; the ports are bound on construction, and released by `close` or the end of `run`.

    Attributes:
        endpoint: origin of the API, for `HF_ENDPOINT`.
        storage: origin of large contents.

    Raises:
        InputError: the host is not loopback, or the folder holds something else than a Hub.
        UnavailableError: the port is taken, or another server has the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        settings: Settings | None = None,
        wrap: Callable[[ASGIApp], ASGIApp] | None = None,
    ) -> None:
        import uvicorn

        from release.hub.server.access import Signer, Tokens
        from release.hub.server.app import application
        from release.hub.server.call import Hub
        from release.hub.server.call import Settings as DefaultSettings
        from release.hub.server.store import Store
        from release.hub.server.xet_storage import XetStorage

        if host not in (LOOPBACK, "localhost"):
            raise InputError(f"{host}: the rehearsal Hub only serves loopback; use --host {LOOPBACK}")
        with ExitStack() as stack:
            prepare_folder(folder)
            stack.enter_context(exclusive(folder / "server.lock", _busy(folder)))
            self._sockets = [stack.enter_context(bind(number)) for number in (port, 0)]
            self.endpoint, self.storage = (f"http://{LOOPBACK}:{sock.getsockname()[1]}" for sock in self._sockets)
            stack.callback((folder / ADDRESS).unlink, missing_ok=True)
            write_atomic(folder / ADDRESS, f"{self.endpoint}\n".encode())
            store = Store(folder)
            store.blobs.discard_partial()
            hub = Hub(
                store,
                XetStorage(folder / "xet"),
                Tokens(folder),
                Signer(),
                settings or DefaultSettings(),
                endpoint=self.endpoint,
                storage=self.storage,
            )
            app = application(hub, self._sockets[1].getsockname()[1])
            config = uvicorn.Config(
                wrap(app) if wrap else app,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=2,
            )
            self._server = uvicorn.Server(config)
            self._resources = stack.pop_all()

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self._server.started

    def run(self) -> None:
        """Serve until `stop` is called, or in the main thread until SIGINT or SIGTERM."""
        try:
            self._server.run(sockets=self._sockets)
        finally:
            self.close()

    def stop(self) -> None:
        """Ask `run` to return."""
        self._server.should_exit = True

    def close(self) -> None:
        """Release the ports and the folder."""
        self._resources.close()


def _busy(folder: Path) -> str:
    """What to do when another process serves the folder; its address stands there while it runs."""
    try:
        address = (folder / ADDRESS).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        address = ""
    known = address if printable(address) == address and address.startswith(f"http://{LOOPBACK}:") else "URL"
    at = "" if known == "URL" else f" at {known}"
    use = f"use it with HF_TOKEN={LOCAL_TOKEN} and --hub {known}, or stop it"
    return f"{folder}: another rehearsal Hub serves this folder{at}; {use}"


def prepare_folder(folder: Path) -> None:
    """Make `folder` a Hub's, or see that it is one.

    Raises:
        InputError: it holds other things, or a Hub of a version that is not known.
    """
    marker = folder / "hub.json"
    if marker.exists():
        if read_json(marker, "the Hub's marker") != {"schema": SCHEMA}:
            raise InputError(f"{marker}: the folder is not a Hub of this version ({SCHEMA}); choose another")
        return
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        raise InputError(f"{folder}: {'is a file' if folder.exists() else missing(folder)}; choose an empty or new folder")
    if folder.exists() and any(not item.name.startswith(".") for item in folder.iterdir()):
        raise InputError(f"{folder}: holds other files than a Hub's; choose an empty folder")
    write_atomic(marker, canonical_json({"schema": SCHEMA}))


def bind(port: int) -> socket.socket:
    """Listen on a loopback port, 0 for any that is free.

    Raises:
        InputError: no port has that number.
        UnavailableError: the port is taken or reserved.
    """
    if not 0 <= port <= HIGHEST_PORT:
        raise InputError(f"port {port}: a port is a number from 0 to {HIGHEST_PORT}")
    try:
        listening = socket.create_server((LOOPBACK, port))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is in use by another program" if error.errno == errno.EADDRINUSE else "may not be used by you"
        raise UnavailableError(f"{LOOPBACK}:{port}: the port {why}; choose another with --port, or 0 for a free one") from None
    # Accepted connections inherit it.  asyncio sets it only on sockets whose protocol is named, which create_server's is not,
    # and without it every answer waits 40 ms for a delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
