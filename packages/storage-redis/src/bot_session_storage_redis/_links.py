"""
How commands reach the servers: each is sent once.

redis-py's clients repeat a command whose connection broke. That is wrong for a compare-and-set: if the first one
arrived, the second finds its own document and reports a conflict that never was. So commands go over the client's
connections (`Single`) or to a named node (`Cluster`), where redis-py repeats nothing but what the server refused.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import RedisClusterException, RedisError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from redis.asyncio import Redis, RedisCluster

__all__ = ["Cluster", "Link", "NotSentError", "Single"]


class NotSentError(Exception):
    """No connection was to be had, for the reason in ``__cause__``: the command certainly did not arrive."""


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

    async def scan(self, master: Any, *arguments: bytes) -> tuple[int, list[bytes]]:
        """Return the next cursor of SCAN and a page of keys."""
        ...

    async def close(self) -> None:
        """Wait for the commands that are under way, each of which ends in time. The client is closed by who made it."""
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


async def _to_its_end(work: Coroutine[Any, Any, Any]) -> Any:
    """
    Wait for ``work`` even if we are cancelled meanwhile, and only then be cancelled.

    For a cluster client that learns its nodes: other tasks wait for the same, and need not begin anew.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: nobody is left to hear of it
        raise


class _Gate:
    """
    Lets in so many at a time, in order; the others wait, but not for ever.

    redis-py's pools raise when more connections are wanted than they may make, and a bot wants hundreds at a time.
    """

    def __init__(self, limit: int, timeout: float) -> None:
        self._limit = limit
        self._slots = asyncio.Semaphore(limit)
        self._timeout = timeout

    async def __aenter__(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # without waiting
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError as error:
            raise NotSentError from error

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()

    async def close(self) -> None:
        """Wait until those who are in, and those who wait to be let in, are out: their connections can be closed."""
        for _ in range(self._limit):
            await self._slots.acquire()
        self._slots = asyncio.Semaphore(self._limit)  # it may be opened again in another loop


class Single:
    """One server, or the one that Sentinel names."""

    def __init__(self, client: Redis, limit: int, timeout: float) -> None:
        self._pool: Any = client.connection_pool
        self._timeout = timeout
        self._gate = _Gate(min(limit, self._pool.max_connections), timeout)
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

    async def scan(self, master: Any, *arguments: bytes) -> tuple[int, list[bytes]]:  # noqa: ARG002
        [(cursor, page)] = await self._send(_packed((b"SCAN", *arguments)))
        return int(cursor), page

    async def _send(self, request: bytes, count: int = 1) -> list[Any]:
        async with self._gate:
            connection, sent = None, False
            try:
                # When cancelled here or by the timer, redis-py closes the connection: no answer is left to be mistaken.
                # One timer for all costs less than the two tasks or timers of the connection's own timeout.
                async with asyncio.timeout(self._timeout):
                    connection = self._pool.get_available_connection()
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
        self._gate = _Gate(min(limit, client.connection_kwargs.get("max_connections", limit)), timeout)
        self.name = "cluster"

    async def open(self) -> None:
        """Ask the cluster for its nodes if the client does not know them, or has reason to doubt them."""
        try:
            await _to_its_end(self._client.initialize())
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
            return self._client.get_primaries()

    async def scan(self, master: Any, *arguments: bytes) -> tuple[int, list[bytes]]:
        async with self._gate:
            cursors, page = await self._execute(master, b"SCAN", *arguments)
        return next(iter(cursors.values())), page

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
