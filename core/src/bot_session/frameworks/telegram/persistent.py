"""An application that saves what its persistence keeps as soon as an update was handled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from telegram.ext import Application
from telegram.ext._handlers.conversationhandler import PendingState  # named so by Application.update_persistence

from bot_session.errors import CodecError

from .persistence import THE_ONE, BotSessionPersistence

if TYPE_CHECKING:
    from collections.abc import Callable

    from telegram.ext import ApplicationBuilder

    from .persistence import Kind

__all__ = ["PersistentApplication", "persist"]

B = TypeVar("B", bound="ApplicationBuilder[Any, Any, Any, Any, Any, Any]")

Looks: TypeAlias = "set[tuple[Kind, int]]"
"""Whose data somebody has looked at, and may change as long as he runs: their own user's, or another's."""


class _Handling:
    """What the handlers of one update have looked at, until the update is over."""

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        self.looks: Looks = set()
        self.over = False


_handling: ContextVar[_Handling | None] = ContextVar("bot_session_telegram_handling", default=None)
"""That of the update that is being handled. What was begun meanwhile inherits it, and may outlive it."""


class PersistentApplication(Application[Any, Any, Any, Any, Any, Any]):
    """
    An `Application` whose `BotSessionPersistence` is up to date after every update: see `persist`.

    `update_persistence` is its own: nothing is copied, so that values which cannot be copied do no harm; what failed is
    tried again; what one user's data holds does not keep another's from being saved; data that was dropped and made
    anew is saved; so is the data of users whom the update is not about, and what tasks, jobs and handlers with
    ``block=False`` change until they end. With any other persistence it does what `Application` does.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._bare = {"user_data": self.user_data, "chat_data": self.chat_data}
        self._looks_by_task: WeakKeyDictionary[asyncio.Task[Any], Looks] = WeakKeyDictionary()
        if isinstance(self.persistence, BotSessionPersistence):
            self.user_data = _Watched(self.user_data, lambda user_id: self._touch("user_data", user_id))
            self.chat_data = _Watched(self.chat_data, lambda chat_id: self._touch("chat_data", chat_id))

    async def process_update(self, update: object) -> None:
        if not isinstance(self.persistence, BotSessionPersistence):
            await super().process_update(update)
            return
        handling = _Handling()
        token = _handling.set(handling)
        try:
            await super().process_update(update)
        finally:
            _handling.reset(token)
            handling.over = True
            self._mark(handling.looks)  # Again: another update's save may have come before a late change.
        await self.update_persistence()

    def create_task(
        self, coroutine: Any, update: object | None = None, *, name: str | None = None
    ) -> asyncio.Task[Any]:
        task = super().create_task(coroutine, update, name=name)
        self._looks_of(task).update(*self._looks_here())  # It may have been given what its maker has looked at.
        return task

    async def update_persistence(self) -> None:
        persistence = self.persistence
        if not isinstance(persistence, BotSessionPersistence):
            await super().update_persistence()
            return
        async with persistence.lock:
            errors = [*self._keep(persistence), *await persistence.save()]
        for error in errors:
            await self.process_error(update=None, error=error)

    # ------------------------------------------------------------------ who looks at what

    def _touch(self, kind: Kind, name: int) -> None:
        for looks in self._looks_here():
            looks.add((kind, name))
        self._mark({(kind, name)})

    def _looks_here(self) -> list[Looks]:
        """Find where to take note of a look: with the update that is being handled, with a task that runs beside it."""
        handling = _handling.get()
        try:
            task = asyncio.current_task()
        except RuntimeError:  # No event loop runs here: in a thread, or before the bot starts.
            task = None
        found = [] if handling is None or handling.over else [handling.looks]
        if task is not None and (handling is None or handling.task is not task):
            found.append(self._looks_of(task))
        return found

    def _looks_of(self, task: asyncio.Task[Any]) -> Looks:
        """Return what a task has looked at, which is marked again when the task ends."""
        looks = self._looks_by_task.get(task)
        if looks is None:
            looks = self._looks_by_task[task] = set()
            task.add_done_callback(lambda task: self._mark(self._looks_by_task.pop(task)))
        return looks

    def _mark(self, looks: Looks) -> None:
        for kind, name in looks:
            if kind == "user_data":
                self.mark_data_for_update_persistence(user_ids=name)
            else:
                self.mark_data_for_update_persistence(chat_ids=name)

    # ------------------------------------------------------------------ what python-telegram-bot has marked

    def _keep(self, persistence: BotSessionPersistence) -> list[Exception]:
        """Give the persistence whatever may have changed, as it is now."""
        errors: list[Exception] = []

        def keep(kind: Kind, name: object, data: object | None) -> None:
            try:
                persistence.keep(kind, name, data)
            except CodecError as error:
                errors.append(error)

        wanted = persistence.store_data
        if wanted.bot_data:
            keep("bot_data", THE_ONE, self.bot_data)
        cache = getattr(self.bot, "callback_data_cache", None)
        if wanted.callback_data and cache is not None:
            keep("callback_data", THE_ONE, cache.persistence_data)
        for name in self._taken("user") if wanted.user_data else ():
            keep("user_data", name, self._bare["user_data"].get(name))
        for name in self._taken("chat") if wanted.chat_data else ():
            keep("chat_data", name, self._bare["chat_data"].get(name))
        for conversation, state in self._conversations_taken():
            keep("conversation", conversation, state)
        return errors

    def _taken(self, whose: str) -> set[int]:
        """Take the ids that are marked as changed or dropped: which of the two, the data itself tells."""
        taken: set[int] = set()
        for what in ("updated", "deleted"):
            marked: set[int] = getattr(self, f"_{whose}_ids_to_be_{what}_in_persistence")
            taken |= marked
            marked.clear()
        return taken

    def _conversations_taken(self) -> Iterator[tuple[str, object | None]]:
        """Take the conversations that went on; those whose handler still runs, as they were before it."""
        for name, states in self._conversation_handler_conversations.items():
            for key, state in states.pop_accessed_write_items():
                if isinstance(state, PendingState):
                    if not state.done():
                        states.mark_as_accessed(key)
                    state = state.resolve() if state.done() else state.old_state  # noqa: PLW2901
                yield BotSessionPersistence.name_of(name, key), None if state is states.DELETED else state


class _Watched(Mapping[int, Any]):
    """``application.user_data`` and ``chat_data``: tells whose data somebody looks at, since it may be changed."""

    def __init__(self, inner: Mapping[int, Any], touched: Callable[[int], None]) -> None:
        self._inner = inner
        self._touched = touched

    def __getitem__(self, key: int) -> Any:
        value = self._inner[key]
        self._touched(key)
        return value

    def get(self, key: int, default: Any = None) -> Any:
        return self[key] if key in self._inner else default

    def __contains__(self, key: object) -> bool:
        return key in self._inner

    def __iter__(self) -> Iterator[int]:
        return iter(self._inner)

    def __len__(self) -> int:
        return len(self._inner)

    def __repr__(self) -> str:
        return repr(self._inner)


def persist(builder: B, persistence: BotSessionPersistence) -> B:
    """
    Give the application that a builder makes a persistence that is always up to date, and no sessions.

    Args:
        builder: The builder. Its ``application_class`` and ``persistence`` are set here.
        persistence: Where the data is kept.

    Returns:
        The builder, whose ``build`` makes a `PersistentApplication`.
    """
    return builder.application_class(PersistentApplication).persistence(persistence)
