"""
A bot that counts pizza, on aiogram, and remembers.

    python examples/pizza_aiogram.py                            chat with it in the terminal
    python examples/pizza_aiogram.py --storage redis://localhost
    python examples/pizza_aiogram.py --play examples/updates.json
    BOT_TOKEN=… python examples/pizza_aiogram.py                on Telegram, by polling

Everything about sessions is in the first fifty lines; the rest is how a program starts.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import terminal
from aiogram import Bot, Dispatcher, F, Router
from aiogram.filters import Command, ExceptionTypeFilter
from aiogram.methods import SendMessage
from aiogram.types import ErrorEvent, InlineQuery, Message
from bot_session import Session, Sessions, Storage, open_storage
from bot_session.frameworks.aiogram import SessionMiddleware


@dataclass
class Hunger:
    """What the bot remembers of a chat."""

    pizzas: int = 0


class PineappleError(Exception):
    """There are limits."""


router = Router()


# Handlers return their answers instead of awaiting them: aiogram sends what is returned after the session is saved, so
# that whatever was answered is remembered, whatever happens next.
@router.message(Command("hunger"))
@router.channel_post(Command("hunger"))
async def hunger(message: Message, session: Session[Hunger]) -> SendMessage:
    """Tell how many there were."""
    return message.answer(f"So far: {session.data.pizzas} 🍕")


@router.message(Command("forget"))
async def forget(message: Message, session: Session[Hunger]) -> SendMessage:
    """Forget this chat."""
    session.clear()
    return message.answer("Pizza? What pizza?")


@router.message(F.text.contains("🍍"))
async def pineapple(message: Message, session: Session[Hunger]) -> None:
    """Count first, and then think better of it: nothing is saved."""
    session.data.pizzas += 1
    raise PineappleError("🍍")


@router.message(F.text.contains("🍕"))
@router.channel_post(F.text.contains("🍕"))
async def count(message: Message, session: Session[Hunger]) -> SendMessage:
    """Count."""
    session.data.pizzas += (message.text or "").count("🍕")
    return message.answer(f"Yum! That makes {session.data.pizzas} 🍕")


@router.edited_message()
async def edited(message: Message, session: Session[Hunger]) -> SendMessage:
    """Stay calm."""
    return message.answer(f"Eaten is eaten: still {session.data.pizzas} 🍕")


@router.inline_query()
async def inline(query: InlineQuery) -> None:
    """Answer without a session, since an inline query belongs to no chat."""
    await query.answer([], cache_time=1)


@router.message()
async def anything(message: Message) -> SendMessage:
    """Explain."""
    return message.answer("Send me 🍕, ask /hunger, or have me /forget.")


@router.error(ExceptionTypeFilter(PineappleError), F.update.message.as_("message"))
async def no_pineapple(event: ErrorEvent, message: Message) -> SendMessage:
    """Answer for what a handler raised."""
    return message.answer(f"{event.exception} on pizza? That never happened.")


def make_dispatcher(storage: Storage) -> Dispatcher:
    """Put the bot together."""
    dispatcher = Dispatcher()
    dispatcher.include_router(router)
    SessionMiddleware(Sessions(storage, initial=Hunger)).setup(dispatcher)
    return dispatcher


def main() -> None:
    """Run it: on Telegram if there is a token, else in the terminal."""
    parser = argparse.ArgumentParser(description="A bot that counts pizza, and remembers.")
    parser.add_argument("--storage", metavar="URL", default="sqlite:pizza.db", help="where it remembers (%(default)s)")
    parser.add_argument("--play", metavar="FILE", type=Path, help="play a file of Telegram updates instead of chatting")
    arguments = parser.parse_args()
    storage = open_storage(arguments.storage)
    dispatcher = make_dispatcher(storage)
    token = os.environ.get("BOT_TOKEN")
    if token and not arguments.play:
        logging.basicConfig(level=logging.INFO)
        asyncio.run(dispatcher.start_polling(Bot(token)))
    elif sys.stdin.isatty() and not arguments.play:
        terminal.chat(dispatcher, storage)
    else:
        terminal.play(dispatcher, storage, arguments.play or Path(__file__).with_name("updates.json"))


if __name__ == "__main__":
    main()
