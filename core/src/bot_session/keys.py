"""
Session key functions: they say whose session an update touches.

A key function takes an `Origin` and returns the session key, or None if the update has none. `by_chat` is the default,
as in grammY; GramIO's is `by_user`. Any function will do, an async one too:

>>> from bot_session import Origin, by_chat, by_user, with_bot_id
>>> origin = Origin(chat_id=-100123, user_id=42, bot_id=7)
>>> by_chat(origin), by_user(origin)
('-100123', '42')
>>> with_bot_id(by_user)(origin)  # several bots, one database
'7:42'
>>> by_chat(Origin(user_id=42)) is None  # an inline query belongs to no chat
True
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import SessionKeyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = [
    "KeyFunction",
    "Origin",
    "by_business_connection",
    "by_chat",
    "by_topic",
    "by_user",
    "by_user_in_chat",
    "key_of",
    "with_bot_id",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """
    Where an update comes from; what it does not have is None.

    Attributes:
        chat_id: The chat; for an update of a business connection, the chat with the owner's bot.
        user_id: Who sent it.
        thread_id: The topic of a forum.
        business_connection_id: The business connection.
        bot_id: The bot that received it.
        update: The update itself, as the framework has it, for key functions of your own.
    """

    chat_id: int | str | None = None
    user_id: int | str | None = None
    thread_id: int | None = None
    business_connection_id: str | None = None
    bot_id: int | str | None = None
    update: Any = None


Key: TypeAlias = "str | int | None"
KeyFunction: TypeAlias = "Callable[[Any], Key | Awaitable[Key]]"
"""Takes an `Origin` (or whatever a middleware is given as context) and returns the session key, None for no session."""


def by_chat(origin: Origin) -> str | None:
    """One session for each chat: the default. As grammY: inline queries, polls and payments have none."""
    return None if origin.chat_id is None else str(origin.chat_id)


def by_user(origin: Origin) -> str | None:
    """One session for each user, in all chats. As GramIO; channel posts have none."""
    return None if origin.user_id is None else str(origin.user_id)


def by_user_in_chat(origin: Origin) -> str | None:
    """One session for each user in each chat: ``user/chat``, as in grammY's documentation."""
    if origin.user_id is None or origin.chat_id is None:
        return None
    return f"{origin.user_id}/{origin.chat_id}"


def by_topic(origin: Origin) -> str | None:
    """One session for each topic of a forum: ``chat:topic``; elsewhere one for the chat."""
    chat = by_chat(origin)
    return chat if chat is None or origin.thread_id is None else f"{chat}:{origin.thread_id}"


def by_business_connection(origin: Origin) -> str | None:
    """One session for each chat of each business connection: ``connection:chat``; elsewhere one for the chat."""
    chat = by_chat(origin)
    connection = origin.business_connection_id
    return chat if chat is None or connection is None else f"{connection}:{chat}"


def with_bot_id(key: KeyFunction) -> Callable[[Origin], Key | Awaitable[Key]]:
    """
    Put the bot's id before a key, ``bot:key``, so that several bots can share one storage. No key remains no key.

    Raises:
        SessionKeyError: When called: the origin does not say which bot it is.
    """

    @functools.wraps(key)
    def wrapped(origin: Origin) -> Key | Awaitable[Key]:
        found = key(origin)
        if inspect.isawaitable(found):
            return _prefixed_later(origin, found)
        return _with_bot(origin, found)

    return wrapped


async def _prefixed_later(origin: Origin, found: Awaitable[Key]) -> Key:
    return _with_bot(origin, await found)


def _with_bot(origin: Origin, key: Key) -> str | None:
    if key is None:
        return None
    if origin.bot_id is None:
        raise SessionKeyError("with_bot_id needs the bot's id, and this update does not say which bot received it")
    return f"{origin.bot_id}:{checked(key)}"


async def key_of(function: KeyFunction, origin: Any) -> str | None:
    """
    Call a key function and check what it returns.

    Raises:
        SessionKeyError: It returned something that is neither text nor an integer nor None.
    """
    found = function(origin)
    if inspect.isawaitable(found):
        found = await found
    return checked(found)


def checked(key: object) -> str | None:
    """Refuse what is no key, so that no two sessions meet under "None", "undefined" or a memory address."""
    if key is None or type(key) is str:
        return key
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return str(int(key))
    raise SessionKeyError(f"a key function returns text, an integer or None, not {type(key).__name__}")
