"""Sessions in PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from bot_session.errors import ConfigurationError, InvalidKeyError, SchemaError, StorageError, ValueTooLargeError
from bot_session.storage import (
    ABSENT,
    ANY,
    Capabilities,
    Match,
    Record,
    Storage,
    Version,
    Write,
    WriteResult,
    distinct_rounds,
)

from ._client import Client
from ._sql import Statements, joined, seconds
from ._table import ADD_EXPIRY, INSPECT, LOCK_SETUP, Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import Self

    import asyncpg  # type: ignore[import-untyped]

__all__ = ["PostgresStorage"]

_PURGED_AT_ONCE = 1_000
"""Rows that one statement of `PostgresStorage.purge` deletes: locks are held for a moment only."""


class PostgresStorage(Storage):
    """
    Keeps documents in a table of PostgreSQL 12 or later, through asyncpg.

    Args:
        database: Its URL, as asyncpg takes it; or an `asyncpg.Pool`, or an `asyncpg.Connection`, which stay open. A
            connection serves one task at a time. If it is inside a transaction, so is all that the storage does.
        table: The table. A dot separates the schema from it, unless ``schema`` is given.
        schema: The schema of the table. By default the server looks it up in its search path.
        key_column: The column of the keys.
        value_column: The column of the documents: text, varchar, json or jsonb.
        expires_column: The column of the expiry times, timestamptz. A table without it works until a TTL is asked for.
        create: Whether to create the table if it is missing.
        timeout: Seconds within which an operation ends, with the wait for a connection: what has no answer after four
            fifths of them is called off in the rest.
        pool_size: How many connections to open at most; for a URL.
        statement_cache: Whether to keep prepared statements, which a pooler such as PgBouncer does not allow. By
            default they are kept unless there is a pooler; for a URL.
    """

    # The longest key that fits into an entry of the index; the longest document that fits into jsonb.
    capabilities = Capabilities(
        shared=True,
        durable=True,
        native_expiry=False,
        ttl_resolution=1e-6,
        atomic_batches=True,
        max_key_bytes=2_692,
        max_value_bytes=2**28 - 1,
    )
    driver_query: ClassVar[bool] = True

    def __init__(
        self,
        database: str | asyncpg.Pool | asyncpg.Connection,
        *,
        table: str = "sessions",
        schema: str | None = None,
        key_column: str = "key",
        value_column: str = "value",
        expires_column: str = "expires_at",
        create: bool = True,
        timeout: float = 5.0,
        pool_size: int = 10,
        statement_cache: bool | None = None,
    ) -> None:
        if schema is None and "." in table:
            schema, _, table = table.partition(".")
        for name in (table, schema, key_column, value_column, expires_column):
            if name is not None and (not 0 < len(name.encode()) < 64 or "\0" in name):
                raise ConfigurationError(f"PostgreSQL takes names of 1 to 63 bytes, not {name!r}")
        if timeout <= 0 or pool_size < 1:
            raise ConfigurationError("timeout and pool_size must be more than 0")
        self._table = Table(table, schema, key_column, value_column, expires_column)
        self._create = create
        self._client = Client(
            database, timeout=timeout, pool_size=pool_size, statement_cache=statement_cache, storage=repr(self)
        )
        self._found = self._table  # until it was looked at
        self._sql = Statements(self._table)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Make one from ``postgresql://user:password@host:port/database``; asyncpg takes the rest of the query."""
        return cls(url, **options)

    # ------------------------------------------------------------------ reading

    async def read(self, key: str) -> Record | None:
        if self._state != "open":
            await self._ready("read", key)
        self._validate("read", key)
        rows = await self._client.fetch("read", key, self._sql.read, key)
        return _record(*rows[0]) if rows else None

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if self._state != "open":
            await self._ready("read_many")
        self._validate_keys("read_many", keys)
        if not keys:
            return {}
        # With the first twice: a single empty key would be an empty list.
        separated = joined([keys[0], *dict.fromkeys(keys)])
        rows = await self._client.fetch("read_many", None, self._sql.read_many, *separated)
        return {key: _record(value, left) for key, value, left in rows}

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        async for key, _, _ in self._rows("read_all_keys", prefix, batch_size):
            yield key

    async def read_all_entries(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[tuple[str, Record]]:
        async for key, value, left in self._rows("read_all_entries", prefix, batch_size):
            yield key, _record(value, left)

    async def _rows(self, operation: str, prefix: str, batch_size: int) -> AsyncIterator[Any]:
        """Stream (key, document, seconds left) page by page; no transaction stays open in between."""
        if self._state != "open":
            await self._ready(operation)
        self._validate_listing(operation, prefix, batch_size)
        first, following = self._sql.key_pages if operation == "read_all_keys" else self._sql.pages
        page = await self._client.fetch(operation, None, first, prefix, "", batch_size)
        while page:
            for row in page:
                yield row
            if len(page) < batch_size:
                return
            if self._state != "open":
                await self._ready(operation)
            page = await self._client.fetch(operation, None, following, prefix, page[-1][0], batch_size)

    # ------------------------------------------------------------------ writing

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if self._state != "open":
            await self._ready("write", key)
        self._validate("write", key, value, ttl)
        return cast("Version", await self._write("write", Write(key, value, ttl, match)))

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        if self._state != "open":
            await self._ready("delete", key)
        self._validate("delete", key)
        return cast("bool", await self._write("delete", Write(key, None, None, match)))

    async def touch(self, key: str, ttl: float | None) -> bool:
        if self._state != "open":
            await self._ready("touch", key)
        self._validate("touch", key, ttl=ttl)
        if not self._found.has_expiry:
            return await self.has(key)
        return bool(await self._client.fetch("touch", key, self._sql.touch, key, seconds(ttl)))

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        if self._state != "open":
            await self._ready("write_many")
        self._validate_writes("write_many", writes)
        rounds = list(distinct_rounds(writes))
        results: dict[int, WriteResult] = {}

        async def run(connection: Any) -> None:
            for operations in rounds:
                rows = await connection.fetch(*self._sql.writing([write for _, write in operations]))
                found = {row[0]: row for row in rows}
                for position, write in operations:
                    results[position] = self._result("write_many", write, found.get(write.key))

        if rounds:
            # One statement is a transaction of its own.
            await self._client.run("write_many", None, run, atomic=len(rounds) > 1)
        return [results[position] for position in range(len(writes))]

    async def purge(self) -> int:
        if self._state != "open":
            await self._ready("purge")
        total, purged = 0, _PURGED_AT_ONCE
        while purged == _PURGED_AT_ONCE and self._found.has_expiry:
            purged = len(await self._client.fetch("purge", None, self._sql.purge, _PURGED_AT_ONCE))
            total += purged
        return total

    async def _write(self, operation: str, write: Write) -> Version | bool:
        rows = await self._client.fetch(operation, write.key, *self._sql.writing([write]))
        result = self._result(operation, write, rows[0] if rows else None)
        if isinstance(result, StorageError):
            raise result
        return result

    def _result(self, operation: str, write: Write, row: Any) -> WriteResult:
        """Tell what became of a write from the row that its statement returned for it, None if it returned none."""
        if write.match is not ANY and (row is None) != (write.value is None and write.match is ABSENT):
            return self._conflict(operation, write.key, write.match)
        if write.value is None:
            return row is not None and bool(row[1])
        if row is None:
            problem = "PostgreSQL stored nothing and raised no error: a trigger on the table drops the row"
            return SchemaError(problem, operation=operation, key=write.key, storage=self)
        return Version(write.value if row[2] is None else row[2])

    # ------------------------------------------------------------------ life

    async def _open(self) -> None:
        await self._client.open()
        try:
            self._found = await self._set_up()
        except BaseException:
            await self._client.close()
            raise
        found = self._found
        self._has_own_limits = found.key_room is not None or found.value_room is not None or not found.has_expiry
        self._sql = Statements(found)

    async def _close(self) -> None:
        await self._client.close()

    async def _set_up(self) -> Table:
        found = await self._client.run("open", None, self._inspect)
        if found is None:
            if not self._create:
                raise SchemaError(
                    f"there is no table {self._table}; run:\n{self.ddl()}", operation="open", storage=self
                )
            found = await self._client.run("open", None, self._create_table, atomic=True)
        return found

    async def _inspect(self, connection: Any) -> Table | None:
        rows = await connection.fetch(INSPECT, str(self._table))
        return self._table.inspected(rows) if rows else None

    async def _create_table(self, connection: Any) -> Table:
        await connection.fetch(LOCK_SETUP)
        found = await self._inspect(connection)
        if found is None:
            for statement in self._table.ddl():
                await connection.execute(statement)
            rows = await connection.fetch(INSPECT, str(self._table))
            found = self._table.inspected(rows)
        return found

    def ddl(self) -> str:
        return "".join(f"{statement};\n" for statement in self._table.ddl())

    def _validate_own(self, operation: str, key: str, value: str, ttl: float | None) -> None:
        found = self._found
        if found.key_room is not None and len(key) > found.key_room:
            problem = f"the key has {len(key):,} characters, the column takes {found.key_room:,}"
            raise InvalidKeyError(problem, operation=operation, key=key, storage=self)
        if found.value_room is not None and len(value) > found.value_room:
            problem = f"the document has {len(value):,} characters, the column takes {found.value_room:,}"
            raise ValueTooLargeError(problem, operation=operation, key=key, storage=self)
        if ttl is not None and not found.has_expiry:
            problem = f"no column for a TTL; run this and open the storage again: {found.sql(ADD_EXPIRY)}"
            raise SchemaError(problem, operation=operation, key=key, storage=self)

    def __repr__(self) -> str:
        return f"<PostgresStorage {self._table}>"


def _record(value: str, left: float | None) -> Record:
    return Record(value, Version(value), left)
