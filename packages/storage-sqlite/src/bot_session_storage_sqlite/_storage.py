"""Sessions in a table of an SQLite database."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sqlite3
import time
from collections.abc import Callable  # noqa: TC003 - read with the options of URLs
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

import aiosqlite
from bot_session.errors import ClosedError, ConfigurationError, SchemaError, StorageError, UnavailableError
from bot_session.redaction import redact_url
from bot_session.storage import ABSENT, ANY, Capabilities, Match, Record, Storage, Version, Write

from ._connection import MEMORY, POLL, connect, in_transaction, isolated, on_thread, started
from ._failures import OccupiedError, code, mapped
from ._table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from bot_session.storage import WriteResult, WrittenAndRead

    from ._connection import T, Work

__all__ = ["SQLiteStorage"]


class SQLiteStorage(Storage):
    """
    Keeps documents in a table of an SQLite database, for any number of processes on one machine.

    A write that returned is on the disk. Time is the clock of the machine. Expired documents are absent at once; their
    rows go with `purge`.

    Args:
        database: Path of the database file, ``":memory:"``, or an open `aiosqlite.Connection`. A connection of yours
            keeps its settings and stays open. While it is in a transaction of yours, writes wait for its end.
        table: Name of the table. An existing one is left as it is: grammY's and GramIO's fit.
        key_column: Name of the column for keys; it needs a unique index.
        value_column: Name of the column for documents.
        expires_column: Name of the column for deadlines, in seconds since 1970; None (or empty) if there is none.
        create: Whether to create file, table and index if they are missing.
        timeout: Seconds to wait for other writers, or for the calls before this one.
        clock: Returns seconds since 1970; replace it to move time in tests.
    """

    capabilities = Capabilities(
        shared=True, durable=True, native_expiry=False, ttl_resolution=0.001, atomic_batches=True
    )
    max_batch, max_under_way = 512, 1  # There is one thread, and whatever is in a batch shares its commit.

    def __init__(
        self,
        database: str | os.PathLike[str] | aiosqlite.Connection,
        *,
        table: str = "sessions",
        key_column: str = "key",
        value_column: str = "value",
        expires_column: str | None = "expires_at",
        create: bool = True,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 < timeout < float("inf"):
            raise ConfigurationError(f"timeout must be seconds, and not endless; not {timeout!r}")
        self._given = database if isinstance(database, aiosqlite.Connection) else None
        self._path = "" if isinstance(database, aiosqlite.Connection) else os.fspath(database)
        if self._given is None and (not self._path or "\0" in self._path):
            raise ConfigurationError(f"a database needs a path, or {MEMORY}; not {self._path!r}")
        self._table = Table(table, key_column, value_column, expires_column or None)
        self._create = create
        self._timeout = timeout
        self._clock = clock
        self._connection: aiosqlite.Connection | None = None
        self._raw: sqlite3.Connection | None = None
        self._restrict(in_memory=self._path == MEMORY)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Make one from ``sqlite:bot.db``, ``sqlite:///srv/bot/bot.db`` or ``sqlite::memory:``."""
        parts = urlsplit(url)
        if parts.netloc:
            path = redact_url(f"{parts.netloc}{parts.path}")
            raise ConfigurationError(
                f"SQLite has no host: write sqlite:{path} for a path from the current folder,"
                f" or sqlite:///{path} for one from the root"
            )
        if parts.query or parts.fragment:
            raise ConfigurationError("SQLite takes no more options; write ? and # in a path as %3F and %23")
        return cls(parts.path if parts.path == MEMORY else url2pathname(parts.path), **options)

    # ------------------------------------------------------------------ one document

    async def read(self, key: str) -> Record | None:
        if self._state != "open":
            await self._ready("read", key)
        self._validate("read", key)
        return await self._run(partial(self._table.read, key=key), "read", key)

    async def has(self, key: str) -> bool:
        if self._state != "open":
            await self._ready("has", key)
        self._validate("has", key)
        return await self._run(partial(self._table.has, key=key), "has", key)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if self._state != "open":
            await self._ready("write", key)
        self._validate("write", key, value, ttl)
        await self._write_one("write", Write(key, value, ttl, match))
        return Version(value)

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        if self._state != "open":
            await self._ready("delete", key)
        self._validate("delete", key)
        return await self._write_one("delete", Write(key, None, None, match)) is True

    async def touch(self, key: str, ttl: float | None) -> bool:
        if self._state != "open":
            await self._ready("touch", key)
        self._validate("touch", key, ttl=ttl)
        return await self._transact(partial(self._table.touch, key=key, ttl=ttl), "touch", key)

    # ------------------------------------------------------------------ many documents

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if self._state != "open":
            await self._ready("read_many")
        self._validate_keys("read_many", keys)
        return await self._run(partial(self._table.read_many, keys=list(keys)), "read_many")

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        return (await self._write_all("write_many", writes, ()))[0]

    async def write_then_read(self, rounds: Sequence[Sequence[Write]], keys: Sequence[str] = ()) -> WrittenAndRead:
        return await self._write_all("write_then_read", [write for writes in rounds for write in writes], keys)

    async def delete_many(self, keys: Iterable[str]) -> int:
        if self._state != "open":
            await self._ready("delete_many")
        keys = list(keys)
        self._validate_keys("delete_many", keys)
        return await self._transact(partial(self._table.delete_many, keys=keys), "delete_many")

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        async for key, _ in self._read_all("read_all_keys", prefix, batch_size, values=False):
            yield key

    async def read_all_entries(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[tuple[str, Record]]:
        async for entry in self._read_all("read_all_entries", prefix, batch_size, values=True):
            yield entry

    async def purge(self) -> int:
        if self._state != "open":
            await self._ready("purge")
        purged = 0
        while portion := await self._transact(self._table.purge, "purge"):
            purged += portion
        return purged

    def ddl(self) -> str:
        return "".join(f"{statement};\n" for statement in self._table.ddl())

    async def _read_all(
        self, operation: str, prefix: str, batch_size: int, *, values: bool
    ) -> AsyncIterator[tuple[str, Record]]:
        after: str | None = None
        while True:
            if self._state != "open":
                await self._ready(operation)
            self._validate_listing(operation, prefix, batch_size)
            page = await self._run(
                partial(self._table.read_page, prefix=prefix, after=after, size=batch_size, values=values), operation
            )
            for after, record in page:
                if not after.startswith(prefix):
                    return
                yield after, record
            if len(page) < batch_size:
                return

    async def _write_one(self, operation: str, write: Write) -> Version | bool:
        result = await self._transact(partial(self._apply, operation, write), operation, write.key)
        if isinstance(result, StorageError):
            raise result
        return result

    async def _write_all(self, operation: str, writes: Sequence[Write], keys: Sequence[str]) -> WrittenAndRead:
        if self._state != "open":
            await self._ready(operation)
        self._validate_writes(operation, writes)
        self._validate_keys(operation, keys)

        def apply_all(cursor: sqlite3.Cursor, now: float) -> WrittenAndRead:
            results = [self._apply(operation, write, cursor, now) for write in writes]
            return results, self._table.read_many(cursor, now, list(keys)) if keys else {}

        return await self._transact(apply_all, operation)

    def _apply(self, operation: str, write: Write, cursor: sqlite3.Cursor, now: float) -> WriteResult:
        if self._table.apply(cursor, now, write):
            return True if write.value is None else Version(write.value)
        if write.value is None and write.match is ANY:
            return False
        stored = self._table.read(cursor, now, write.key)
        if write.value is None and write.match is ABSENT and stored is None:
            return False
        return self._conflict(operation, write.key, write.match, None if stored is None else stored.version)

    # ------------------------------------------------------------------ life

    async def _open(self) -> None:
        try:
            with mapped(self, "open"):
                await self._connect()
            if not await self._run(self._inspect, "open"):
                await self._transact(self._create_table, "open")
        except BaseException:
            await self._close()
            raise

    async def _close(self) -> None:
        connection, self._connection, self._raw = self._connection, None, None
        if connection is not None and connection is not self._given:
            with mapped(self, "close"):
                await connection.close()

    async def _connect(self) -> None:
        if self._given is None:
            self._connection = await started(partial(connect, self._path, create=self._create, timeout=self._timeout))
        else:
            self._connection = self._given
        async with self._connection.cursor() as cursor:
            self._raw = cursor.connection

    def _inspect(self, cursor: sqlite3.Cursor, _now: float) -> bool:
        """Look at database and table, and return whether there is a table."""
        # sqlite3 has this since Python 3.12.
        if getattr(cursor.connection, "autocommit", None) is False:
            raise ConfigurationError("a connection with autocommit=False is in a transaction at all times: use another")
        found = self._table.inspect(cursor)
        (file,) = cursor.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
        self._restrict(in_memory=not file)
        return found

    def _create_table(self, cursor: sqlite3.Cursor, now: float) -> None:
        if not self._create:
            raise SchemaError(f"there is no table {self._table.name!r}; this storage needs\n{self.ddl()}")
        for statement in self._table.ddl():
            cursor.execute(statement)
        self._inspect(cursor, now)

    def _restrict(self, *, in_memory: bool) -> None:
        """Say what this storage can do, where that is less than others can."""
        able = type(self).capabilities
        self.capabilities = dataclasses.replace(
            able,
            shared=not in_memory,
            durable=not in_memory,
            ttl_resolution=1.0 if self._table.whole_seconds else able.ttl_resolution,
        )

    # ------------------------------------------------------------------ on aiosqlite's thread

    async def _run(self, work: Work[T], operation: str, key: str | None = None) -> T:
        """Do ``work`` in one trip to the connection's thread, where nothing else comes in between."""
        with mapped(self, operation, key):
            connection, raw = self._connection, self._raw
            if connection is None or raw is None:
                raise ClosedError("the storage was closed meanwhile")
            try:
                return await on_thread(connection, partial(isolated, raw, work, self._clock))
            except sqlite3.OperationalError as error:
                if code(error) == sqlite3.SQLITE_READONLY and connection is self._connection and self._state == "open":
                    self._state = "new"  # What was read-only when it was opened stays so: the next call opens it again.
                    await self._close()
                raise

    async def _transact(self, work: Work[T], operation: str, key: str | None = None) -> T:
        """Do ``work`` in a transaction of its own, waiting for the end of one that is not ours."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return await self._run(partial(in_transaction, work, self._clock), operation, key)
            except OccupiedError:
                if time.monotonic() > deadline:
                    problem = f"for {self._timeout:g} s the given connection has been in a transaction that is not ours"
                    raise UnavailableError(problem, operation=operation, key=key, storage=self) from None
            await asyncio.sleep(POLL)

    def __repr__(self) -> str:
        return f"<SQLiteStorage {self._path or 'of a given connection'!r} table {self._table.name!r}>"
