"""A TCP server on this machine that leaves no socket open."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType
    from typing import Self

__all__ = ["InThread", "Listener"]

_TURNS: Final = 4
"""How many turns of the loop lie between accepting a connection and the first step of whoever serves it."""


class Listener:
    """
    Serves TCP connections on a port of 127.0.0.1, each in a task of its own, until it is closed.

    asyncio's own server, when closed, forgets a connection that it has just accepted: the socket stays open until the
    garbage collector finds it, in whatever test runs then. So this one first accepts no more, then lets those that were
    accepted arrive, and closes its server last.

    Args:
        serve: Called for every connection; when it returns, the connection is closed. That it breaks is no error.
        ssl: If given, connections are encrypted.
        limit: How many bytes the reader looks ahead.

    Attributes:
        port: The port to connect to, once started.
    """

    def __init__(
        self,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        *,
        ssl: ssl.SSLContext | None = None,
        limit: int = 2**16,
    ) -> None:
        self._serve = serve
        self._ssl = ssl
        self._limit = limit
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.port = 0

    async def start(self) -> None:
        """Take a free port and listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._ssl, limit=self._limit)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Break all connections that there are, in the middle of whatever they carry."""
        ending = list(self._connections)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.sleep(0)  # In this turn transports close their sockets.

    async def close(self) -> None:
        """Listen no longer, and break all connections."""
        if self._server is None:
            return
        with contextlib.suppress(NotImplementedError):  # on Windows
            for listening in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        self._server.close()
        await self.cut()
        await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._run(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._ended)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._serve(reader, writer)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Close a connection, whether the task has begun or not."""
        writer = self._connections.pop(task)
        if task.cancelled():
            writer.transport.abort()
        else:
            writer.close()


class InThread:
    """
    Runs a listener in a thread with a loop of its own, for tests that each have another loop.

    Args:
        listener: What to run; use it only by this object from then on.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=type(listener).__name__, daemon=True)

    def cut(self) -> None:
        """Break all connections that there are."""
        self._run(self.listener.cut())

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self.listener.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self.listener.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
