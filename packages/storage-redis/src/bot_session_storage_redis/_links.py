"""
How commands reach the servers: each is sent once.

redis-py's clients repeat a command whose connection broke. That is wrong for a compare-and-set: if the first one
arrived, the second finds its own document and reports a conflict that never was. So commands go over the client's
connections (`Single`) or to a named node (`Cluster`), where redis-py repeats nothing but what the server refused.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisClusterException, RedisError

from ._gate import Gate, NotSentError, to_its_end
from ._listing import LostCursorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis.asyncio import Redis, RedisCluster

    from ._clients import Closing
    from ._listing import Cursor

__all__ = ["Cluster", "Link", "Single", "shut"]

_PROCESS: Final = (b"INFO", b"server")
"""Asks for the process that answers (redis.io/docs/latest/commands/info)."""

_RUN_ID: Final = re.compile(rb"^run_id:(\w+)", re.MULTILINE)

_LOOK_AGAIN: Final = 0.001
"""Seconds until a pool that has no connection left is asked again."""


class Link(Protocol):
    """The way to a server, or to several."""

    name: str

    async def open(self) -> None:
        """Fail early if nobody answers."""
        ...

    async def send(self, key: bytes, *command: bytes) -> Any:
        """Send a command about ``key`` and return the answer, in bytes whatever the client decodes."""
        ...

    async def masters(self) -> Sequence[Any]:
        """Return the servers that have keys, for `scan`."""
        ...

    async def scan(self, master: Any, cursor: Cursor, *arguments: bytes) -> tuple[Cursor, list[bytes]]:
        """Return the next cursor of SCAN and a page of keys; raise `LostCursorError` rather than pass over some."""
        ...

    async def close(self) -> None:
        """Wait for what is under way, all of which ends in time. The client is closed by who made it."""
        ...

    def together(self, keys: Iterable[bytes]) -> list[list[int]]:
        """Split keys into groups that one script may touch, as their positions in order."""
        ...


def _packed(command: Sequence[bytes]) -> bytes:
    """Write a command as it travels (redis.io/docs/latest/develop/reference/protocol-spec): redis-py takes eight times as long."""
    lengths_and_arguments: list[Any] = [None] * (2 * len(command))
    lengths_and_arguments[::2] = map(len, command)
    lengths_and_arguments[1::2] = command
    return (b"*%d\r\n" + b"$%d\r\n%b\r\n" * len(command)) % (len(command), *lengths_and_arguments)


class Single:
    """One server, or the one that Sentinel names."""

    def __init__(self, client: Redis, limit: int, timeout: float) -> None:
        self._pool: Any = client.connection_pool
        self._blocking = isinstance(client.connection_pool, BlockingConnectionPool)
        self._timeout = timeout
        self._gate = Gate(min(limit, self._pool.max_connections), timeout)
        self.name = _address(self._pool.connection_kwargs)

    async def open(self) -> None:
        await self._send(_packed([b"PING"]))

    async def send(self, key: bytes, *command: bytes) -> Any:  # noqa: ARG002
        [answer] = await self._send(_packed(command))
        return answer

    async def send_together(self, *commands: Sequence[bytes]) -> list[Any]:
        """Send commands in one packet and return their answers; if one of them is an error, raise it, the first."""
        return await self._send(b"".join(map(_packed, commands)), len(commands))

    async def masters(self) -> Sequence[Any]:
        return (None,)

    async def scan(self, master: Any, cursor: Cursor, *arguments: bytes) -> tuple[Cursor, list[bytes]]:  # noqa: ARG002
        scan = (b"SCAN", b"%d" % cursor.position, *arguments)
        (position, page), info = await self.send_together(scan, _PROCESS)  # one connection: one process answers both
        told = _RUN_ID.search(info)
        return cursor.moved(int(position), told[1].decode() if told else ""), page

    async def _send(self, request: bytes, count: int = 1) -> list[Any]:
        async with self._gate:
            connection, sent = None, False
            try:
                # When cancelled here or by the timer, redis-py closes the connection: no answer is left to be mistaken.
                # One timer for all costs less than the two tasks or timers of the connection's own timeout.
                async with asyncio.timeout(self._timeout):
                    if self._pool.can_get_connection():
                        connection = self._pool.get_available_connection()
                    else:
                        connection = await self._given_back()
                    await self._pool.ensure_connection(connection)
                    sent = True
                    await connection.send_packed_command(request)
                    return await _answers(connection, count)
            except (RedisError, OSError) as error:
                if sent:
                    raise
                raise NotSentError from error
            finally:
                if connection is not None:
                    await self._pool.release(connection)

    async def _given_back(self) -> Any:
        """Wait for a connection from those who use the pool besides us."""
        if self._blocking:
            return await self._pool.get_connection()
        while not self._pool.can_get_connection():  # noqa: ASYNC110 - such a pool tells nobody
            await asyncio.sleep(_LOOK_AGAIN)
        return self._pool.get_available_connection()

    async def close(self) -> None:
        await self._gate.close()

    def together(self, keys: Iterable[bytes]) -> list[list[int]]:
        return [[position for position, _ in enumerate(keys)]]


class Cluster:
    """A Redis Cluster: redis-py knows which node has which key, and follows the keys when they move."""

    def __init__(self, client: RedisCluster, limit: int, timeout: float) -> None:
        # Else redis-py closes all connections at every fifth MOVED, under those who use them.
        client.reinitialize_steps = 0
        self._client = client
        self._gate = Gate(min(limit, client.connection_kwargs.get("max_connections", limit)), timeout)
        self.name = "cluster"

    async def open(self) -> None:
        """Ask the cluster for its nodes if the client does not know them, or has reason to doubt them."""
        try:
            await to_its_end(self._client.initialize())
        except (RedisError, RedisClusterException, OSError) as error:
            raise NotSentError from error

    async def send(self, key: bytes, *command: bytes) -> Any:
        async with self._gate:
            await self.open()
            node = self._client.nodes_manager.get_node_from_slot(self._client.keyslot(key))
            return await self._execute(node, *command)

    async def masters(self) -> Sequence[Any]:
        async with self._gate:
            await self.open()
            return [node.name for node in self._client.get_primaries()]

    async def scan(self, master: Any, cursor: Cursor, *arguments: bytes) -> tuple[Cursor, list[bytes]]:
        async with self._gate:
            await self.open()
            node = self._client.get_node(node_name=master)  # another object each time that redis-py learns its nodes
            if node is None:
                raise LostCursorError("a node has left the cluster: the listing has to begin anew")
            # No process comes back: one that was there before the first page and after the last gave all in between.
            cursor = cursor if cursor.process else cursor.moved(0, await self._process(node))
            positions, page = await self._execute(node, b"SCAN", b"%d" % cursor.position, *arguments)
            position = next(iter(positions.values()))
            return cursor.moved(position, cursor.process if position else await self._process(node)), page

    async def _process(self, node: Any) -> str:
        return str((await self._execute(node, *_PROCESS)).get("run_id", ""))

    async def _execute(self, node: Any, name: bytes, *arguments: bytes) -> Any:
        try:
            # A command to a named node is not repeated.
            return await self._client.execute_command(name.decode(), *arguments, target_nodes=node, NEVER_DECODE=True)
        except AttributeError as error:
            # When its cluster is down, redis-py closes all connections, under those who use them.
            raise ConnectionError("the connection was closed meanwhile") from error

    async def close(self) -> None:
        await self._gate.close()

    def together(self, keys: Iterable[bytes]) -> list[list[int]]:
        slots: dict[int, list[int]] = {}
        for position, key in enumerate(keys):
            slots.setdefault(self._client.keyslot(key), []).append(position)
        return list(slots.values())


async def shut(link: Link, close_client: Closing | None) -> None:
    """Close a link when nothing is under way any more, and then its client if that is ours; also if cancelled."""

    async def close() -> None:  # a task, which comes after those that a batch in several calls has just made
        try:
            await link.close()
        finally:
            if close_client is not None:
                await close_client()

    await to_its_end(close())


async def _answers(connection: Any, count: int) -> list[Any]:
    """Read so many answers. None is left behind, to be mistaken for that of the next command."""
    answers, refusal = [], None
    for _ in range(count):
        try:
            answers.append(await connection.read_response(disable_decoding=True))
        except RedisError as error:  # a refusal, or the connection is broken: then so is every next answer
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return answers


def _address(options: dict[str, Any]) -> str:
    """Say where a connection goes, without user and password."""
    place = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return f"{place}/{options.get('db') or 0}"
