"""The contract, on every kind of client and every kind of column."""

from __future__ import annotations

import contextlib
import json
import uuid
from fractions import Fraction
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

import asyncpg
import pytest
from bot_session.testing import StorageContract
from bot_session_storage_postgres import PostgresStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bot_session.storage import Storage
    from bot_session.testing.contract import MakeStorage, StillWorks
    from bot_session.testing.servers import Server


class TestPostgresContract(StorageContract):
    """A URL."""

    crowd_size = 20_000

    @pytest.fixture(autouse=True)
    async def database(self, postgres_server: Server) -> AsyncIterator[None]:
        """Make a schema for this test alone."""
        self.url, self.server = postgres_server.url, postgres_server.version
        self.schema = f"Contract {uuid.uuid4()}"
        await self.run(f'CREATE SCHEMA "{self.schema}"')
        await self.create()
        yield
        await self.run(f'DROP SCHEMA "{self.schema}" CASCADE')

    async def create(self) -> None:
        """Make the table before the storage does."""

    async def run(self, *statements: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url)
        try:
            return [row for statement in statements for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        def make(**options) -> Storage:
            # By the application's name `cut_connection` knows which connections are this test's.
            url = f"{self.url}{'&' if '?' in self.url else '?'}application_name={self.schema[-36:]}"
            return PostgresStorage(url, **{"schema": self.schema, "pool_size": 4, **options})

        return make

    async def expire_now(self, storage: Storage, key: str) -> None:
        literal = key.replace("'", "''")
        touched = await self.run(
            f"UPDATE \"{self.schema}\".sessions SET expires_at = now() WHERE key = '{literal}' RETURNING 1"
        )

        assert len(touched) == 1

    async def plant_foreign(self, storage: Storage) -> None:
        await self.run(
            f'CREATE TABLE "{self.schema}".sessions2 (key varchar, value text, expires_at timestamptz)',
            f"INSERT INTO \"{self.schema}\".sessions2 VALUES ('b', '9', now())",
        )

    async def foreign_is_untouched(self, storage: Storage) -> None:
        assert [tuple(row) for row in await self.run(f'SELECT key, value FROM "{self.schema}".sessions2')] == [
            ("b", "9")
        ]

    async def crowd(self, storage: Storage, n: int) -> None:
        await self.run(
            f"INSERT INTO \"{self.schema}\".sessions (key, value) SELECT 'crowd:' || i, 0 FROM generate_series(1, {n}) i"
        )

    async def forbid(self, storage: Storage, key: str) -> None:
        await self.run(f"ALTER TABLE \"{self.schema}\".sessions ADD CHECK (key <> '{key}')")

    async def cut_connection(self, storage: Storage) -> None:
        cut = await self.run(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE application_name = '{self.schema[-36:]}'"
        )

        assert cut

    def make_unreachable(self) -> Storage:
        return PostgresStorage("postgresql://postgres@127.0.0.1:1/postgres", timeout=1.0)

    @contextlib.asynccontextmanager
    async def injected(self) -> AsyncIterator[tuple[MakeStorage, StillWorks]]:
        async with asyncpg.create_pool(self.url, min_size=1, max_size=4) as pool:

            async def still_works() -> None:
                assert await pool.fetchval("SELECT 1") == 1
                assert pool.get_idle_size() == pool.get_size()

            yield lambda: PostgresStorage(pool, schema=self.schema), still_works

    def versions(self) -> dict[str, str]:
        names = ("bot-session-storage-postgres", "asyncpg")
        return {**{name: version(name) for name in names}, "server": self.server}


class TestPostgresContractOnAnInjectedConnection(TestPostgresContract):
    """One connection for all storages of a test."""

    owns_client = False
    machine_examples = 5

    @pytest.fixture
    async def make_storage(self, database: None) -> AsyncIterator[MakeStorage]:
        connection = await asyncpg.connect(self.url)
        yield lambda **options: PostgresStorage(connection, **{"schema": self.schema, **options})
        await connection.close()

    async def cut_connection(self, storage: Storage) -> None:
        pytest.skip("not applicable: an injected connection that breaks is its owner's to replace")

    @contextlib.asynccontextmanager
    async def injected(self) -> AsyncIterator[tuple[MakeStorage, StillWorks]]:
        connection = await asyncpg.connect(self.url)

        async def still_works() -> None:
            assert await connection.fetchval("SELECT 1") == 1

        yield lambda: PostgresStorage(connection, schema=self.schema), still_works
        await connection.close()


class TestPostgresContractInJson(TestPostgresContract):
    """A table whose documents are json, which keeps their text."""

    column: ClassVar[str] = "json"
    machine_examples = 5

    async def create(self) -> None:
        await self.run(
            f'CREATE TABLE "{self.schema}".sessions'
            f" (key varchar PRIMARY KEY, value {self.column}, expires_at timestamptz)"
        )

    async def crowd(self, storage: Storage, n: int) -> None:
        await self.run(
            f'INSERT INTO "{self.schema}".sessions (key, value)'
            f" SELECT 'crowd:' || i, '0' FROM generate_series(1, {n}) i"
        )


class TestPostgresContractInJsonb(TestPostgresContractInJson):
    """A table whose documents are jsonb, which spells them its own way."""

    column = "jsonb"
    keeps_text = False
    refuses = frozenset({"NUL escaped", "lone surrogate escaped", "name with NUL"})

    def comparable(self, document: str) -> str:
        # Its numbers are exact decimals: 1e2 comes back as 100, and -0.0 as 0.0.
        return repr(json.loads(document, parse_float=Fraction, parse_int=Fraction, object_pairs_hook=sorted))

    async def test_any_sequence_of_operations_does_what_it_does_to_a_dict(self) -> None:
        pytest.skip("the state machine compares documents as text")
