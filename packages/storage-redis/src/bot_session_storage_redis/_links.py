"""
How commands reach the servers: each is sent once.

redis-py's clients repeat a command whose connection broke. That is wrong for a compare-and-set: if the first one
arrived, the second finds its own document and reports a conflict that never was. So commands go over the client's
connections (`Single`) or to a named node (`Cluster`), where redis-py repeats nothing but what the server refused.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis.asyncio import Redis, RedisCluster

__all__ = ["Cluster", "Link", "NotSentError", "Single"]


class NotSentError(Exception):
    """No connection was to be had, for the reason in ``__cause__``: the command certainly did not arrive."""


class Link(Protocol):
    """The way to a server, or to several."""

    name: str

    async def send(self, key: bytes, *command: Any) -> Any:
        """Send a command about ``key`` and return the answer, in bytes whatever the client decodes."""
        ...

    async def masters(self) -> Sequence[Any]:
        """Return all servers that hold keys, for `send_to`."""
        ...

    async def send_to(self, master: Any, *command: Any) -> Any:
        """Send a command to one server."""
        ...

    def together(self, keys: Iterable[bytes]) -> list[list[int]]:
        """Split keys into groups that one script may touch, as their positions in order."""
        ...


class _Gate:
    """
    Lets in so many at a time, in order; the others wait, but not for ever.

    redis-py's pools raise when more connections are wanted than they may make, and a bot wants hundreds at a time.
    """

    def __init__(self, limit: int, timeout: float) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._timeout = timeout

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(self._timeout if self._slots.locked() else None):
                await self._slots.acquire()
        except TimeoutError as error:
            raise NotSentError from error

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()


class Single:
    """One server, or the one that Sentinel names."""

    def __init__(self, client: Redis, limit: int, timeout: float) -> None:
        self._pool: Any = client.connection_pool
        self._gate = _Gate(min(limit, self._pool.max_connections), timeout)
        self.name = _address(self._pool.connection_kwargs)

    async def send(self, key: bytes, *command: Any) -> Any:  # noqa: ARG002
        return await self.send_to(None, *command)

    async def masters(self) -> Sequence[Any]:
        return (None,)

    async def send_to(self, master: Any, *command: Any) -> Any:  # noqa: ARG002
        async with self._gate:
            try:
                connection = await self._pool.get_connection()
            except (RedisError, OSError) as error:
                raise NotSentError from error
            try:
                await connection.send_command(*command)
                return await connection.read_response(disable_decoding=True)
            finally:
                await self._pool.release(connection)

    def together(self, keys: Iterable[bytes]) -> list[list[int]]:
        return [[position for position, _ in enumerate(keys)]]


class Cluster:
    """A Redis Cluster: redis-py knows which node has which key, and follows the keys when they move."""

    def __init__(self, client: RedisCluster, limit: int, timeout: float) -> None:
        self._client = client
        self._gate = _Gate(min(limit, client.connection_kwargs.get("max_connections", limit)), timeout)
        self.name = "cluster"

    async def send(self, key: bytes, *command: Any) -> Any:
        async with self._gate:
            await self._know_nodes()
            return await self._send_to(
                self._client.nodes_manager.get_node_from_slot(self._client.keyslot(key)), *command
            )

    async def masters(self) -> Sequence[Any]:
        await self._know_nodes()
        return self._client.get_primaries()

    async def send_to(self, master: Any, *command: Any) -> Any:
        async with self._gate:
            return await self._send_to(master, *command)

    async def _send_to(self, node: Any, *command: Any) -> Any:
        return await self._client.execute_command(*command, target_nodes=node, NEVER_DECODE=True)

    async def _know_nodes(self) -> None:
        try:
            await self._client.initialize()
        except Exception as error:  # redis-py has cluster errors that are no RedisError
            raise NotSentError from error

    def together(self, keys: Iterable[bytes]) -> list[list[int]]:
        slots: dict[int, list[int]] = {}
        for position, key in enumerate(keys):
            slots.setdefault(self._client.keyslot(key), []).append(position)
        return list(slots.values())


def _address(options: dict[str, Any]) -> str:
    """Say where a connection goes, without user and password."""
    place = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return f"{place}/{options.get('db') or 0}"
