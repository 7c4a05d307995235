"""
Settings: what a user wants in every chat, and what a chat wants from everybody. Two kinds of session at once.

    python examples/settings_aiogram.py                 in the terminal
    BOT_TOKEN=… python examples/settings_aiogram.py     on Telegram
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import terminal
from aiogram import Bot, Dispatcher, Router
from aiogram.filters import Command
from bot_session import MultiSessions, Session, Sessions, Storage, by_chat, by_user, open_storage
from bot_session.frameworks.aiogram import SessionMiddleware

if TYPE_CHECKING:
    from aiogram.methods import SendMessage
    from aiogram.types import Message


@dataclass
class User:
    """What a user wants, in whatever chat."""

    fahrenheit: bool = False


@dataclass
class Chat:
    """What a chat wants, whoever asks."""

    quiet: bool = False


class Settings(Protocol):
    """What handlers are given: written down for the type checker."""

    user: Session[User]
    chat: Session[Chat]

    def clear(self) -> None:
        """Forget both."""


router = Router()


@router.message(Command("weather"))
async def weather(message: Message, session: Settings) -> SendMessage:
    """Answer as the user and the chat want it."""
    degrees = "70 °F" if session.user.data.fahrenheit else "21 °C"
    return message.answer(degrees if session.chat.data.quiet else f"What a day! It is {degrees}, and sunny.")


@router.message(Command("fahrenheit", "celsius"))
async def unit(message: Message, session: Settings) -> SendMessage:
    """Change the user's setting."""
    session.user.data.fahrenheit = (message.text or "").startswith("/fahrenheit")
    return message.answer("As you like, here and everywhere.")


@router.message(Command("quiet", "talk"))
async def quiet(message: Message, session: Settings) -> SendMessage:
    """Change the chat's setting."""
    session.chat.data.quiet = (message.text or "").startswith("/quiet")
    return message.answer("As you like, in this chat.")


@router.message(Command("reset"))
async def reset(message: Message, session: Settings) -> SendMessage:
    """Forget both: they are deleted."""
    session.clear()
    return message.answer("Forgotten.")


@router.message()
async def anything(message: Message) -> SendMessage:
    """Explain."""
    return message.answer("/weather, /fahrenheit, /celsius, /quiet, /talk or /reset?")


def make_dispatcher(storage: Storage) -> Dispatcher:
    """Put the bot together: two kinds of session in one storage, told apart by their prefixes."""
    settings = MultiSessions(
        user=Sessions(storage, initial=User, key=by_user, prefix="user:"),
        chat=Sessions(storage, initial=Chat, key=by_chat, prefix="chat:"),
    )
    dispatcher = Dispatcher()
    dispatcher.include_router(router)
    SessionMiddleware(settings).setup(dispatcher)
    return dispatcher


def main() -> None:
    """Run it: on Telegram if there is a token, else in the terminal."""
    storage = open_storage("sqlite:settings.db")
    dispatcher = make_dispatcher(storage)
    if token := os.environ.get("BOT_TOKEN"):
        asyncio.run(dispatcher.start_polling(Bot(token)))
    else:
        terminal.chat(dispatcher, storage)


if __name__ == "__main__":
    main()
