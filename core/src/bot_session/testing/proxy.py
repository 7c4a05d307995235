"""A TCP proxy that cuts and delays: faults on the way to a real server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from .listener import Listener

if TYPE_CHECKING:
    import ssl

__all__ = ["Proxy"]


class Proxy(Listener):
    """
    Passes bytes between clients and a server on this machine, until it is told otherwise.

    Args:
        host: The server's address.
        port: The server's port.
        ssl: If given, clients speak TLS to the proxy; the server is spoken to without.

    Attributes:
        port: The port to connect to, once entered.
        delay: Seconds that every chunk is held up.
        refusing: Whether new connections are closed at once.
    """

    def __init__(self, host: str, port: int, *, ssl: ssl.SSLContext | None = None) -> None:
        super().__init__(self._pass_on, ssl=ssl)
        self._target = (host, port)
        self.delay = 0.0
        self.refusing = False

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, server_writer))
                group.create_task(self._pump(server_reader, writer))
        finally:
            server_writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                target.write(data)
                await target.drain()
            target.close()
