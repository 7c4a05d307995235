"""
`with_session`: a session for any async function, in whatever framework, or in none.

>>> import asyncio
>>> from types import SimpleNamespace
>>> from bot_session import MemoryStorage, Sessions, with_session
>>> sessions = Sessions(MemoryStorage(), initial=dict)
>>> @with_session(sessions, key=lambda event: event.chat_id)
... async def count(event, session):
...     session.data["count"] = session.data.get("count", 0) + 1
...     return session.data["count"]
>>> asyncio.run(count(SimpleNamespace(chat_id=42))), asyncio.run(count(SimpleNamespace(chat_id=42)))
(1, 2)
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ConfigurationError
from .keys import Origin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from .multi import MultiSessions
    from .sessions import ControlFlow, Sessions

__all__ = ["with_session"]

R = TypeVar("R")


def with_session(
    sessions: Sessions[Any] | MultiSessions,
    *,
    key: Callable[..., Any] | None = None,
    name: str = "session",
    lazy: bool = False,
    passthrough: ControlFlow = (),
) -> Callable[[Callable[..., Awaitable[R]]], Callable[..., Coroutine[Any, Any, R]]]:
    """
    Decorate an async function: it is called with the session, which is saved when it returns and not if it raises.

    Calls for one session run one at a time, in the order in which they came.

    Args:
        sessions: One kind of session, or several.
        key: Takes the function's own arguments and returns the session key, None if there is none, or an `Origin` for
            the key functions of ``sessions`` to look at; may be async. Without it, they look at the first argument,
            which therefore needs the attributes of an `Origin`: ``chat_id`` for `by_chat`.
        name: The function's parameter that gets the session, always by keyword.
        lazy: Read the session when the function asks for it, with ``await session.get()``.
        passthrough: Exceptions that are a framework's control flow, not failures: the session is saved anyway.

    Raises:
        ConfigurationError: When decorating: the function is not async, or has no such parameter. When called: the
            caller passes that parameter already.
        SessionKeyError: When called: the key function returned something that is no key.
        BotSessionError: When called: as `Session.get` before the function, as `Session.save` after it.
    """

    def decorate(function: Callable[..., Awaitable[R]]) -> Callable[..., Coroutine[Any, Any, R]]:
        signature = _without(name, function)

        @functools.wraps(function)
        async def wrapper(*arguments: Any, **named: Any) -> R:
            if name in named:
                raise ConfigurationError(f"the argument {name!r} is taken already: pass another name=")
            found = _first(arguments, named) if key is None else key(*arguments, **named)
            if inspect.isawaitable(found):
                found = await found
            is_origin = key is None or isinstance(found, Origin)
            opening = await sessions.open_for(
                found, key=None if is_origin else _itself, lazy=lazy, passthrough=passthrough
            )
            async with opening as session:
                return await function(*arguments, **named, **{name: session})

        # Frameworks that look at signatures to know what to pass must not see what only we pass.
        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        return wrapper

    return decorate


def _itself(key: Any) -> Any:
    """Be the key function of a key that was found already."""
    return key


def _first(arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return arguments[0] if arguments else next(iter(named.values()), None)


def _without(name: str, function: Callable[..., Any]) -> inspect.Signature:
    if not inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"with_session is for async functions, and {function!r} is none")
    signature = inspect.signature(function)
    parameters = signature.parameters
    others = [parameter for parameter in parameters.values() if parameter.name != name]
    if name not in parameters and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in others):
        raise ConfigurationError(f"{function!r} has no parameter {name!r} to take the session: pass name=")
    return signature.replace(parameters=others)
