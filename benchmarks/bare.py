"""
The bare drivers, by hand, as their documentation advises: a read, a change, a write. The yardstick.

They overwrite whatever another update has written meanwhile; bot-session does not, for which it compares at each write.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .workload import InProcess, changed, seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["CONTENDERS"]


def _contender(
    read: Callable[[str], Awaitable[str | bytes | None]], write: Callable[[str, str], Awaitable[object]]
) -> InProcess:
    async def change(key: str) -> None:
        await write(key, changed(await read(key)))

    async def look(key: str) -> object:
        return seen(await read(key))

    return InProcess("bare driver", {"change": change, "look": look, "new": change, "lazy": look})


@asynccontextmanager
async def memory(_: str) -> AsyncIterator[InProcess]:
    """A dict of documents and msgspec: the floor."""
    documents: dict[str, str] = {}

    async def change(key: str) -> None:
        documents[key] = changed(documents.get(key))

    async def look(key: str) -> object:
        return seen(documents.get(key))

    yield InProcess("dict + msgspec", {"change": change, "look": look, "new": change, "lazy": look})


@asynccontextmanager
async def redis(url: str) -> AsyncIterator[InProcess]:
    """redis-py with hiredis, on a pool that lets wait what its default one refuses at 1,000 in flight."""
    from redis.asyncio import BlockingConnectionPool, Redis

    pool = BlockingConnectionPool.from_url(url, max_connections=50, timeout=None)
    async with Redis.from_pool(pool) as client:

        def read(key: str) -> Any:
            return client.get(f"bare:{key}")

        def write(key: str, document: str) -> Any:
            return client.set(f"bare:{key}", document)

        yield _contender(read, write)


@asynccontextmanager
async def postgres(url: str) -> AsyncIterator[InProcess]:
    """A pool of ten of asyncpg's connections."""
    import asyncpg  # type: ignore[import-untyped]

    async with asyncpg.create_pool(url, min_size=10, max_size=10) as pool:
        await pool.execute("CREATE TABLE bare (key varchar PRIMARY KEY, value text NOT NULL)")

        def read(key: str) -> Any:
            return pool.fetchval("SELECT value FROM bare WHERE key = $1", key)

        def write(key: str, document: str) -> Any:
            return pool.execute(
                "INSERT INTO bare VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value", key, document
            )

        yield _contender(read, write)


@asynccontextmanager
async def mongo(url: str) -> AsyncIterator[InProcess]:
    """PyMongo's asynchronous client. The session is kept as a native document, as bot-session keeps it."""
    import msgspec
    from pymongo import AsyncMongoClient

    async with AsyncMongoClient[dict[str, Any]](url) as client:
        collection = client["bench"]["bare"]
        await collection.create_index("key", unique=True)

        async def read(key: str) -> bytes | None:
            found = await collection.find_one({"key": key})
            return None if found is None else msgspec.json.encode(found["value"])

        async def write(key: str, document: str) -> None:
            value = msgspec.json.decode(document)
            await collection.update_one({"key": key}, {"$set": {"value": value}}, upsert=True)

        yield _contender(read, write)


@asynccontextmanager
async def sqlite(path: str) -> AsyncIterator[InProcess]:
    """One connection of aiosqlite's: WAL, and on the disk at each commit, as bot-session has it."""
    import aiosqlite

    async with aiosqlite.connect(path) as connection:
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = FULL")
        await connection.execute("CREATE TABLE bare (key TEXT PRIMARY KEY, value TEXT NOT NULL)")

        async def read(key: str) -> str | None:
            async with connection.execute("SELECT value FROM bare WHERE key = ?", (key,)) as cursor:
                row = await cursor.fetchone()
            return None if row is None else row[0]

        async def write(key: str, document: str) -> None:
            await connection.execute("INSERT OR REPLACE INTO bare VALUES (?, ?)", (key, document))
            await connection.commit()

        yield _contender(read, write)


@asynccontextmanager
async def file(folder: str) -> AsyncIterator[InProcess]:
    """A file for each session, in asyncio's threads: written beside, synced, renamed, and the folder synced."""
    root = Path(folder)
    root.mkdir()  # noqa: ASYNC240 - nobody waits yet

    def read(key: str) -> bytes | None:
        try:
            return (root / f"{key}.json").read_bytes()
        except FileNotFoundError:
            return None

    def write(key: str, document: str) -> None:
        temporary = root / f"{key}.tmp"
        with temporary.open("w") as target:
            target.write(document)
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(root / f"{key}.json")
        handle = os.open(root, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    yield _contender(
        lambda key: asyncio.to_thread(read, key), lambda key, document: asyncio.to_thread(write, key, document)
    )


CONTENDERS = {"memory": memory, "redis": redis, "postgres": postgres, "sqlite": sqlite, "mongo": mongo, "file": file}
"""For each storage the bare driver, made of the server's URL, of a path, or of nothing."""
