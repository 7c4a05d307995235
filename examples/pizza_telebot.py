"""
A bot that counts pizza, on pyTelegramBotAPI, and remembers.

    python examples/pizza_telebot.py                            chat with it in the terminal
    python examples/pizza_telebot.py --storage redis://localhost
    BOT_TOKEN=… python examples/pizza_telebot.py                on Telegram, by polling
"""

from __future__ import annotations

import argparse
import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import offline
from bot_session import Session, Sessions, Storage, open_storage
from bot_session.frameworks.telebot import SessionTeleBot
from telebot import asyncio_helper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from telebot.types import Message


@dataclass
class Hunger:
    """What the bot remembers of a chat."""

    pizzas: int = 0


async def hunger(message: Message, bot: SessionTeleBot, session: Session[Hunger]) -> None:
    """Tell how many there were."""
    await bot.send_message(message.chat.id, f"So far: {session.data.pizzas} 🍕")


async def forget(message: Message, bot: SessionTeleBot, session: Session[Hunger]) -> None:
    """Forget this chat."""
    session.clear()
    await bot.send_message(message.chat.id, "Pizza? What pizza?")


async def count(message: Message, bot: SessionTeleBot, session: Session[Hunger]) -> None:
    """Count, and save before answering: what was answered is remembered, whatever happens next."""
    session.data.pizzas += (message.text or "").count("🍕")
    await session.save()
    await bot.send_message(message.chat.id, f"Yum! That makes {session.data.pizzas} 🍕")


def make_bot(token: str, storage: Storage) -> SessionTeleBot:
    """Put the bot together."""
    bot = SessionTeleBot(token, sessions=Sessions(storage, initial=Hunger))
    register: Any = bot.register_message_handler  # Its own type knows handlers of one argument only.
    register(hunger, commands=["hunger"], pass_bot=True)
    register(forget, commands=["forget"], pass_bot=True)
    register(count, pass_bot=True)
    return bot


def main() -> None:
    """Run it: on Telegram if there is a token, else in the terminal."""
    parser = argparse.ArgumentParser(description="A bot that counts pizza, and remembers.")
    parser.add_argument("--storage", metavar="URL", default="sqlite:pizza.db", help="where it remembers (%(default)s)")
    storage = open_storage(parser.parse_args().storage)
    if token := os.environ.get("BOT_TOKEN"):
        asyncio.run(make_bot(token, storage).infinity_polling())
        return

    @asynccontextmanager
    async def polling(token: str, url: str) -> AsyncIterator[None]:
        asyncio_helper.API_URL = f"{url}/bot{{0}}/{{1}}"
        task = asyncio.create_task(make_bot(token, storage).polling(timeout=1))
        yield
        task.cancel()
        await task

    asyncio.run(offline.chat(polling))


if __name__ == "__main__":
    main()
