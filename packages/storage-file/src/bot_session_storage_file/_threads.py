"""From the event loop to worker threads, and back."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._trip import Trip

__all__ = ["HELPERS", "Threads"]

_T = TypeVar("_T")

_THREADS: Final = 8

HELPERS: Final = 8
"""Threads that make the files of a large batch, and wait for the disk."""


class Threads:
    """
    The threads of a storage, from when it is opened to when it is closed.

    They are not a `ThreadPoolExecutor`, whose way there and back takes longer than reading a file.

    Args:
        patience: Seconds to wait for a thread whose caller was cancelled.

    Attributes:
        helpers: More threads, for those that do the work.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._process = os.getpid()
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._idle: deque[None] = deque()  # One for each thread that has nothing to do, or a few more if all are there.
        self._threads: list[threading.Thread] = []
        self.helpers = ThreadPoolExecutor(HELPERS, "bot-session-file-helper")
        weakref.finalize(self, _dismiss, self._jobs, self._threads).atexit = False

    @property
    def are_here(self) -> bool:
        """Whether they are in this process: one that was forked has none of the threads of the other."""
        return os.getpid() == self._process

    async def run(self, trip: Trip, work: Callable[[], _T]) -> _T:
        """Do work in a thread. Whoever is cancelled meanwhile goes on when it is over, or will never begin."""
        try:
            self._idle.pop()
        except IndexError:
            self._hire()
        job = _Job(work)
        self._jobs.put(job)
        try:
            return await job.result
        except asyncio.CancelledError:
            trip.abandoned = job.is_abandoned = True
            if not job.claim():
                await self._end_of(job)
            raise

    async def close(self, *, wait: bool = True) -> None:
        """End the threads; with ``wait``, once what is being done in them is finished."""
        if not self.are_here:
            return
        _dismiss(self._jobs, self._threads)
        if wait:
            for thread in self._threads:
                await asyncio.to_thread(thread.join)
            await asyncio.to_thread(self.helpers.shutdown)
        else:
            self.helpers.shutdown(wait=False)

    def _hire(self) -> None:
        if len(self._threads) >= _THREADS:
            return
        # A program that ends without closing should end, and not wait for a disk that hangs.
        thread = threading.Thread(
            target=_serve, args=(self._jobs, self._idle), name=f"bot-session-file-{len(self._threads)}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            if not self._threads:
                raise OSError(errno.EAGAIN, f"no thread can be started: {error}") from error
        else:
            self._threads.append(thread)

    async def _end_of(self, job: _Job[Any]) -> None:
        """
        Wait until a thread is done with what it has begun: else it might write after whoever comes next has read.

        A hung disk holds nobody for longer than ``patience``.
        """
        until = time.monotonic() + self._patience
        while not job.is_over and (left := until - time.monotonic()) > 0:
            job.result = asyncio.get_running_loop().create_future()
            with suppress(asyncio.CancelledError):  # That is what follows anyway.
                await asyncio.wait((job.result,), timeout=left)


class _Job(Generic[_T]):
    """
    Work on its way through a thread.

    Args:
        work: What to do.

    Attributes:
        result: What comes of it, for who waits in the event loop.
        is_abandoned: Whether nobody wants to know what comes of it, only when.
        is_over: Whether that has come.
    """

    __slots__ = ("_claimed", "_error", "_loop", "_outcome", "_work", "is_abandoned", "is_over", "result")

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._claimed = threading.Lock()
        self._outcome: Any = None
        self._error: BaseException | None = None
        self.result: asyncio.Future[_T] = self._loop.create_future()
        self.is_abandoned = self.is_over = False

    def claim(self) -> bool:
        """Say whether it may be done, or called off: to the first that asks."""
        return self._claimed.acquire(blocking=False)

    def do(self) -> None:
        """Do it, in a thread, unless it was called off."""
        if self.claim():
            try:
                self._outcome = self._work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
                self._error = error

    def report(self) -> None:
        """Tell the event loop that it is over."""
        with suppress(RuntimeError):  # It was closed: nobody waits.
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self.is_over = True
        if self.result.done():
            return
        if self._error is None or self.is_abandoned:
            self.result.set_result(self._outcome)
        else:
            self.result.set_exception(self._error)


def _serve(jobs: SimpleQueue[_Job[Any] | None], idle: deque[None]) -> None:
    """Do one job after the other."""
    while (job := jobs.get()) is not None:
        job.do()
        idle.append(None)  # Before that: whoever hears that it is over may have more to do.
        job.report()
        del job  # And what it holds: the next one may be long in coming.


def _dismiss(jobs: SimpleQueue[_Job[Any] | None], threads: list[threading.Thread]) -> None:
    """Let threads end when they have done what they were given."""
    for _ in threads:
        jobs.put(None)
