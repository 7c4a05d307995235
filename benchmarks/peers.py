"""The peers, by their own public interfaces, with the options that they come with."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from .workload import KEYS, InProcess, Profile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

__all__ = ["PEERS"]


def _contender(name: str, read: Callable[[str], Awaitable[Any]], write: Callable[[str, Any], Awaitable[Any]]) -> Any:
    async def change(key: str) -> None:
        data = await read(key) or dataclasses.asdict(Profile())
        data["count"] += 1
        await write(key, data)

    return InProcess(name, {"change": change, "look": read, "new": change})


def _aiogram(storage: Any, name: str) -> Any:
    from aiogram.fsm.storage.base import StorageKey

    def place(key: str) -> StorageKey:
        return StorageKey(bot_id=1, chat_id=int(key), user_id=int(key))

    return _contender(
        f"aiogram {name}",
        lambda key: storage.get_data(place(key)),
        lambda key, data: storage.set_data(place(key), data),
    )


@asynccontextmanager
async def aiogram_memory(_: str) -> AsyncIterator[Any]:
    from aiogram.fsm.storage.memory import MemoryStorage

    yield _aiogram(MemoryStorage(), "MemoryStorage")


@asynccontextmanager
async def aiogram_redis(url: str) -> AsyncIterator[Any]:
    from aiogram.fsm.storage.redis import RedisStorage
    from redis.asyncio import BlockingConnectionPool, Redis

    # With redis-py's default pool it raises at 1,000 in flight.
    storage = RedisStorage(Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=50, timeout=None)))
    yield _aiogram(storage, "RedisStorage")
    await storage.close()


@asynccontextmanager
async def key_value_redis(url: str) -> AsyncIterator[Any]:
    from key_value.aio.stores.redis import RedisStore
    from redis.asyncio import BlockingConnectionPool, Redis

    pool = BlockingConnectionPool.from_url(url, max_connections=50, timeout=None, decode_responses=True)
    async with Redis.from_pool(pool) as client:
        store = RedisStore(client=client, default_collection="peer")
        yield _contender("py-key-value", store.get, store.put)


@asynccontextmanager
async def cashews_redis(url: str) -> AsyncIterator[Any]:
    from cashews import Cache

    cache = Cache()
    cache.setup(url, max_connections=50, wait_for_connection_timeout=None, suppress=False)
    yield _contender(
        "cashews", lambda key: cache.get(f"cashews:{key}"), lambda key, data: cache.set(f"cashews:{key}", data)
    )
    await cache.close()


@asynccontextmanager
async def ptb_file(folder: str) -> AsyncIterator[Any]:
    """PicklePersistence, which holds everything in memory and writes all of it: here at each update, as others do."""
    from telegram.ext import PersistenceInput, PicklePersistence

    only = PersistenceInput(bot_data=False, user_data=False, callback_data=False)
    persistence: PicklePersistence[Any, Any, Any] = PicklePersistence(f"{folder}.pickle", only, on_flush=True)
    everything: dict[int, dict[str, Any]] = {}

    async def change(key: str) -> None:
        chat = int(key)
        data = everything[chat]
        data["count"] += 1
        await persistence.update_chat_data(chat, {**data})

    class Filled(InProcess):
        async def fill(self, keys: Sequence[str] = KEYS) -> None:
            everything.update((int(key), dataclasses.asdict(Profile())) for key in keys)
            for chat, data in everything.items():
                await persistence.update_chat_data(chat, {**data})
            await persistence.flush()
            persistence.on_flush = False

    yield Filled("PTB PicklePersistence", {"change": change}, most_in_flight=1)


PEERS: dict[str, list[Callable[[str], AbstractAsyncContextManager[InProcess]]]] = {
    "memory": [aiogram_memory],
    "redis": [aiogram_redis, key_value_redis, cashews_redis],
    "file": [ptb_file],
}
"""For each storage its peers, made of the same as the bare driver."""
