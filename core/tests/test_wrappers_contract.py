"""Wrappers are storages: each passes the contract, over the memory storage."""

from __future__ import annotations

import dataclasses

import pytest
from bot_session import (
    BatchedStorage,
    CachedStorage,
    FallbackStorage,
    MemoryStorage,
    ObservedStorage,
    PrefixedStorage,
    RetryingStorage,
    Storage,
    StorageWrapper,
    Write,
)
from bot_session.errors import SchemaError
from bot_session.storage import ANY
from bot_session.testing import StorageContract
from bot_session.wrappers import locate


class Shared(MemoryStorage):
    """A memory that several instances share, as they would a database, and that has limits."""

    capabilities = dataclasses.replace(
        MemoryStorage.capabilities, shared=True, max_key_bytes=700, max_value_bytes=2**21, atomic_batches=True
    )

    def __init__(self, entries):
        super().__init__()
        self._entries = entries
        self.forbidden = set()

    async def write(self, key, value, *, ttl=None, match=ANY):
        if key in self.forbidden:
            raise SchemaError("a constraint forbids it", operation="write", key=key, storage=self)
        return await super().write(key, value, ttl=ttl, match=match)

    async def write_many(self, writes):
        for write in writes:
            if write.key in self.forbidden:
                raise SchemaError("a constraint forbids it", operation="write_many", key=write.key, storage=self)
        return await super().write_many(writes)


def expire(storage: Storage, key: str) -> None:
    place, key = locate(storage, key)
    value, _ = place._entries[key]
    place._entries[key] = (value, place._clock())


class Wrapped(StorageContract):
    connected = False

    @pytest.fixture
    def make_storage(self):
        entries = {}
        return lambda: self.wrap(Shared(entries))

    def wrap(self, storage: Storage) -> Storage:
        return StorageWrapper(storage)

    async def expire_now(self, storage, key):
        expire(storage, key)

    async def forbid(self, storage, key):
        place, key = locate(storage, key)
        place.forbidden.add(key)


class TestWrapper(Wrapped):
    pass


class TestBatched(Wrapped):
    def wrap(self, storage):
        return BatchedStorage(storage)


class TestRetrying(Wrapped):
    def wrap(self, storage):
        return RetryingStorage(storage)


class TestCached(Wrapped):
    @pytest.fixture
    def make_storage(self):
        entries = {}
        made = []

        def make():
            # What others change is not seen, so two of them are two bots with a storage each.
            made.append(CachedStorage(Shared(entries if not made else {})))
            return made[-1]

        return make

    async def expire_now(self, storage, key):
        expire(storage, key)
        storage.forget(key)


class TestPrefixed(Wrapped):
    def wrap(self, storage):
        return PrefixedStorage(storage, "päx[*]_%:")

    async def plant_foreign(self, storage):
        await storage.inner.write_many([Write("päx", "1"), Write("päx[*]_", "2"), Write("1", "3", ttl=600.0)])

    async def foreign_is_untouched(self, storage):
        found = await storage.inner.read_many(["päx", "päx[*]_", "1"])

        assert [record.value for record in found.values()] == ["1", "2", "3"]


class TestNestedPrefixes(Wrapped):
    def wrap(self, storage):
        return PrefixedStorage(PrefixedStorage(storage, "a:"), "b:")


class TestObserved(Wrapped):
    def wrap(self, storage):
        return ObservedStorage(storage, lambda _: None)


class TestFallback(Wrapped):
    @pytest.fixture
    def make_storage(self):
        every = ({}, {}, {})
        return lambda: FallbackStorage(*map(Shared, every))

    async def expire_now(self, storage, key):
        for each in (storage.inner, *storage.secondaries):
            expire(each, key)
