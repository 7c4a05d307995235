"""From the event loop to worker threads, and back."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._trip import Trip

__all__ = ["HELPERS", "Threads"]

_T = TypeVar("_T")

_THREADS: Final = 8

HELPERS: Final = 8
"""Threads that wait for the disk."""


class Threads:
    """
    The threads of a storage, from when it is opened to when it is closed.

    Args:
        patience: Seconds to wait for a thread whose caller was cancelled.

    Attributes:
        helpers: More threads, for those that do the work.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(_THREADS, "bot-session-file")
        self.helpers = ThreadPoolExecutor(HELPERS, "bot-session-file-sync")

    @property
    def are_here(self) -> bool:
        """Whether they are in this process: one that was forked has none of the threads of the other."""
        return os.getpid() == self._process

    async def run(self, trip: Trip, work: Callable[[], _T]) -> _T:
        """Do work in a thread. Whoever is cancelled meanwhile goes on when it is over, or will never begin."""
        job = self._pool.submit(work)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            trip.abandoned = True
            if not job.cancel():
                await self._end_of(job)
            raise

    async def close(self, *, wait: bool = True) -> None:
        """End the threads; with ``wait``, once what is being done in them is finished."""
        if not self.are_here:
            return
        for pool in (self._pool, self.helpers):
            if wait:
                await asyncio.to_thread(pool.shutdown)
            else:
                pool.shutdown(wait=False)

    async def _end_of(self, job: Future[Any]) -> None:
        """
        Wait until a thread is done with what it has begun: else it might write after whoever comes next has read.

        A hung disk holds nobody for longer than ``patience``.
        """
        ended = asyncio.wrap_future(job)
        ended.add_done_callback(_acknowledge)
        until = time.monotonic() + self._patience
        while not ended.done() and (left := until - time.monotonic()) > 0:
            with suppress(asyncio.CancelledError):  # That is what follows anyway.
                await asyncio.wait((ended,), timeout=left)


def _acknowledge(ended: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody is left to be told, or the loop reports it as forgotten."""
    if not ended.cancelled():
        ended.exception()
