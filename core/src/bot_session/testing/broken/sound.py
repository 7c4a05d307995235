"""What the broken storages are broken from: a storage without faults over a database that has everything to fail with."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bot_session.errors import SchemaError, UnavailableError
from bot_session.memory import MemoryStorage
from bot_session.storage import ANY, Capabilities, Match, Record, Version

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Client", "Database", "Documents", "SoundStorage"]

Documents = dict[str, tuple[str, float | None]]
"""Documents and their deadlines, by key."""

BIRTH_OF_A_TABLE = 3
"""Turns of the loop that it takes to create one."""


class Database:
    """A database server of this process. Others keep their things in it too."""

    def __init__(self, *, reachable: bool = True) -> None:
        self.reachable = reachable
        self.sessions: Documents | None = None
        self.orders: dict[str, str] = {}
        self.forbidden: set[str] = set()
        self.created = time.monotonic()
        self.changes: dict[str, int] = {}

    async def create_sessions(self) -> None:
        """Create the table, which takes a while, and fails if somebody else was faster."""
        for _ in range(BIRTH_OF_A_TABLE):
            await asyncio.sleep(0)
        if self.sessions is not None:
            raise FileExistsError("the table exists")
        self.sessions = {}


class Client:
    """A driver's connection to a `Database`. It connects anew by itself after it was cut."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.closed = False
        self.was_cut = False
        self.reconnects = True

    @property
    def sessions(self) -> Documents:
        """The documents, over the wire: whoever looks may find the connection broken."""
        if self.closed:
            raise RuntimeError("the client is closed")
        if not self.database.reachable:
            raise ConnectionRefusedError("nobody listens")
        if self.was_cut:
            self.was_cut = not self.reconnects
            raise ConnectionResetError("the connection was cut")
        assert self.database.sessions is not None
        return self.database.sessions

    def close(self) -> None:
        """Close it; nobody can use it any more."""
        self.closed = True


class SoundStorage(MemoryStorage):
    """A storage without faults. Like a real one it awaits the wire, where others get their turn."""

    capabilities = Capabilities(
        shared=True,
        durable=True,
        native_expiry=False,
        ttl_resolution=0.0,
        atomic_batches=False,
        max_key_bytes=1_024,
        max_value_bytes=2 * 1024 * 1024,
    )

    def __init__(self, database: Database, *, client: Client | None = None) -> None:
        self._clock = time.monotonic
        self.database = database
        self.client = client or Client(database)
        self._owns_client = client is None

    @property
    def _entries(self) -> Documents:  # type: ignore[override] # nobody sets it here
        try:
            return self.client.sessions
        except ConnectionError as error:
            raise UnavailableError("the database does not answer", storage=self) from error

    async def _open(self) -> None:
        if self._owns_client:
            self.client = Client(self.database)
        await self._create()
        _ = self._entries

    async def _create(self) -> None:
        if self.database.sessions is None:
            try:
                await self.database.create_sessions()
            except FileExistsError:
                return  # Another instance was faster, which is as good.

    async def _close(self) -> None:
        if self._owns_client:
            self.client.close()

    @contextmanager
    def _during(self, operation: str, key: str) -> Iterator[None]:
        """Say in an outage what it was that could not be done."""
        try:
            yield
        except UnavailableError as error:
            error.operation, error.key = operation, key
            raise

    async def read(self, key: str) -> Record | None:
        await asyncio.sleep(0)
        with self._during("read", key):
            return await super().read(key)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        await asyncio.sleep(0)
        if key in self.database.forbidden:
            raise SchemaError("a constraint forbids it", operation="write", key=key, storage=self)
        with self._during("write", key):
            return await super().write(key, value, ttl=ttl, match=match)

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        await asyncio.sleep(0)
        with self._during("delete", key):
            return await super().delete(key, match=match)
