"""How many commands are under way at a time, and how they come to their end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["Gate", "NotSentError", "to_its_end"]


class NotSentError(Exception):
    """No connection was to be had, for the reason in ``__cause__``: the command certainly did not arrive."""


class Gate:
    """
    Lets in so many at a time, in order; the others wait, but not for ever.

    redis-py's pools raise when more connections are wanted than they may make, and a bot wants hundreds at a time.
    """

    def __init__(self, limit: int, timeout: float) -> None:
        self._limit = limit
        self._slots = asyncio.Semaphore(limit)
        self._timeout = timeout
        self._present = 0
        self._empty: asyncio.Event | None = None

    async def __aenter__(self) -> None:
        self._present += 1
        if not self._slots.locked():
            await self._slots.acquire()  # without waiting
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except BaseException as error:
            self._leave()
            if isinstance(error, TimeoutError):
                raise NotSentError from error
            raise

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()
        self._leave()

    def _leave(self) -> None:
        self._present -= 1
        if self._empty is not None and not self._present:
            self._empty.set()
            self._empty = None

    async def close(self) -> None:
        """
        Wait until those who are in, and those who wait to be let in, are out: their connections can be closed.

        Who comes back at once, since one command was not enough, is waited for as well.
        """
        while self._present:
            self._empty = self._empty or asyncio.Event()
            await self._empty.wait()
        self._slots = asyncio.Semaphore(self._limit)  # it may be opened again in another loop


async def to_its_end(work: Coroutine[Any, Any, Any]) -> Any:
    """
    Wait for ``work`` even if we are cancelled meanwhile, and only then be cancelled.

    For a cluster client that learns its nodes: other tasks wait for the same, and need not begin anew. And for what is
    closed: nobody would do it again.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: nobody is left to hear of it
        raise
