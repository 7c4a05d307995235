from __future__ import annotations

import dataclasses
import json
import sqlite3
from contextlib import asynccontextmanager, closing
from importlib.metadata import version
from types import MappingProxyType

import aiosqlite
import pytest
from bot_session import testing
from bot_session_storage_sqlite import SQLiteStorage


def _as_javascript(text):
    number = float(text)
    return int(number) if number.is_integer() else number


class SQLiteContract(testing.StorageContract):
    __test__ = False

    """The back doors, which all use plain sqlite3; the layouts below differ in their table."""

    connected = False
    options = MappingProxyType({})
    table = "sessions"
    forbidding = (
        "CREATE TRIGGER forbidding BEFORE INSERT ON \"{}\" WHEN NEW.key = '{}' BEGIN SELECT raise(ABORT, 'no'); END"
    )

    @pytest.fixture(autouse=True)
    def database(self, tmp_path):
        self.path = tmp_path / "bot.db"
        self.folder = tmp_path
        return self.path

    @pytest.fixture
    def make_storage(self, database):
        return lambda **options: SQLiteStorage(database, **{**self.options, **options})

    def execute(self, statement, *values):
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    async def expire_now(self, storage, key):
        self.execute(f'UPDATE "{self.table}" SET expires_at = 1 WHERE key = ?', key)

    async def plant_foreign(self, storage):
        self.execute('CREATE TABLE "sessions_of_others" (key TEXT PRIMARY KEY, value TEXT)')
        self.execute("INSERT INTO sessions_of_others VALUES ('k', 'theirs')")

    async def foreign_is_untouched(self, storage):
        assert self.execute("SELECT * FROM sessions_of_others") == [("k", "theirs")]

    async def forbid(self, storage, key):
        self.execute(self.forbidding.format(self.table, key))

    async def crowd(self, storage, n):
        with closing(sqlite3.connect(self.path)) as connection, connection:
            rows = ((f"crowd:{i}", "0") for i in range(n))
            connection.executemany(f'INSERT INTO "{self.table}" (key, value) VALUES (?, ?)', rows)

    @pytest.fixture(autouse=True)
    def locked(self, tmp_path):
        """A database that another program keeps to itself."""
        with closing(sqlite3.connect(tmp_path / "locked.db")) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield

    def make_unreachable(self):
        return SQLiteStorage(self.folder / "locked.db", timeout=0.1)

    @asynccontextmanager
    async def injected(self):
        async with aiosqlite.connect(self.path) as connection:

            async def still_works():
                cursor = await connection.execute("SELECT 1")
                assert await cursor.fetchone() == (1,)

            yield lambda **options: SQLiteStorage(connection, **{**self.options, **options}), still_works

    def versions(self):
        return {name: version(name) for name in ("bot-session-storage-sqlite", "aiosqlite")} | {
            "SQLite": sqlite3.sqlite_version
        }


class TestSQLite(SQLiteContract):
    __test__ = True


class TestGramIOTable(SQLiteContract):
    """The table that GramIO made, in place."""

    __test__ = True

    options = MappingProxyType({"table": "gramio_storage"})
    table = "gramio_storage"
    keeps_text = False
    refuses = frozenset({"int beyond 64 bits"})

    def comparable(self, document):
        # JavaScript has one kind of number, and its table keeps 1.0 as 1.
        return json.dumps(json.loads(document, parse_float=_as_javascript), sort_keys=True)

    @pytest.mark.parametrize("ttl", [90.0, 90.7, 59.001, 3_600])
    async def test_the_remaining_ttl_is_reported_and_rounded_up_never_down(self, storage, ttl):
        # The deadline is what is rounded up to a second, not the TTL.
        await storage.write("k", "1", ttl=ttl)
        record = await storage.read("k")

        assert ttl - 1.0 < record.ttl <= ttl + 1.0

    @pytest.fixture(autouse=True)
    def gramio(self, database):
        self.execute("CREATE TABLE gramio_storage (key TEXT PRIMARY KEY, value JSONB NOT NULL, expires_at BIGINT)")


class TestMemory(SQLiteContract):
    __test__ = True

    @pytest.fixture
    def make_storage(self):
        return lambda **options: SQLiteStorage(":memory:", **options)

    async def expire_now(self, storage, key):
        await storage._database.connection.execute("UPDATE sessions SET expires_at = 1 WHERE key = ?", (key,))

    async def forbid(self, storage, key):
        await storage._database.connection.execute(self.forbidding.format(self.table, key))

    async def crowd(self, storage, n):
        rows = [(f"crowd:{i}", "0") for i in range(n)]
        await storage._database.connection.executemany("INSERT INTO sessions (key, value) VALUES (?, ?)", rows)

    async def plant_foreign(self, storage):
        self.applies(False, "nobody else can reach this memory")

    async def test_it_is_neither_shared_nor_durable(self, make_storage):
        able = make_storage().capabilities

        assert able == dataclasses.replace(SQLiteStorage.capabilities, shared=False, durable=False)
