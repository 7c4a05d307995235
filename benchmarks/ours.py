"""Ours: what a bot author writes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bot_session import Sessions, open_storage

from .workload import InProcess, Profile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["contender"]


@asynccontextmanager
async def contender(url: str, prefix: str = "") -> AsyncIterator[InProcess]:
    """`Sessions` as they come, on the storage of a URL; with a prefix where the bare driver's keys are as well."""
    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Profile, prefix=prefix)

        async def change(key: str) -> None:
            async with sessions.open(key) as session:
                session.data.count += 1

        async def look(key: str) -> Profile:
            async with sessions.open(key) as session:
                return session.data

        async def lazy(key: str) -> None:
            async with sessions.open(key, lazy=True):
                pass

        yield InProcess("bot-session", {"change": change, "look": look, "new": change, "lazy": lazy})
