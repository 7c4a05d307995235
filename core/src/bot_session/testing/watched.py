"""A storage that tells what was asked of it, can be held up, and can be down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from bot_session.errors import UnavailableError
from bot_session.memory import MemoryStorage
from bot_session.wrappers import StorageWrapper

if TYPE_CHECKING:
    from bot_session.storage import Record, Storage, Version

__all__ = ["WatchedStorage"]

T = TypeVar("T")


class WatchedStorage(StorageWrapper):
    """
    Passes calls on and keeps them: for tests of what a bot does to its storage.

    Args:
        inner: What to watch; if None, a new `MemoryStorage`.

    Attributes:
        calls: What was asked, as ``(operation, key)``: reads, writes, deletes and touches.
        down: Raise `UnavailableError` instead of passing calls on.
        gate: Calls wait until it is set, as it is at first.
    """

    def __init__(self, inner: Storage | None = None) -> None:
        super().__init__(inner or MemoryStorage())
        self.calls: list[tuple[str, str]] = []
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()
        self._news = asyncio.Event()

    async def read(self, key: str) -> Record | None:
        await self._asked("read", key)
        return self._did(await super().read(key))

    async def write(self, key: str, value: str, **options: Any) -> Version:
        await self._asked("write", key)
        return self._did(await super().write(key, value, **options))

    async def delete(self, key: str, **options: Any) -> bool:
        await self._asked("delete", key)
        return self._did(await super().delete(key, **options))

    async def touch(self, key: str, ttl: float | None) -> bool:
        await self._asked("touch", key)
        return self._did(await super().touch(key, ttl))

    async def stored(self, key: str) -> str | None:
        """Return what is stored, without its being kept as a call."""
        record = await self.inner.read(key)
        return None if record is None else record.value

    async def store(self, key: str, value: str, **options: Any) -> None:
        """Store a document, without its being kept as a call."""
        await self.inner.write(key, value, **options)

    async def until_stored(self, key: str, value: str | None, patience: float = 10.0) -> None:
        """Wait until this is what is stored under ``key``; None is nothing."""
        try:
            async with asyncio.timeout(patience):
                while await self.stored(key) != value:
                    await self._news.wait()
        except TimeoutError:
            now = await self.stored(key)
            raise AssertionError(f"under {key!r} there is {now!r}, not {value!r}; calls: {self.calls}") from None

    async def _asked(self, operation: str, key: str) -> None:
        self.calls.append((operation, key))
        await asyncio.sleep(0)  # As any real storage, give others a turn.
        await self.gate.wait()
        if self.down:
            raise UnavailableError("down", operation=operation, key=key) from ConnectionError("no route")

    def _did(self, result: T) -> T:
        self._news.set()
        self._news = asyncio.Event()
        return result
