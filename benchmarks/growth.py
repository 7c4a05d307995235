"""What a session costs as more and more of them are stored: time for each should stay, memory should stay flat."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

import msgspec
import psutil  # type: ignore[import-untyped]
from bot_session import Sessions, Write, open_storage

from .rounds import place, url_for
from .workload import InProcess, Profile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from bot_session import Storage

__all__ = ["Size", "grow"]

_BATCH = 5_000
_UPDATES = 5_000
_MOMENT = 0.05


class Size(msgspec.Struct):
    """
    Costs at a number of stored sessions: seconds for each session, bytes of this process in all.

    Attributes:
        storage: Which.
        stored: How many.
        update: Read, change and save one of them, 100 in flight.
        keys: List its key.
        entries: List it, decoded.
        purge: Free its space when it has expired, as one of as many; None where the server does that by itself.
        listing_memory: By how much this process grew while it listed them all.
        idle_memory: By how much it grew when they were stored: what sessions that nobody uses cost it.
    """

    storage: str
    stored: int
    update: float
    keys: float
    entries: float
    purge: float | None
    listing_memory: int
    idle_memory: int


def grow(storage: str, sizes: list[int]) -> Iterator[Size]:
    """Measure a storage at each size."""
    for stored in sizes:
        with place(storage) as (where, _):
            yield asyncio.run(_measure(storage, url_for(storage, where), stored))


async def _measure(name: str, url: str, stored: int) -> Size:
    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Profile)

        async def change(key: str) -> None:
            async with sessions.open(key) as session:
                session.data.count += 1

        us = InProcess("bot-session", {"change": change})
        await us.run("change", ["first"], 1)
        empty = _memory()
        await _fill(storage, stored)
        filled = _memory()
        cost = await us.run("change", [str(n * stored // _UPDATES) for n in range(_UPDATES)], 100)
        opened = _memory()
        keys = await _seconds_each(sessions.keys())
        entries = await _seconds_each(sessions.entries())
        listed = _memory()
        return Size(
            storage=name,
            stored=stored,
            update=cost.seconds / cost.updates,
            keys=keys,
            entries=entries,
            purge=await _purge(storage, stored),
            listing_memory=max(0, listed - opened),
            idle_memory=max(0, filled - empty),
        )


async def _fill(storage: Storage, stored: int, ttl: float | None = None) -> None:
    for start in range(0, stored, _BATCH):
        numbers = range(start, min(start + _BATCH, stored))
        documents = ((str(number), msgspec.json.encode(Profile(number)).decode()) for number in numbers)
        await storage.write_many([Write(key, document, ttl) for key, document in documents])


async def _seconds_each(items: AsyncIterator[object]) -> float:
    began, count = time.perf_counter(), 0
    async for _ in items:
        count += 1
    return (time.perf_counter() - began) / count


async def _purge(storage: Storage, stored: int) -> float | None:
    if storage.capabilities.native_expiry:
        return None
    await _fill(storage, stored, _MOMENT)
    await asyncio.sleep(2 * _MOMENT)
    began = time.perf_counter()
    purged = await storage.purge()
    return (time.perf_counter() - began) / purged


def _memory() -> int:
    """Bytes of memory that this process has to itself."""
    gc.collect()
    return int(psutil.Process().memory_full_info().uss)
