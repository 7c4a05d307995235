"""A storage that tells what was asked of it."""

from __future__ import annotations

import asyncio

import pytest
from bot_session import MemoryStorage, StorageWrapper, UnavailableError


class Watched(StorageWrapper):
    """Memory that records calls as ``(operation, key)``, can be held up and can be down."""

    def __init__(self, inner=None):
        super().__init__(inner or MemoryStorage())
        self.calls = []
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def _asked(self, operation, key):
        self.calls.append((operation, key))
        await asyncio.sleep(0)  # as any real storage, give others a turn
        await self.gate.wait()
        if self.down:
            raise UnavailableError("down", operation=operation, key=key) from ConnectionError("no route")

    async def read(self, key):
        await self._asked("read", key)
        return await super().read(key)

    async def write(self, key, value, **options):
        await self._asked("write", key)
        return await super().write(key, value, **options)

    async def delete(self, key, **options):
        await self._asked("delete", key)
        return await super().delete(key, **options)

    async def touch(self, key, ttl):
        await self._asked("touch", key)
        return await super().touch(key, ttl)

    async def stored(self, key):
        """What is stored, without its being recorded."""
        record = await self.inner.read(key)
        return None if record is None else record.value

    async def store(self, key, value, **options):
        await self.inner.write(key, value, **options)


@pytest.fixture
def storage():
    return Watched()
