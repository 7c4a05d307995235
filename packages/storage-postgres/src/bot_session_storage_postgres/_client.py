"""The connection: a pool of our own, or what was injected."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

import asyncpg  # type: ignore[import-untyped]
from bot_session.errors import ConfigurationError

from ._errors import DRIVER_ERRORS, mapped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["Client"]

T = TypeVar("T")

_ATTEMPTS = 5
"""How often to run what the server rolled back in favour of somebody else."""


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
        self._pool_size = pool_size
        self._statement_cache = statement_cache
        self._storage = storage
        self._pool: Any = None

    async def open(self) -> None:
        """Make the pool, unless something was injected."""
        if isinstance(self._database, str):
            try:
                self._pool = await self._new_pool(self._database)
            except DRIVER_ERRORS as error:
                raise mapped(error, "open", None, self._storage) from error
            except ValueError:
                # Its text, and that of its cause, may hold a piece of the password.
                problem = "this is no URL for PostgreSQL: postgresql://user:password@host/database"
                raise ConfigurationError(problem) from None
        elif isinstance(self._database, asyncpg.Pool):
            self._pool = self._database
        else:
            self._pool = _OneConnection.of(self._database)

    async def close(self) -> None:
        """Close the pool, if it is ours."""
        if isinstance(self._database, str):
            # When the time is up, asyncpg cuts the connections off.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await self._pool.close()

    async def fetch(self, operation: str, key: str | None, statement: str, *arguments: Any) -> Any:
        """Return the rows of a statement."""
        return await self.run(operation, key, lambda connection: connection.fetch(statement, *arguments))

    async def run(self, operation: str, key: str | None, call: Callable[[Any], Awaitable[T]]) -> T:
        """Call with a connection, and again if the server rolled it back so that others could go on."""
        async with self._connection(operation, key) as connection:
            for _ in range(_ATTEMPTS - 1):
                try:
                    return await call(connection)
                except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                    if connection.is_in_transaction():  # the caller's own, and lost
                        raise
            return await call(connection)

    @asynccontextmanager
    async def _connection(self, operation: str, key: str | None) -> AsyncIterator[Any]:
        pool, sent = self._pool, False
        try:
            async with asyncio.timeout(self._timeout):
                connection = await pool.acquire()
                sent = True
                try:
                    yield connection
                finally:
                    # A query that was given up is cancelled on the server first, and that too ends in time.
                    await pool.release(connection, timeout=self._timeout)
        except DRIVER_ERRORS as error:
            raise mapped(error, operation, key, self._storage, sent=sent) from error

    async def _new_pool(self, url: str) -> Any:
        options: dict[str, Any] = {"timeout": self._timeout, "command_timeout": self._timeout}
        cache = self._statement_cache
        if cache is None:
            cache = not await self._is_pooled(url, options)
        if not cache:
            options["statement_cache_size"] = 0
        return await asyncpg.create_pool(url, min_size=0, max_size=self._pool_size, reset=_nothing, **options)

    async def _is_pooled(self, url: str, options: dict[str, Any]) -> bool:
        """Find out whether a pooler is in between: it makes up the process whose number it tells its clients."""
        async with asyncio.timeout(self._timeout):
            connection = await asyncpg.connect(url, statement_cache_size=0, **options)
            try:
                return bool(connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()"))
            finally:
                await connection.close(timeout=self._timeout)


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


async def _nothing(_: Any) -> None:
    """Reset nothing between two uses of a connection: we leave nothing, and it would cost a round trip each time."""
