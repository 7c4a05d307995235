"""From the event loop to worker threads, and back; and from one of them to others, that help it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ._crew import Crew, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._trip import Trip

__all__ = ["Threads"]

_A = TypeVar("_A")
_T = TypeVar("_T")

_CALLS: Final = 8
"""Calls that are under way at once."""

_HELPERS: Final = 7
"""More threads, that make the files of a large batch, and wait for the disk."""


_MOMENT: Final = 0.002


class Threads:
    """
    The threads of a storage, from when it is opened to when it is closed.

    Args:
        patience: Seconds to wait for a thread whose caller was cancelled, and when closing.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._process = os.getpid()
        self._crew = Crew("bot-session-file", _CALLS)
        self._helpers = Crew("bot-session-file-helper", _HELPERS)

    @property
    def are_here(self) -> bool:
        """Whether they are in this process: one that was forked has none of the threads of the other."""
        return os.getpid() == self._process

    async def run(self, trip: Trip, work: Callable[[], _T]) -> _T:
        """Do work in a thread. Whoever is cancelled meanwhile goes on when it is over, or will never begin."""
        call = _Call(work)
        self._crew.give(call)
        try:
            return await call.result
        except asyncio.CancelledError:
            trip.abandoned = call.is_abandoned = True
            if not call.call_off():
                await self._end_of(call)
            raise

    def share(self, step: Callable[[_A], _T], items: Sequence[_A], *, worth: int = 1) -> list[_T]:
        """
        Do a step with each item, in this thread and in others, as far as they are free: the disk can do several at once.

        Args:
            step: What to do. What it raises is raised here, once nobody is at any of them.
            items: With what.
            worth: For how many of them it takes a thread.

        Returns:
            What came of each.
        """
        helpers = min(_HELPERS, len(items) // worth - 1)
        if helpers < 1:
            return [step(item) for item in items]
        outcomes: list[Any] = [None] * len(items)
        left = deque(enumerate(items))

        def work() -> None:
            while left:
                try:
                    position, item = left.popleft()
                except IndexError:  # Another was faster.
                    return
                outcomes[position] = step(item)

        parts = [_Part(work) for _ in range(helpers)]
        with suppress(OSError):  # Without a thread to be had it takes longer.
            for part in parts:
                self._helpers.give(part)
        try:
            work()
        finally:
            for part in parts:
                part.end()
        for part in parts:
            if part.error is not None:
                raise part.error
        return outcomes

    async def close(self, *, wait: bool = True) -> None:
        """End the threads; with ``wait``, once what is being done in them is finished, unless the disk hangs."""
        if not self.are_here:
            return
        until = time.monotonic() + (self._patience if wait else 0.0)
        for crew in (
            self._crew,
            self._helpers,
        ):  # In this order: a batch that is being written has its helpers to the end.
            crew.dismiss()
            # Without a thread to wait in: there may be none to be had.
            while crew.is_there and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(_MOMENT)

    async def _end_of(self, call: _Call[Any]) -> None:
        """
        Wait until a thread is done with what it has begun: else it might write after whoever comes next has read.

        A hung disk holds nobody for longer than ``patience``.
        """
        until = time.monotonic() + self._patience
        while not call.is_over and (left := until - time.monotonic()) > 0:
            call.result = asyncio.get_running_loop().create_future()
            with suppress(asyncio.CancelledError):  # That is what follows anyway.
                await asyncio.wait((call.result,), timeout=left)


class _Call(Job[_T]):
    """
    What somebody in an event loop waits for.

    Attributes:
        result: What comes of it.
        is_abandoned: Whether nobody wants to know what comes of it, only when.
        is_over: Whether that has come.
    """

    __slots__ = ("_loop", "is_abandoned", "is_over", "result")

    def __init__(self, work: Callable[[], _T]) -> None:
        super().__init__(work)
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[_T] = self._loop.create_future()
        self.is_abandoned = self.is_over = False

    def report(self) -> None:
        with suppress(RuntimeError):  # The event loop was closed: nobody waits.
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self.is_over = True
        if self.result.done():
            return
        if self.error is None or self.is_abandoned:
            self.result.set_result(self.outcome)
        else:
            self.result.set_exception(self.error)


class _Part(Job[None]):
    """A helper's part in what another thread does."""

    __slots__ = ("_over",)

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(work)
        self._over = threading.Event()

    def report(self) -> None:
        self._over.set()

    def end(self) -> None:
        """Call it off, or wait for its end if it has begun."""
        if not self.call_off():
            self._over.wait()
