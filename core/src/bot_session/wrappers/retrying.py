"""Short outages bridged: a server that restarts, a connection that was cut."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from bot_session.errors import UnavailableError
from bot_session.storage import ANY, Match, Record, Storage, Version, Write, WriteResult, WrittenAndRead

from .base import StorageWrapper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

__all__ = ["RetryingStorage"]

P = ParamSpec("P")
T = TypeVar("T")

BUDGET: Final = 2.0
"""Seconds after which nothing is tried again: an operation that took as long as its timeout is not doubled."""

FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5

logger = logging.getLogger("bot_session.retrying")


class RetryingStorage(StorageWrapper):
    """
    Tries again what failed with `UnavailableError`, if that is safe. `Sessions` puts it around its storage by itself.

    Reading is always safe, and so is `touch`, which done twice is as done once. Writing is safe only when the error says
    that nothing has happened; a write whose outcome is unknown is never repeated, since another writer may have written
    the same value meanwhile. A pause is as long as all before it, from hundredths of a second to half a second, and
    nothing is tried again after ``budget`` seconds. Iteration, which cannot be resumed, passes through.

    Args:
        inner: The storage to wrap.
        budget: Seconds from the first try in which a next one may begin.
    """

    def __init__(self, inner: Storage, *, budget: float = BUDGET) -> None:
        super().__init__(inner)
        self._budget = budget

    # The two that every update needs are written out: that is a coroutine less for each.

    async def read(self, key: str) -> Record | None:
        started = time.monotonic()
        while True:
            try:
                return await self._inner.read(key)
            except UnavailableError as error:
                await self._pause(error, started, safe=True)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        started = time.monotonic()
        while True:
            try:
                return await self._inner.write(key, value, ttl=ttl, match=match)
            except UnavailableError as error:
                await self._pause(error, started, safe=False)

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        return await self._persist(True, self._inner.read_many, keys)

    async def has(self, key: str) -> bool:
        return await self._persist(True, self._inner.has, key)

    async def touch(self, key: str, ttl: float | None) -> bool:
        return await self._persist(True, self._inner.touch, key, ttl)

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        return await self._persist(False, self._inner.delete, key, match=match)

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        return await self._persist(False, self._inner.write_many, writes)

    async def write_then_read(self, rounds: Sequence[Sequence[Write]], keys: Sequence[str] = ()) -> WrittenAndRead:
        return await self._persist(False, self._inner.write_then_read, rounds, keys)

    async def delete_many(self, keys: Iterable[str]) -> int:
        return await self._persist(False, self._inner.delete_many, list(keys))

    async def _persist(self, safe: bool, attempt: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Try until it works, or `_pause` raises."""
        started = time.monotonic()
        while True:
            try:
                return await attempt(*args, **kwargs)
            except UnavailableError as error:
                await self._pause(error, started, safe=safe)

    async def _pause(self, error: UnavailableError, started: float, *, safe: bool) -> None:
        """Wait before the next try; or raise ``error``, if the time is over, or it forbids what is not ``safe``."""
        passed = time.monotonic() - started
        pause = min(max(FIRST_PAUSE, passed), LONGEST_PAUSE)  # as long as all before it: they double
        if passed + pause > self._budget or (error.outcome_unknown and not safe):
            raise error
        logger.info("trying again in %.2f s at most: %s", pause, error)
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
