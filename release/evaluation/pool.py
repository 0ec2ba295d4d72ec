"""The servers of a run: each question goes to whichever is free, and the replies do not depend on which that was."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import Any, Protocol, Self, TypeVar

import httpx

from pruner.errors import CheckFailedError
from release.evaluation.settings import build_commit, template_digest

Item = TypeVar("Item")
Result = TypeVar("Result")


class Server(Protocol):
    """What a run needs of a server; `LlamaServer` and `RemoteServer` are such."""

    @property
    def url(self) -> str:
        """Its base URL."""

    @property
    def alias(self) -> str:
        """The model name that its replies repeat."""

    @property
    def number(self) -> int:
        """Tells it from the run's others."""

    @property
    def elsewhere(self) -> bool:
        """Whether somebody else runs it."""

    @property
    def restarts(self) -> int:
        """How often it was gone and came back."""

    @property
    def props(self) -> dict[str, Any]:
        """What it answered to /props."""

    @property
    def client(self) -> httpx.Client:
        """For requests to it."""

    def launch(self) -> None:
        """Start it without waiting."""

    def await_ready(self) -> None:
        """Wait until it answers, and compare it with the protocol."""

    def revive(self, grace: float = 0) -> bool:
        """Bring it back if it is gone; True when it was."""

    def abort(self) -> None:
        """Break its requests in flight."""

    def stop(self) -> None:
        """Leave it."""


class StoppedError(Exception):
    """The run ends for another reason; what a server said or did not say from then on counts for nothing."""


class ServerPool:
    """Servers of one run, as a context manager: all of them run on entry, none of ours on exit, also by SIGTERM.

    Args:
        servers: each answers one question at a time.
        executor: of threads; by default one thread for each server.

    Raises:
        CheckFailedError: two of the servers would not give the same replies: another llama.cpp or chat template.
        UnavailableError: one of them cannot be started or reached.
    """

    def __init__(self, servers: Sequence[Server], executor: Executor | None = None) -> None:
        self.servers = tuple(servers)
        self._executor = executor
        self._stopping = threading.Event()
        self._exits = ExitStack()

    @property
    def props(self) -> dict[str, Any]:
        """/props of the first server; what matters in them is the same for all."""
        return self.servers[0].props

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            exits.enter_context(_left_by_sigterm())
            if self._executor is None:
                self._executor = exits.enter_context(ThreadPoolExecutor(len(self.servers), "server"))
            exits.callback(self._stop)
            for server in self.servers:
                server.launch()
            for server in self.servers:
                server.await_ready()
            _require_alike(self.servers)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._exits.close()

    def map(self, function: Callable[[Server, Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply `function` to each item with a server that is free, and give the results in the items' order.

        The first error ends all other work at once, whatever its servers are doing, and is raised.
        """
        assert self._executor is not None  # noqa: S101  # __enter__ made one
        free: queue.SimpleQueue[Server] = queue.SimpleQueue()
        for server in self.servers:
            free.put(server)

        def work(item: Item) -> Result:
            server = free.get()
            try:
                self.go_on()
                return function(server, item)
            except BaseException:
                self._stopping.set()
                raise
            finally:
                free.put(server)

        futures = [self._executor.submit(work, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            _raise_first(futures)
            return [future.result() for future in futures]
        except BaseException:
            self._abort(futures)
            raise

    def go_on(self) -> None:
        """Raise StoppedError when the run is ending."""
        if self._stopping.is_set():
            raise StoppedError

    def _abort(self, futures: Sequence[Future[Any]]) -> None:
        """End the threads' work: nothing may use a server or the ledger after `map`."""
        self._stopping.set()
        for future in futures:
            future.cancel()
        while wait(futures, timeout=0.1).not_done:
            for server in self.servers:
                server.abort()  # again: one of them may just have opened another connection

    def _stop(self) -> None:
        for server in self.servers:
            server.stop()


def _raise_first(futures: Sequence[Future[Any]]) -> None:
    """Raise the error that made the others stop."""
    errors = [error for future in futures if future.done() and not future.cancelled() and (error := future.exception())]
    if errors:
        raise next((error for error in errors if not isinstance(error, StoppedError)), errors[0])


def _require_alike(servers: Sequence[Server]) -> None:
    """One toolchain and one template, or a reply would depend on the server that gave it."""
    first = servers[0]
    for server in servers[1:]:
        if build_commit(server.props) != build_commit(first.props):
            raise CheckFailedError(
                f"{first.url} and {server.url} are of different llama.cpp builds, {first.props.get('build_info')!r} and "
                f"{server.props.get('build_info')!r}; a reply would depend on the server that gave it"
            )
        same = (template_digest(server.props), server.props.get("bos_token"))
        if same != (template_digest(first.props), first.props.get("bos_token")):
            raise CheckFailedError(f"{first.url} and {server.url} have different chat templates; load the same quant in both")


@contextmanager
def _left_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, unless the program handles it already."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
