"""What is under way in a storage, for whose end closing waits: for adapters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["UnderWay"]


class UnderWay:
    """Counts what is under way: ``with under_way:`` is such a piece of work, also inside another."""

    def __init__(self) -> None:
        self._count = 0
        self._all_done: asyncio.Event | None = None
        self._closing: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count and self._all_done is not None:
            self._all_done.set()

    async def close(self, release: Callable[[], Awaitable[None]]) -> None:
        """
        Wait for the end of what is under way, then release what it used.

        Both happen also if the caller is cancelled meanwhile: nobody closes a second time.
        """
        self._closing = asyncio.get_running_loop().create_task(self._close(release))
        await asyncio.shield(self._closing)

    async def closed(self) -> None:
        """Wait for the end of a closing whose caller may have left: who opens again must not lose what is new to it."""
        if self._closing is not None and not self._closing.done():
            await asyncio.wait([self._closing])

    async def _close(self, release: Callable[[], Awaitable[None]]) -> None:
        try:
            if self._count:
                self._all_done = asyncio.Event()
                await self._all_done.wait()
        finally:
            self._all_done = None
            await release()
