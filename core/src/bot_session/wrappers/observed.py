"""Metrics: an event for every operation of a storage."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec

from bot_session.errors import ConflictError
from bot_session.storage import ANY, Match, Record, Storage, Version, Write, WriteResult, WrittenAndRead

from .base import StorageWrapper, closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

__all__ = ["ObservedStorage", "Observer", "StorageEvent"]

T = TypeVar("T")

_logger = logging.getLogger("bot_session")


class StorageEvent(msgspec.Struct, kw_only=True):
    """
    An operation that is over. It holds no key and no document: those are users' data.

    Attributes:
        operation: The storage method, for instance ``"read_many"``.
        keys: How many keys it was about; of an iteration, how many came.
        seconds: How long the storage took; of an iteration, without the time that its reader took.
        found: How many of the keys there were, so that ``keys - found`` are misses; of `Storage.purge` how many
            documents had expired. None where the operation does not tell: a write, or an error.
        conflicts: How many matches failed.
        error: The class of what was raised, None if nothing was. A cancelled call has `asyncio.CancelledError`.
    """

    operation: str
    keys: int = 0
    seconds: float = 0.0
    found: int | None = None
    conflicts: int = 0
    error: type[BaseException] | None = None


Observer: TypeAlias = Callable[[StorageEvent], object]
"""Called at the end of every operation, in the event loop: it should count and return, and not wait for anything."""


class ObservedStorage(StorageWrapper):
    """
    Tells an observer of every operation: how long it took, hit or miss, which error.

    The observer cannot break an operation: what it raises is logged by the logger ``bot_session``, as an error.

    Args:
        inner: The storage to observe.
        observer: Is called with a `StorageEvent`.
        clock: Returns seconds that only grow.
    """

    def __init__(self, inner: Storage, observer: Observer, *, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(inner)
        self._observer = observer
        self._clock = clock

    async def read(self, key: str) -> Record | None:
        with self._observed("read", 1) as event:
            record = await self._inner.read(key)
            event.found = int(record is not None)
            return record

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        with self._observed("write", 1):
            return await self._inner.write(key, value, ttl=ttl, match=match)

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        with self._observed("delete", 1) as event:
            existed = await self._inner.delete(key, match=match)
            event.found = int(existed)
            return existed

    async def has(self, key: str) -> bool:
        with self._observed("has", 1) as event:
            existed = await self._inner.has(key)
            event.found = int(existed)
            return existed

    async def touch(self, key: str, ttl: float | None) -> bool:
        with self._observed("touch", 1) as event:
            existed = await self._inner.touch(key, ttl)
            event.found = int(existed)
            return existed

    def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        return self._stream("read_all_keys", self._inner.read_all_keys(prefix, batch_size=batch_size))

    def read_all_values(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        return self._stream("read_all_values", self._inner.read_all_values(prefix, batch_size=batch_size))

    def read_all_entries(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[tuple[str, Record]]:
        return self._stream("read_all_entries", self._inner.read_all_entries(prefix, batch_size=batch_size))

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        with self._observed("read_many", len(keys)) as event:
            records = await self._inner.read_many(keys)
            event.found = len(records)
            return records

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        with self._observed("write_many", len(writes)) as event:
            results = await self._inner.write_many(writes)
            event.conflicts = sum(isinstance(result, ConflictError) for result in results)
            return results

    async def write_then_read(self, rounds: Sequence[Sequence[Write]], keys: Sequence[str] = ()) -> WrittenAndRead:
        with self._observed("write_then_read", sum(map(len, rounds)) + len(keys)) as event:
            results, found = await self._inner.write_then_read(rounds, keys)
            event.conflicts = sum(isinstance(result, ConflictError) for result in results)
            return results, found

    async def delete_many(self, keys: Iterable[str]) -> int:
        keys = list(keys)
        with self._observed("delete_many", len(keys)) as event:
            event.found = await self._inner.delete_many(keys)
            return event.found

    async def purge(self) -> int:
        with self._observed("purge") as event:
            event.found = await self._inner.purge()
            return event.found

    async def check(self) -> None:
        with self._observed("check"):
            await self._inner.check()

    async def open(self) -> None:
        with self._observed("open"):
            await self._inner.open()

    async def close(self) -> None:
        with self._observed("close"):
            await self._inner.close()

    @contextmanager
    def _observed(self, operation: str, keys: int = 0) -> Iterator[StorageEvent]:
        """Time the body, and tell the observer of the event, to which the body adds what it found."""
        event = StorageEvent(operation=operation, keys=keys)
        started = self._clock()
        try:
            yield event
        except BaseException as error:
            event.error = type(error)
            event.conflicts = int(isinstance(error, ConflictError))
            raise
        finally:
            event.seconds = self._clock() - started
            self._tell(event)

    async def _stream(self, operation: str, items: AsyncIterator[T]) -> AsyncIterator[T]:
        event = StorageEvent(operation=operation)
        try:
            async with closing(items):
                while True:
                    started = self._clock()
                    try:
                        item = await anext(items)
                    finally:
                        event.seconds += self._clock() - started
                    event.keys += 1
                    yield item
        except StopAsyncIteration:
            event.found = event.keys
        except GeneratorExit:
            event.found = event.keys  # Its reader had enough.
            raise
        except BaseException as error:
            event.error = type(error)
            raise
        finally:
            self._tell(event)

    def _tell(self, event: StorageEvent) -> None:
        try:
            self._observer(event)
        except Exception:  # whatever metrics do, the bot goes on
            _logger.exception("the observer of %r failed at %s", self._inner, event.operation)
