"""
pyTelegramBotAPI: a `SessionTeleBot` in place of `AsyncTeleBot`, and handlers that ask for ``session`` get it.

.. code-block:: python

    bot = SessionTeleBot(token, sessions=sessions)


    @bot.message_handler()
    async def count(message: Message, session: Session[Pizza]) -> None:
        session.data.count += 1

A handler of one parameter gets none, as ever; one with ``data`` finds it in there. `BotSessionStateStorage` keeps the
library's own states in any storage.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from bot_session.frameworks.shared import Running, Scope, close_storages, follow_migration, open_storages
from bot_session.keys import Origin
from bot_session.sessions import Sessions

try:
    from telebot.async_telebot import AsyncTeleBot
    from telebot.asyncio_handler_backends import BaseMiddleware
    from telebot.asyncio_storage import StateStorageBase
    from telebot.types import BusinessConnection, CallbackQuery, Message
except ImportError as error:
    raise ImportError(
        "bot_session.frameworks.telebot needs pyTelegramBotAPI and aiohttp: pip install 'bot-session[telebot]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    from telebot.types import Update

    from bot_session.keys import KeyFunction
    from bot_session.multi import MultiSessions
    from bot_session.storage import Storage

__all__ = ["BotSessionStateStorage", "SessionTeleBot", "origin_of"]

logger = logging.getLogger("bot_session.telebot")

_scope: ContextVar[Scope | None] = ContextVar("bot_session_telebot_scope", default=None)
"""That of the update whose handlers run."""


class SessionTeleBot(AsyncTeleBot):
    """
    An `AsyncTeleBot` that handles every update within its session.

    Updates of one session are handled one at a time, in order; `AsyncTeleBot` alone handles a batch all at once. If a
    handler raises, nothing is saved, and the session is closed before the ``exception_handler`` sees the error. Errors
    of the storage go to the ``exception_handler`` too.

    Args:
        token: The bot's.
        sessions: One kind of session, or several.
        session_key: In place of the key function of ``sessions``.
        session_name: The handlers' argument.
        lazy: Read the session when the handler asks for it, with ``await session.get()``.
        drain_timeout: Seconds that the end of polling waits for handlers that are still running.
        close_storage: Close the storage when polling, or ``run_webhooks``, has ended.
        options: Those of `AsyncTeleBot`.
    """

    def __init__(
        self,
        token: str,
        *,
        sessions: Sessions[Any] | MultiSessions,
        session_key: KeyFunction | None = None,
        session_name: str = "session",
        lazy: bool = False,
        drain_timeout: float = 30.0,
        close_storage: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(token, **options)
        self.sessions = sessions
        self.session_key = session_key
        self.session_name = session_name
        self.lazy = lazy
        self.drain_timeout = drain_timeout
        self.close_storage = close_storage
        self._updates = Running()

    async def process_new_updates(self, updates: list[Update]) -> None:
        # One by one: a batch would be handled type by type, so that a button could overtake the message before it.
        handle = super().process_new_updates
        with self._updates.counted():
            results = await asyncio.gather(*(handle([update]) for update in updates), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):  # A middleware's: those of handlers end before.
                raise result

    async def _run_middlewares_and_handlers(
        self, message: Any, handlers: Any, middlewares: Any, update_type: str
    ) -> None:
        # Overridden here, since here everything of one update runs in one task: a handler may open its session again.
        try:
            scope = await self._begin(message)
        except Exception as error:  # noqa: BLE001 - whatever a storage or a key function may raise
            await self._report(error)
            return
        token = _scope.set(scope)
        middlewares = [_Inject(self.session_name, scope.session), *(middlewares or ())]
        try:
            await super()._run_middlewares_and_handlers(message, handlers, middlewares, update_type)  # type: ignore[no-untyped-call]
        except BaseException as error:
            await scope.end(error)
            raise
        finally:
            _scope.reset(token)
        try:
            await scope.end()
        except Exception as error:  # noqa: BLE001 - likewise
            await self._report(error)

    async def _handle_exception(self, exception: Exception) -> bool:
        scope = _scope.get()
        if scope is not None:
            await scope.end(exception)
        return await super()._handle_exception(exception)

    async def _report(self, error: Exception) -> None:
        if not await self._handle_exception(error):
            logger.error("an update was not handled, or not saved: %s", error, exc_info=error)

    async def _begin(self, message: Any) -> Scope:
        origin = origin_of(message, self.bot_id)
        if isinstance(message, Message):
            origin = await follow_migration(self.sessions, self.session_key, origin, message, logger)
        return await Scope(await self.sessions.open_for(origin, key=self.session_key, lazy=self.lazy)).begin()

    # ------------------------------------------------------------------ beginning and end

    async def polling(self, *arguments: Any, **options: Any) -> None:
        async with self._storage():
            await super().polling(*arguments, **options)

    async def infinity_polling(self, *arguments: Any, **options: Any) -> None:
        async with self._storage():
            await super().infinity_polling(*arguments, **options)

    async def run_webhooks(self, *arguments: Any, **options: Any) -> None:
        async with self._storage():
            await super().run_webhooks(*arguments, **options)

    async def close_session(self) -> None:  # type: ignore[override]
        """Wait for handlers that are still running, then close the connection to Telegram, which they may need."""
        await self._updates.drain(self.drain_timeout, logger)
        await super().close_session()  # type: ignore[no-untyped-call]

    @asynccontextmanager
    async def _storage(self) -> AsyncIterator[None]:
        await open_storages(self.sessions)
        try:
            yield
        finally:
            if self.close_storage:
                await close_storages(self.sessions)


class _Inject(BaseMiddleware):
    """Stands before all other middlewares of one update, and gives them and the handlers the session."""

    def __init__(self, name: str, session: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = name
        self.session = session

    async def pre_process(self, message: Any, data: dict[str, Any]) -> None:  # noqa: ARG002
        data[self.name] = self.session

    async def post_process(self, message: Any, data: dict[str, Any], exception: Any) -> None:
        """Nothing: the session is saved when all middlewares are through."""


def origin_of(payload: Any, bot_id: int | None) -> Origin:
    """
    Say where an update comes from.

    Args:
        payload: What it carries, and handlers are given: a message, a callback query, …
        bot_id: The bot that received it.
    """
    if isinstance(payload, BusinessConnection):  # As in grammY: the owner's private chat with the bot.
        connection = payload.id
        return Origin(
            chat_id=payload.user_chat_id,
            user_id=payload.user.id,
            business_connection_id=connection,
            bot_id=bot_id,
            update=payload,
        )
    message = payload.message if isinstance(payload, CallbackQuery) else payload
    chat = getattr(message, "chat", None)
    user = getattr(payload, "from_user", None) or getattr(payload, "user", None)
    return Origin(
        chat_id=None if chat is None else chat.id,
        user_id=None if user is None else user.id,
        thread_id=message.message_thread_id if isinstance(message, Message) and message.is_topic_message else None,
        business_connection_id=getattr(message, "business_connection_id", None),
        bot_id=bot_id,
        update=payload,
    )


class BotSessionStateStorage(StateStorageBase):
    """
    Keeps the states of pyTelegramBotAPI, and the data that goes with them, in any storage.

    ``AsyncTeleBot(token, state_storage=BotSessionStateStorage(open_storage("sqlite:bot.db")))``. What it does is what
    the library's own storages do, except that changes never get lost: ``async with bot.retrieve_data(…)`` keeps others
    from the same data meanwhile, and saves nothing if its block raises. The caller closes the storage.

    Args:
        storage: Where.
        prefix: What keys begin with, as in the library's own storages.
        ttl: Seconds, or a `timedelta`, that a state lives after its last change. Default: None, for ever.
    """

    def __init__(self, storage: Storage, *, prefix: str = "telebot", ttl: float | timedelta | None = None) -> None:
        super().__init__()
        self.prefix = prefix
        self.sessions = Sessions[dict[str, Any]](storage, initial=dict, ttl=ttl)

    async def set_state(self, chat_id: Any, user_id: Any, state: Any, *place: Any, **named: Any) -> bool:
        def change(record: dict[str, Any]) -> None:
            record["state"] = getattr(state, "name", state)
            record.setdefault("data", {})

        await self.sessions.update(self._key(chat_id, user_id, *place, **named), change)
        return True

    async def get_state(self, chat_id: Any, user_id: Any, *place: Any, **named: Any) -> Any:
        return (await self.sessions.read(self._key(chat_id, user_id, *place, **named)) or {}).get("state")

    async def delete_state(self, chat_id: Any, user_id: Any, *place: Any, **named: Any) -> bool:
        return await self.sessions.delete(self._key(chat_id, user_id, *place, **named))

    async def set_data(self, chat_id: Any, user_id: Any, key: str, value: Any, *place: Any, **named: Any) -> bool:
        where = self._key(chat_id, user_id, *place, **named)
        if not await self._change(where, lambda record: record["data"].__setitem__(key, value)):
            raise RuntimeError(f"there is no state {where}: set one before its data")
        return True

    async def get_data(self, chat_id: Any, user_id: Any, *place: Any, **named: Any) -> dict[str, Any]:
        record = await self.sessions.read(self._key(chat_id, user_id, *place, **named)) or {}
        data: dict[str, Any] = record.get("data", {})
        return data

    async def reset_data(self, chat_id: Any, user_id: Any, *place: Any, **named: Any) -> bool:
        return await self.save(chat_id, user_id, {}, *place, **named)

    async def save(self, chat_id: Any, user_id: Any, data: dict[str, Any], *place: Any, **named: Any) -> bool:
        key = self._key(chat_id, user_id, *place, **named)
        return await self._change(key, lambda record: record.__setitem__("data", data))

    def get_interactive_data(
        self, chat_id: Any, user_id: Any, *place: Any, **named: Any
    ) -> AbstractAsyncContextManager[dict[str, Any]]:
        return self._interactive(self._key(chat_id, user_id, *place, **named))

    @asynccontextmanager
    async def _interactive(self, key: str) -> AsyncIterator[dict[str, Any]]:
        async with self.sessions.open(key) as session:
            data: dict[str, Any] = session.data.get("data", {})
            yield data
            # A state that the block has set, or data that it has reset, came with another dict.
            # Without a state there is nothing to keep data with: then, as elsewhere, it is forgotten.
            if session.data:
                session.data["data"] = {**session.data.get("data", {}), **data}

    async def _change(self, key: str, change: Callable[[dict[str, Any]], object]) -> bool:
        """Change a record that exists; return whether it does."""
        found = False

        def apply(record: dict[str, Any]) -> None:
            nonlocal found
            found = bool(record)
            if found:
                change(record)

        await self.sessions.update(key, apply)
        return found

    def _key(
        self,
        chat_id: Any,
        user_id: Any,
        business_connection_id: Any = None,
        message_thread_id: Any = None,
        bot_id: Any = None,
    ) -> str:
        return self._get_key(chat_id, user_id, self.prefix, ":", business_connection_id, message_thread_id, bot_id)
