"""Locks by key, in one process: first come, first served, and nothing is left when idle."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .errors import LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

__all__ = ["KeyLocks"]


class KeyLocks:
    """
    A lock for every key, for tasks of one event loop.

    A key takes memory only while it is held. Its lock passes straight from the holder to whoever waited longest, so
    that nobody can slip in between. It is not re-entrant.
    """

    def __init__(self) -> None:
        # The keys that are held, each with those who wait for it; None stands for nobody, the usual case.
        self._held: dict[str, deque[asyncio.Future[None]] | None] = {}

    def __len__(self) -> int:
        """The number of keys that are held: 0 when idle."""
        return len(self._held)

    def __contains__(self, key: str) -> bool:
        """Whether somebody holds the lock."""
        return key in self._held

    def try_acquire(self, key: str) -> bool:
        """Take the lock if nobody has it, and say whether that was so."""
        if key in self._held:
            return False
        self._held[key] = None
        return True

    async def acquire(self, key: str, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """
        Take the lock, waiting behind those who came before.

        Args:
            key: Whose lock.
            timeout: Seconds to wait at most; None is for ever.

        Raises:
            LockTimeoutError: It took longer.
        """
        if self.try_acquire(key):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._held[key]
        if waiters is None:
            waiters = self._held[key] = deque()
        waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self.release(key)  # It was handed over in the moment of giving up.
            elif waiter in waiters:  # If not, `release` has passed over it already.
                waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                raise LockTimeoutError(
                    f"session {key!r} was in use by another update for more than {timeout:g} s"
                ) from None
            raise

    def release(self, key: str) -> None:
        """Hand the lock to whoever waited longest, or forget it."""
        waiters = self._held[key]
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        del self._held[key]

    async def acquire_all(self, keys: Iterable[str], timeout: float | None = None) -> None:  # noqa: ASYNC109
        """
        Take several locks, in one order everywhere, so that nobody waits in a circle.

        Raises:
            LockTimeoutError: One of them took longer than ``timeout`` seconds. None is held.
        """
        taken: list[str] = []
        try:
            for key in sorted(set(keys)):
                await self.acquire(key, timeout)
                taken.append(key)
        except BaseException:
            self.release_all(taken)
            raise

    def release_all(self, keys: Iterable[str]) -> None:
        """`release` several locks, each of them once."""
        for key in set(keys):
            self.release(key)

    @asynccontextmanager
    async def holding(self, *keys: str, timeout: float | None = None) -> AsyncIterator[None]:  # noqa: ASYNC109
        """Hold several locks in the body. Raises as `acquire_all` does."""
        await self.acquire_all(keys, timeout)
        try:
            yield
        finally:
            self.release_all(keys)
