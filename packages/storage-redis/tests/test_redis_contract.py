"""The contract against real servers: one of them, one through an injected client of each kind, and a cluster."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from typing import ClassVar

import pytest
from bot_session.testing import StorageContract
from bot_session.testing.servers.base import free_port
from bot_session_storage_redis import RedisStorage
from redis.asyncio import Redis, RedisCluster


class OnRedis(StorageContract):
    """What the contract needs to know of a Redis at ``self.url``."""

    @pytest.fixture(autouse=True)
    def address(self, redis_server):
        self.url = redis_server.url.removesuffix("/0") + "/1"
        self.server = redis_server

    @pytest.fixture
    async def raw(self, address):
        """A client beside the storage, on a database that is empty: nobody else's, so it may be flushed."""
        async with Redis.from_url(self.url) as raw:
            await raw.flushdb()
            self.client = raw
            yield raw

    @pytest.fixture
    def make_storage(self, raw):
        return lambda **options: RedisStorage(self.url, **options)

    async def expire_now(self, storage, key):
        # A moment that has passed: what is then read is gone at once.
        await self.client.pexpireat(key, 1)

    async def plant_foreign(self, storage):
        await self.client.hset("foreign:hash", "field", "value")
        await self.client.rpush("foreign:list", "a", "b")
        await self.client.set(b"foreign:\xff", b"\xff")

    async def foreign_is_untouched(self, storage):
        assert {b"field": b"value"} == await self.client.hgetall("foreign:hash")
        assert [b"a", b"b"] == await self.client.lrange("foreign:list", 0, -1)
        assert await self.client.get(b"foreign:\xff") == b"\xff"

    async def crowd(self, storage, n):
        await self.client.mset({f"crowd:{i}": "0" for i in range(n)})

    async def cut_connection(self, storage):
        await self.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def forbid(self, storage, key):
        await self.client.rpush(key, "theirs")

    def make_unreachable(self):
        return RedisStorage(f"redis://127.0.0.1:{free_port()}", timeout=0.5)

    @contextlib.asynccontextmanager
    async def injected(self):
        async with Redis.from_url(self.url, **self.injected_options) as client:
            yield lambda **options: RedisStorage(client, **options), client.ping

    injected_options: ClassVar = {"decode_responses": False}

    def versions(self):
        names = ("bot-session-storage-redis", "redis")
        return {**{name: version(name) for name in names}, "server": self.server.version}


class TestOneServer(OnRedis):
    pass


class TestInjectedClient(OnRedis):
    owns_client = False

    @pytest.fixture(params=[False, True], ids=["bytes", "decoded"])
    async def make_storage(self, raw, request):
        async with Redis.from_url(self.url, decode_responses=request.param) as client:
            yield lambda **options: RedisStorage(client, **options)

    injected_options: ClassVar = {"decode_responses": True}


class TestCluster(OnRedis):
    @pytest.fixture(autouse=True)
    def address(self, redis_cluster):
        self.url = redis_cluster.url
        self.server = redis_cluster

    @pytest.fixture
    async def raw(self, address):
        async with RedisCluster.from_url(self.url.replace("+cluster", "")) as raw:
            await raw.flushdb(target_nodes="primaries")
            self.client = raw
            yield raw

    async def crowd(self, storage, n):
        await self.client.mset_nonatomic({f"crowd:{i}": "0" for i in range(n)})

    async def cut_connection(self, storage):
        for node in self.client.get_primaries():
            await node.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def make_unreachable(self):
        return RedisStorage(f"redis+cluster://127.0.0.1:{free_port()}", timeout=0.5)

    @contextlib.asynccontextmanager
    async def injected(self):
        async with RedisCluster.from_url(self.url.replace("+cluster", ""), decode_responses=True) as client:
            yield lambda **options: RedisStorage(client, **options), client.ping
