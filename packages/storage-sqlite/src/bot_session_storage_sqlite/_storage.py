"""Sessions in a table of an SQLite database."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import time
from collections.abc import Callable  # noqa: TC003 - read with the options of URLs
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

import aiosqlite
from bot_session.errors import ConfigurationError, SchemaError, StorageError
from bot_session.redaction import redact_url
from bot_session.storage import ABSENT, ANY, Capabilities, Match, Record, Storage, Version, Write

from ._connection import MEMORY
from ._database import Database
from ._failures import code, mapped
from ._schema import is_in_memory
from ._table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence

    from bot_session.storage import WriteResult, WrittenAndRead

    from ._database import T, Work

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
        timeout: Seconds that a call may wait for other writers, or for the end of your transaction.
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
        given, path = (database, "") if isinstance(database, aiosqlite.Connection) else (None, os.fspath(database))
        if given is None and (not path or "\0" in path):
            raise ConfigurationError(f"a database needs a path, or {MEMORY}; not {path!r}")
        if given is None and path != MEMORY:
            path = str(Path(path).absolute())  # Opened again, it is the same, whatever the current folder is then.
        self._database = Database(path, given, create=create, timeout=timeout, clock=clock)
        self._table = Table(table, key_column, value_column, expires_column or None)
        self._create = create
        self._restrict(in_memory=path == MEMORY)

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
                await self._database.open()
            if not await self._run(self._inspect, "open"):
                await self._transact(self._create_table, "open")
        except BaseException:
            await self._close()
            raise

    async def _close(self) -> None:
        with mapped(self, "close"):
            await self._database.close()

    def _inspect(self, cursor: sqlite3.Cursor, _now: float) -> bool:
        """Look at database and table, and return whether there is a table."""
        in_memory = is_in_memory(cursor)
        found = self._table.inspect(cursor)
        self._restrict(in_memory=in_memory)
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

    # ------------------------------------------------------------------ the trips to the database

    def _run(self, work: Work[T], operation: str, key: str | None = None) -> Awaitable[T]:
        return self._mapped(self._database.run(work), operation, key)

    def _transact(self, work: Work[T], operation: str, key: str | None = None) -> Awaitable[T]:
        return self._mapped(self._database.transact(work), operation, key)

    async def _mapped(self, trip: Awaitable[T], operation: str, key: str | None) -> T:
        connection = self._database.connection
        with mapped(self, operation, key):
            try:
                return await trip
            except sqlite3.OperationalError as error:
                same = connection is self._database.connection
                if code(error) == sqlite3.SQLITE_READONLY and same and self._state == "open":
                    self._state = "new"  # What was read-only when it was opened stays so: the next call opens it again.
                    await self._close()
                raise

    def __repr__(self) -> str:
        return f"<SQLiteStorage {self._database.path or 'of a given connection'!r} table {self._table.name!r}>"
