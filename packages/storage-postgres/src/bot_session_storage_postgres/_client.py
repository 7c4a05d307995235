"""The connection: a pool of our own, or what was injected."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

import asyncpg  # type: ignore[import-untyped]
from bot_session.errors import ConfigurationError, UnsupportedError

from ._errors import DRIVER_ERRORS, mapped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["Client"]

T = TypeVar("T")

_ATTEMPTS = 5
"""How often to run what the server rolled back in favour of somebody else, or of a change to the table."""

_GRACE = 0.2
"""Which part of its time an operation keeps for calling off on the server what was not done in the rest."""

_AN_INSTANT = 0.001
"""Seconds for what should not take any more."""

_ROLLED_BACK = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,  # outside a transaction asyncpg prepares it again by itself
)

_TRANSACTION = ("BEGIN", "COMMIT", "ROLLBACK")
_PART_OF_ONE = ("SAVEPOINT bot_session", "RELEASE bot_session", "ROLLBACK TO bot_session")
"""The same inside a transaction of the caller's."""


class Client:
    """
    Lends connections, in time; what asyncpg raises becomes an error of ours.

    Args:
        database: As `PostgresStorage` takes it, and so are the others.
        timeout: Seconds.
        pool_size: Connections.
        statement_cache: None finds out.
        storage: Whose it is, for the errors.
    """

    def __init__(
        self,
        database: str | asyncpg.Pool | asyncpg.Connection,
        *,
        timeout: float,
        pool_size: int,
        statement_cache: bool | None,
        storage: str,
    ) -> None:
        self._database = database
        self._timeout = timeout
        self._grace = timeout * _GRACE
        self._pool_size = pool_size
        self._statement_cache = statement_cache
        self._storage = storage
        self._pool: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Make the pool, unless something was injected."""
        self._loop = asyncio.get_running_loop()
        if isinstance(self._database, str):
            try:
                self._pool = await self._new_pool(self._database)
            except DRIVER_ERRORS as error:
                raise mapped(error, "open", None, self._storage) from error
        elif isinstance(self._database, asyncpg.Pool):
            self._pool = self._database
        else:
            self._pool = _OneConnection.of(self._database)

    async def close(self) -> None:
        """Close the pool, if it is ours, in the event loop that it belongs to; if that has ended, so has the pool."""
        if not isinstance(self._database, str) or self._loop is None:
            return
        # When the time is up, asyncpg cuts the connections off.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                if self._loop is asyncio.get_running_loop():
                    await self._pool.close()
                elif self._loop.is_running():  # in another thread
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._pool.close(), self._loop))

    async def fetch(self, operation: str, key: str | None, statement: str, *arguments: Any) -> Any:
        """Return the rows of a statement."""
        return await self.run(operation, key, lambda connection: connection.fetch(statement, *arguments))

    async def run(
        self, operation: str, key: str | None, call: Callable[[Any], Awaitable[T]], *, atomic: bool = False
    ) -> T:
        """
        Call with a connection, and again if the server rolled it back so that others could go on.

        Args:
            operation: The storage's method, for the errors.
            key: Its key, for the errors.
            call: What to call.
            atomic: Whether to call in a transaction.
        """
        if atomic:
            call = partial(self._atomically, call)
        async with self._connection(operation, key) as connection:
            for _ in range(_ATTEMPTS - 1):
                try:
                    return await call(connection)
                except _ROLLED_BACK:
                    if connection.is_in_transaction():  # the caller's own, and lost
                        raise
            return await call(connection)

    @asynccontextmanager
    async def _connection(self, operation: str, key: str | None) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            problem = "another event loop opened this storage: make one for each, or close it before it is used here"
            raise UnsupportedError(problem, operation=operation, key=key, storage=self._storage)
        pool, connection = self._pool, None
        deadline = loop.time() + self._timeout
        try:
            try:
                async with asyncio.timeout_at(deadline - self._grace):
                    connection = await pool.acquire()
                    yield connection
            finally:
                if connection is not None:
                    # A query that was given up is cancelled on the server first, and that too ends in time.
                    await pool.release(connection, timeout=max(deadline - loop.time(), _AN_INSTANT))
        except DRIVER_ERRORS as error:
            raise mapped(error, operation, key, self._storage, sent=connection is not None) from error

    async def _atomically(self, call: Callable[[Any], Awaitable[T]], connection: Any) -> T:
        """Call in a transaction. asyncpg's own would leave the connection in one that is cancelled as it begins."""
        inside = connection.is_in_transaction()
        begin, commit, rollback = _PART_OF_ONE if inside else _TRANSACTION
        try:
            await connection.execute(begin)
            result = await call(connection)
        except BaseException:
            await self._roll_back(connection, rollback, inside=inside)
            raise
        await connection.execute(commit)
        return result

    async def _roll_back(self, connection: Any, statement: str, *, inside: bool) -> None:
        """Roll back, or else cut the connection off: no later operation must be part of what was given up."""
        try:
            async with asyncio.timeout(self._grace):
                try:
                    await connection.execute(statement)
                except asyncpg.QueryCanceledError:  # meant for what was given up, and too late for that
                    await connection.execute(statement)
        except BaseException as error:
            # A transaction of the caller's that has failed as a whole is theirs to end.
            if not (inside and isinstance(error, asyncpg.PostgresError)):
                with suppress(asyncpg.InterfaceError):  # It may be gone, and what was given up with it.
                    connection.terminate()
            if not isinstance(error, Exception):
                raise  # cancelled; otherwise the error to raise is what it was given up for

    async def _new_pool(self, url: str) -> Any:
        options: dict[str, Any] = {"timeout": self._timeout, "command_timeout": self._timeout}
        cache = self._statement_cache
        if cache is None:
            cache = not await self._is_pooled(url, options)
        if not cache:
            options["statement_cache_size"] = 0
        return await asyncpg.create_pool(
            url, min_size=0, max_size=self._pool_size, connect=_connect, reset=_nothing, **options
        )

    async def _is_pooled(self, url: str, options: dict[str, Any]) -> bool:
        """Find out whether a pooler is in between: it makes up the process whose number it tells its clients."""
        async with asyncio.timeout(self._timeout):
            connection = await _connect(url, statement_cache_size=0, **options)
            try:
                pooled = bool(connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()"))
                await connection.close()
            finally:
                connection.terminate()  # if it is not closed by then: no good-bye on a line that is stalled
            return pooled


class _OneConnection:
    """One connection in the place of a pool: tasks take turns, since asyncpg serves one at a time."""

    _all: ClassVar[WeakValueDictionary[int, _OneConnection]] = WeakValueDictionary()

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    @classmethod
    def of(cls, connection: Any) -> _OneConnection:
        """Return the one for this connection, so that several storages take turns too."""
        return cls._all.setdefault(id(connection), cls(connection))

    async def acquire(self) -> Any:
        await self._turn.acquire()
        return self._connection

    async def release(self, _: Any, *, timeout: float) -> None:  # noqa: ARG002, ASYNC109 - as a pool has it
        self._turn.release()


async def _connect(url: str, **options: Any) -> Any:
    """Connect. Only now asyncpg reads the URL."""
    try:
        return await asyncpg.connect(url, **options)
    except ValueError as error:
        if isinstance(error, asyncpg.exceptions.ClientConfigurationError) and "'" not in str(error):
            raise
        # What quotes from the URL may quote a piece of the password, and so may its cause.
        problem = "this is no URL for PostgreSQL: postgresql://user:password@host/database"
        raise ConfigurationError(problem) from None


async def _nothing(_: Any) -> None:
    """Reset nothing between two uses of a connection: we leave nothing, and it would cost a round trip each time."""
