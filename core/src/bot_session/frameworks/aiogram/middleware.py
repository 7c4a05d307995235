"""
The middleware that gives aiogram's handlers their sessions.

It goes on ``dispatcher.update.outer_middleware``: it runs once for every update of every type, before the filters,
which may ask for ``session`` too. Errors of the storage go where aiogram's errors go.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from aiogram import BaseMiddleware
from aiogram.dispatcher.event.bases import CancelHandler, SkipHandler
from aiogram.types import Update

from bot_session.errors import ConfigurationError
from bot_session.frameworks.shared import Running, close_storages, follow_migration
from bot_session.keys import Origin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Self

    from aiogram import Bot, Dispatcher
    from aiogram.dispatcher.event.bases import MiddlewareType
    from aiogram.types import TelegramObject

    from bot_session.keys import KeyFunction
    from bot_session.multi import MultiSessions
    from bot_session.sessions import Sessions

__all__ = ["SessionMiddleware", "origin_of"]

CONTROL_FLOW: Final = (SkipHandler, CancelHandler)
"""aiogram raises these to steer: the session is saved all the same."""

logger = logging.getLogger("bot_session.aiogram")


class SessionMiddleware(BaseMiddleware):
    """
    Gives every handler the session of its update.

    An update without a session key, such as an inline query under the default `by_chat`, gets a session that raises
    `SessionKeyError` when it is touched. Error handlers get the session closed: what the handler did before it raised
    is not saved.

    Args:
        sessions: One kind of session, or several.
        key: In place of the key function of ``sessions``.
        name: The handlers' argument. ``session`` is also what many bots call their database session.
        lazy: Read the session when the handler asks for it, with ``await session.get()``.
        drain_timeout: Seconds that a shutdown waits for handlers that are still running.
    """

    def __init__(
        self,
        sessions: Sessions[Any] | MultiSessions,
        *,
        key: KeyFunction | None = None,
        name: str = "session",
        lazy: bool = False,
        drain_timeout: float = 30.0,
    ) -> None:
        self.sessions = sessions
        self.key = key
        self.name = name
        self.lazy = lazy
        self.drain_timeout = drain_timeout
        self._running = Running()

    def setup(self, dispatcher: Dispatcher, *, close_storage: bool = True) -> Self:
        """
        Install on a dispatcher.

        At shutdown, aiogram does not wait for updates that are still being handled; this does, before anything is
        closed.

        Args:
            dispatcher: The dispatcher.
            close_storage: Close the storage at shutdown; it opens again by ``await storage.open()``.
        """
        outer = dispatcher.update.outer_middleware
        # Counted from the first one on: in aiogram's own, updates wait for their turn and for their state.
        middlewares: list[MiddlewareType[TelegramObject]] = [self._counted, *outer, self]
        for middleware in middlewares[1:-1]:
            outer.unregister(middleware)
        for middleware in middlewares:
            outer.register(middleware)
        dispatcher.shutdown.register(self.drain)
        # aiogram's own callback, which closes the FSM storage, stands first; handlers that still run may need it.
        dispatcher.shutdown.handlers.insert(0, dispatcher.shutdown.handlers.pop())
        if close_storage:
            dispatcher.shutdown.register(self._close_storages)
        return self

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        if self.name in data:
            raise ConfigurationError(
                f"the handler argument {self.name!r} is taken already, perhaps by a database session: pass another name="
            )
        origin = origin_of(event, data)
        if isinstance(event, Update) and event.message is not None:
            origin = await follow_migration(self.sessions, self.key, origin, event.message, logger)
        opening = await self.sessions.open_for(origin, key=self.key, lazy=self.lazy, passthrough=CONTROL_FLOW)
        async with opening as session:
            data[self.name] = session
            return await handler(event, data)

    async def drain(self) -> None:
        """
        Wait until the dispatcher handles no update any more, for `drain_timeout` seconds at most; then warn and go on.

        `setup` sees to it that updates are counted, and that this is called.
        """
        await self._running.drain(self.drain_timeout, logger)

    async def _counted(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        """Stand before all other middlewares, and count the update until they are through with it."""
        with self._running.counted():
            return await handler(event, data)

    async def _close_storages(self) -> None:
        await close_storages(self.sessions)


def origin_of(event: TelegramObject, data: dict[str, Any]) -> Origin:
    """
    Say where an update comes from, by the context that aiogram has worked out.

    Args:
        event: The update, or whatever a middleware of one type of update is given.
        data: What a middleware is given beside it.
    """
    context = data["event_context"]
    bot: Bot | None = data.get("bot")
    chat_id = context.chat_id
    if chat_id is None and isinstance(event, Update) and event.business_connection is not None:
        chat_id = event.business_connection.user_chat_id  # As in grammY: the owner's private chat with the bot.
    return Origin(
        chat_id=chat_id,
        user_id=context.user_id,
        thread_id=context.thread_id,
        business_connection_id=context.business_connection_id,
        bot_id=None if bot is None else bot.id,
        update=event,
    )
