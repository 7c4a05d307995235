"""Supabase keeps the contract, through a PostgREST whose ``max-rows`` is smaller than what is asked for."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from typing import TYPE_CHECKING

import asyncpg
import httpx
import pytest
from bot_session.testing import StorageContract
from bot_session.testing.servers.base import free_port
from bot_session_storage_supabase import SupabaseStorage
from supabase import AsyncClient, AsyncClientOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bot_session.storage import Storage
    from bot_session.testing.contract.base import MakeStorage, StillWorks
    from bot_session.testing.servers.postgrest import Supabase


class Contract(StorageContract):
    """The table is made once, as it would be in the SQL editor, and is empty at the start of each test."""

    table = "contract"

    @pytest.fixture
    def make_storage(self, postgrest_server: Supabase) -> MakeStorage:
        key = postgrest_server.key("service_role")
        return lambda **options: SupabaseStorage(postgrest_server.url, key=key, table=self.table, **options)

    @pytest.fixture(autouse=True)
    async def database(self, postgrest_server: Supabase, make_storage: MakeStorage) -> AsyncIterator[None]:
        self.supabase = postgrest_server
        self.admin = await asyncpg.connect(postgrest_server.database)
        if await self.admin.fetchval("SELECT to_regclass($1)", self.table) is None:
            await self.create(make_storage())
        await self.admin.execute(f"TRUNCATE {self.table}")
        yield
        await self.admin.execute("DROP TABLE IF EXISTS orders")
        await self.admin.execute(f"ALTER TABLE IF EXISTS {self.table} DROP CONSTRAINT IF EXISTS forbidden")
        await self.admin.close()

    async def create(self, storage: Storage) -> None:
        await self.supabase.install(storage)
        await storage.close()

    async def expire_now(self, storage: Storage, key: str) -> None:
        statement = f"UPDATE {self.table} SET expires_at = now() - interval '1 second' WHERE id = $1"

        assert await self.admin.execute(statement, key) == "UPDATE 1"

    async def plant_foreign(self, storage: Storage) -> None:
        await self.admin.execute("CREATE TABLE orders (id varchar PRIMARY KEY, session text)")
        await self.admin.execute("INSERT INTO orders VALUES ('a', 'theirs')")

    async def foreign_is_untouched(self, storage: Storage) -> None:
        assert [("a", "theirs")] == [tuple(row) for row in await self.admin.fetch("SELECT * FROM orders")]

    async def crowd(self, storage: Storage, n: int) -> None:
        await self.admin.execute(
            f"INSERT INTO {self.table} (id, session) SELECT 'crowd:' || i, '0' FROM generate_series(1, $1::int) AS i", n
        )

    async def forbid(self, storage: Storage, key: str) -> None:
        await self.admin.execute(f"ALTER TABLE {self.table} ADD CONSTRAINT forbidden CHECK (id <> '{key}')")

    async def cut_connection(self, storage: Storage) -> None:
        self.supabase.gateway.cut()

    def make_unreachable(self) -> Storage:
        return SupabaseStorage(f"http://127.0.0.1:{free_port()}", key=self.supabase.key("service_role"), timeout=1.0)

    @contextlib.asynccontextmanager
    async def injected(self) -> AsyncIterator[tuple[MakeStorage, StillWorks]]:
        async with httpx.AsyncClient() as http:
            options = AsyncClientOptions(httpx_client=http)
            client = AsyncClient(self.supabase.url, self.supabase.key("service_role"), options)

            async def still_works() -> None:
                await client.table(self.table).select("id").limit(1).execute()

            yield lambda **options: SupabaseStorage(client, table=self.table, **options), still_works

    def versions(self) -> dict[str, str]:
        packages = ("bot-session-storage-supabase", "supabase", "postgrest")
        return {**{name: version(name) for name in packages}, "server": self.supabase.server.version}


class TestSupabase(Contract):
    """The table that `ddl` makes."""
