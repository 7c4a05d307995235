"""What the frameworks' hooks have in common."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bot_session.errors import ConflictError
from bot_session.keys import key_of
from bot_session.multi import MultiSessions

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator
    from typing import Self

    from bot_session.keys import KeyFunction, Origin
    from bot_session.multi import MultiOpening
    from bot_session.sessions import NoOpening, Opening, Sessions

__all__ = ["Running", "Scope", "close_storages", "follow_migration", "open_storages"]


class Scope:
    """
    The session of one update, for frameworks that keep what a handler raised to themselves.

    `begin` and `end` it in the task that runs the handlers; the first `end` decides.

    Args:
        opening: What ``open_for`` returned.

    Attributes:
        session: What handlers are given.
    """

    session: Any

    def __init__(self, opening: Opening[Any] | NoOpening | MultiOpening) -> None:
        self._opening = opening
        self._over = False

    async def begin(self) -> Self:
        """Load the session."""
        self.session = await self._opening.__aenter__()
        return self

    async def end(self, error: BaseException | None = None) -> None:
        """Save the session, or, because of an error, close it as it is: whoever handles that may open it again."""
        if not self._over:
            self._over = True
            await self._opening.__aexit__(None if error is None else type(error), error, None)


class Running:
    """Counts the updates that are being handled, so that a shutdown can wait for them."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one more for the time of the block."""
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    async def drain(self, timeout: float, logger: logging.Logger) -> None:  # noqa: ASYNC109 - it warns and goes on
        """Wait until there are none, for ``timeout`` seconds at most; then warn and go on."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(0)  # An update that has just arrived is counted now.
                while self._count:
                    await self._idle.wait()
                    await asyncio.sleep(0)  # An update that waited for this one starts now.
        except TimeoutError:
            logger.warning("shutting down while %d updates are still being handled: not saved", self._count)


async def follow_migration(
    sessions: Sessions[Any] | MultiSessions,
    key: KeyFunction | None,
    origin: Origin,
    message: Any,
    logger: logging.Logger,
) -> Origin:
    """
    When a message says that a group has become a supergroup, take its session along to the new chat id.

    Telegram says so twice, in the old chat and in the new one; whichever comes first moves it.

    Returns:
        Where the update comes from now.

    Raises:
        BotSessionError: As `Sessions.move`, except that a supergroup's own session stays.
    """
    if message.migrate_to_chat_id is not None:
        old, new = message.chat.id, message.migrate_to_chat_id
    elif message.migrate_from_chat_id is not None:
        old, new = message.migrate_from_chat_id, message.chat.id
    else:
        return origin
    before, after = replace(origin, chat_id=old), replace(origin, chat_id=new)
    for kind in _kinds(sessions):
        function = key or kind.key
        old_key, new_key = await key_of(function, before), await key_of(function, after)
        if old_key is None or new_key is None or old_key == new_key:
            continue
        try:
            if await kind.move(old_key, new_key):
                logger.info("session %s moved to %s: the group is a supergroup now", old_key, new_key)
        except ConflictError:
            if not await kind.has(new_key):  # Then it was the old session that others kept changing.
                raise
            logger.warning("session %s stays: the supergroup's session %s has begun already", old_key, new_key)
    return after


async def open_storages(sessions: Sessions[Any] | MultiSessions) -> None:
    """Open the storages of all kinds of session, again if they were closed."""
    for kind in _kinds(sessions):
        await kind.storage.open()


async def close_storages(sessions: Sessions[Any] | MultiSessions) -> None:
    """Close the storages of all kinds of session."""
    for kind in _kinds(sessions):
        await kind.storage.close()


def _kinds(sessions: Sessions[Any] | MultiSessions) -> list[Sessions[Any]]:
    return list(sessions.fragments.values()) if isinstance(sessions, MultiSessions) else [sessions]
