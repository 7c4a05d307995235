from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, closing
from importlib.metadata import version
from types import MappingProxyType

import aiosqlite
import pytest
from bot_session import testing
from bot_session_storage_sqlite import SQLiteStorage


class SQLiteContract(testing.StorageContract):
    __test__ = False

    """The back doors, which all use plain sqlite3; the layouts below differ in their table."""

    connected = False
    options = MappingProxyType({})
    table = "sessions"

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

    @pytest.fixture(autouse=True)
    def gramio(self, database):
        self.execute("CREATE TABLE gramio_storage (key TEXT PRIMARY KEY, value JSONB NOT NULL, expires_at BIGINT)")


class TestMemory(SQLiteContract):
    __test__ = True

    @pytest.fixture
    def make_storage(self):
        return lambda **options: SQLiteStorage(":memory:", **options)

    async def expire_now(self, storage, key):
        await storage._connection.execute("UPDATE sessions SET expires_at = 1 WHERE key = ?", (key,))

    async def crowd(self, storage, n):
        rows = [(f"crowd:{i}", "0") for i in range(n)]
        await storage._connection.executemany("INSERT INTO sessions (key, value) VALUES (?, ?)", rows)

    async def plant_foreign(self, storage):
        self.skip("plant_foreign")
