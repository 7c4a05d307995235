"""
Framework-neutral middleware, with the semantics of grammY's session plug-in.

A middleware is an async function of a context and ``next``, an async function without arguments that runs what comes
after it. It hangs the session on the context:

>>> import asyncio
>>> from types import SimpleNamespace
>>> from bot_session import MemoryStorage, Sessions
>>> from bot_session.middleware import session
>>> remember = session(Sessions(MemoryStorage(), initial=dict))
>>> async def update(chat: int) -> dict[str, int]:
...     ctx = SimpleNamespace(chat_id=chat)
...     async def handler() -> None:
...         ctx.session.data["count"] = ctx.session.data.get("count", 0) + 1
...     await remember(ctx, handler)
...     return ctx.session.key
>>> asyncio.run(update(42)), asyncio.run(update(42))
('42', '42')

As in grammY, a handler may also assign the property: ``ctx.session = {"count": 1}`` replaces the data,
``ctx.session = None`` deletes it, and in a multi session ``ctx.session = {"user": …}`` assigns fragments by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .errors import ConfigurationError
from .multi import MultiSession, MultiSessions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .keys import KeyFunction
    from .sessions import ControlFlow, Sessions

__all__ = ["Middleware", "lazy_session", "session"]

R = TypeVar("R")


class Middleware(Protocol):
    """An async function of a context and what comes next."""

    def __call__(self, ctx: Any, next: Callable[[], Awaitable[R]], /) -> Awaitable[R]:  # noqa: A002
        """Run ``next`` with the session at hand, and return what it returns."""
        ...


def session(
    sessions: Sessions[Any] | MultiSessions,
    *,
    name: str = "session",
    key: KeyFunction | None = None,
    passthrough: ControlFlow = (),
) -> Middleware:
    """
    Make a middleware that loads the session before ``next`` and saves it afterwards.

    Args:
        sessions: One kind of session, or several.
        name: The property of the context. Several middlewares with names of their own stand side by side.
        key: In place of the key function of ``sessions``. It is given the context, which therefore needs the
            attributes that it looks at: ``chat_id`` for `by_chat`.
        passthrough: Exceptions that are control flow, not failures: the session is saved anyway.

    Raises:
        ConfigurationError: When called: the context has such a property already.
        SessionKeyError: When called: the key function returned something that is no key.
        BotSessionError: When called: as `Session.get` before ``next``, as `Session.save` after it.
    """
    return _middleware(sessions, name, key, passthrough, lazy=False)


def lazy_session(
    sessions: Sessions[Any] | MultiSessions,
    *,
    name: str = "session",
    key: KeyFunction | None = None,
    passthrough: ControlFlow = (),
) -> Middleware:
    """
    Make a middleware whose session is read when the handler asks for it: ``data = await ctx.session.get()``.

    The key function is called for every update, the storage only if the session is touched. Arguments and errors are
    those of `session`.
    """
    return _middleware(sessions, name, key, passthrough, lazy=True)


def _middleware(
    sessions: Sessions[Any] | MultiSessions,
    name: str,
    key: KeyFunction | None,
    passthrough: ControlFlow,
    *,
    lazy: bool,
) -> Middleware:
    async def middleware(ctx: Any, next: Callable[[], Awaitable[R]], /) -> R:  # noqa: A002
        if getattr(ctx, name, None) is not None:
            raise ConfigurationError(f"the context has a property {name!r} already: pass another name=")
        opening = await sessions.open_for(ctx, key=key, lazy=lazy, passthrough=passthrough)
        async with opening as handle:
            setattr(ctx, name, handle)
            try:
                result = await next()
            except passthrough:
                _take_assignment(ctx, name, handle)
                raise
            except BaseException:
                setattr(ctx, name, handle)
                raise
            _take_assignment(ctx, name, handle)
            return result

    return middleware


def _take_assignment(ctx: Any, name: str, handle: Any) -> None:
    """Whoever assigned ``ctx.session`` meant the data: an attribute of a foreign object cannot tell at once."""
    value = getattr(ctx, name, handle)
    setattr(ctx, name, handle)
    if value is handle:
        return
    if isinstance(handle, MultiSession):
        handle.assign(value)
    else:
        handle.data = value
