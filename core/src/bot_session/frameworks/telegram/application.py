"""An application whose handlers find the session of their update at ``context.session``."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from telegram import Message, Update
from telegram.ext import CallbackContext, ContextTypes, ExtBot

from bot_session.errors import ConfigurationError, SessionClosedError
from bot_session.frameworks.shared import Scope, close_storages, follow_migration, open_storages
from bot_session.keys import Origin
from bot_session.multi import MultiSession, MultiSessions

from .persistent import PersistentApplication

if TYPE_CHECKING:
    import asyncio

    from telegram.ext import ApplicationBuilder

    from bot_session.keys import KeyFunction
    from bot_session.sessions import Sessions

__all__ = ["SessionApplication", "SessionContext", "install", "origin_of"]

S = TypeVar("S")

logger = logging.getLogger("bot_session.telegram")

_scope: ContextVar[Scope | None] = ContextVar("bot_session_telegram_scope", default=None)
"""That of the update that is being handled; None in what runs beside it: jobs, and handlers with ``block=False``."""


class SessionContext(
    CallbackContext[ExtBot[Any], dict[Any, Any], dict[Any, Any], dict[Any, Any]],
    Generic[S],
):
    """
    A `CallbackContext` with a session. Annotate what it is: ``SessionContext[Session[Pizza]]``.

    As in grammY, assigning replaces the data: ``context.session = Pizza()``; None deletes it, and so does
    ``del context.session``, which leaves initial data to go on with. In a multi session,
    ``context.session = {"user": …}`` assigns fragments by name.
    """

    __slots__ = ()

    @property
    def application(self) -> SessionApplication:
        """The application; its ``sessions`` open a session by hand."""
        return cast("SessionApplication", super().application)

    @property
    def session(self) -> S:
        """
        The session of the update that is being handled.

        Raises:
            SessionClosedError: No update is being handled here.
        """
        scope = _scope.get()
        if scope is None or self.job is not None:
            raise SessionClosedError(
                "no update is being handled here: jobs and handlers with block=False open a session by hand, "
                "`async with context.application.sessions.open(key) as session`"
            )
        return cast("S", scope.session)

    @session.setter
    def session(self, value: Any) -> None:
        session: Any = self.session
        if isinstance(session, MultiSession):
            session.assign(value)
        else:
            session.data = value

    @session.deleter
    def session(self) -> None:
        cast("Any", self.session).clear()


class SessionApplication(PersistentApplication):
    """
    An `Application` that handles every update within its session: see `install`. With a `BotSessionPersistence` it is a
    `PersistentApplication` too.

    Updates of one session are handled one at a time, in order, also with ``concurrent_updates``. If any handler of an
    update raises, nothing of that update is saved; the session is closed before error handlers see it.

    Args:
        sessions: One kind of session, or several.
        session_key: In place of the key function of ``sessions``.
        lazy: Read the session when a handler asks for it, with ``await context.session.get()``.
        close_storage: Close the storage at `shutdown`; `initialize` opens it again.
        options: What `ApplicationBuilder` passes on.
    """

    def __init__(
        self,
        *,
        sessions: Sessions[Any] | MultiSessions,
        session_key: KeyFunction | None = None,
        lazy: bool = False,
        close_storage: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.sessions: Any = sessions  # Whoever opens one by hand knows which kind it is.
        self.session_key = session_key
        self.lazy = lazy
        self.close_storage = close_storage

    async def initialize(self) -> None:
        await super().initialize()
        await open_storages(self.sessions)

    async def shutdown(self) -> None:
        try:
            await super().shutdown()
        finally:  # A persistence that cannot be flushed is no reason to leave it open; an application that runs is.
            if self.close_storage and not self.running:
                await close_storages(self.sessions)

    async def process_update(self, update: object) -> None:
        # What the storage raises goes to the error handlers. Raised from here, it would end the task that fetches
        # updates, for good. What PTB itself raises (it was not initialized, it is cancelled) passes through.
        self._check_initialized()
        try:
            scope = await self._begin(update)
        except Exception as error:  # noqa: BLE001 - whatever a storage or a key function may raise
            await self.process_error(update=update, error=error)
            return
        token = _scope.set(scope)
        try:
            await super().process_update(update)
        except BaseException as error:
            await scope.end(error)
            raise
        finally:
            _scope.reset(token)
        try:
            await scope.end()
        except Exception as error:  # noqa: BLE001 - likewise
            await self.process_error(update=update, error=error)

    async def process_error(
        self, update: object | None, error: Exception, job: Any = None, coroutine: Any = None
    ) -> bool:
        scope = _scope.get()
        if scope is not None and update is not None:  # Without an update it is about a job, or about the persistence.
            await scope.end(error)
        return await super().process_error(update, error, job, coroutine)

    def create_task(
        self, coroutine: Any, update: object | None = None, *, name: str | None = None
    ) -> asyncio.Task[Any]:
        # A task takes its context variables from where it is made; it may outlive the update, so it has no session.
        token = _scope.set(None)
        try:
            return super().create_task(coroutine, update, name=name)
        finally:
            _scope.reset(token)

    async def _begin(self, update: object) -> Scope:
        origin = origin_of(update, self.bot)
        if isinstance(update, Update) and update.message is not None:
            origin = await follow_migration(self.sessions, self.session_key, origin, update.message, logger)
        return await Scope(await self.sessions.open_for(origin, key=self.session_key, lazy=self.lazy)).begin()


def install(
    builder: ApplicationBuilder[Any, Any, Any, Any, Any, Any],
    sessions: Sessions[Any] | MultiSessions,
    *,
    key: KeyFunction | None = None,
    lazy: bool = False,
    context_types: ContextTypes[Any, Any, Any, Any] | None = None,
    close_storage: bool = True,
) -> ApplicationBuilder[Any, Any, Any, Any, Any, Any]:
    """
    Give the application that a builder makes its sessions: ``install(Application.builder().token(…), sessions)``.

    A persistence is given to the builder as ever: ``.persistence(BotSessionPersistence(…))``.

    Args:
        builder: The builder. Its ``application_class`` and ``context_types`` are set here.
        sessions: One kind of session, or several.
        key: In place of the key function of ``sessions``.
        lazy: Read the session when a handler asks for it, with ``await context.session.get()``.
        context_types: In place of `SessionContext` with dicts; its context must be a subclass of `SessionContext`.
        close_storage: Close the storage when the application shuts down.

    Returns:
        The builder, whose ``build`` makes a `SessionApplication`.

    Raises:
        ConfigurationError: The context is none with a session.
    """
    context_types = context_types or ContextTypes(context=SessionContext)
    if not issubclass(context_types.context, SessionContext):
        raise ConfigurationError(f"{context_types.context.__name__} must be a subclass of SessionContext")
    options: dict[str, object] = {
        "sessions": sessions,
        "session_key": key,
        "lazy": lazy,
        "close_storage": close_storage,
    }
    return builder.application_class(SessionApplication, options).context_types(context_types)


def origin_of(update: object, bot: Any) -> Origin:
    """Say where an update comes from. What PTB did not make, an object in the update queue, has no chat."""
    if not isinstance(update, Update):
        return Origin(bot_id=bot.id, update=update)
    chat, user, connection = update.effective_chat, update.effective_user, update.business_connection
    # Not `effective_message`: it warns about a button's message that is out of reach.
    message = update.callback_query.message if update.callback_query else update.effective_message
    chat_id = None if chat is None else chat.id
    if connection is not None:
        chat_id = connection.user_chat_id  # As in grammY: the owner's private chat with the bot.
    about = message or update.deleted_business_messages
    return Origin(
        chat_id=chat_id,
        user_id=None if user is None else user.id,
        thread_id=message.message_thread_id if isinstance(message, Message) and message.is_topic_message else None,
        business_connection_id=connection.id if connection else getattr(about, "business_connection_id", None),
        bot_id=bot.id,
        update=update,
    )
