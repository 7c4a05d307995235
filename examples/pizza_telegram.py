"""
A bot that counts pizza, on python-telegram-bot, and remembers.

    python examples/pizza_telegram.py                            chat with it in the terminal
    python examples/pizza_telegram.py --storage redis://localhost
    BOT_TOKEN=… python examples/pizza_telegram.py                on Telegram, by polling
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
from bot_session.frameworks.telegram import SessionContext, install
from telegram import Message, Update
from telegram.ext import Application, CommandHandler, MessageHandler, filters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Hunger:
    """What the bot remembers of a chat."""

    pizzas: int = 0


Context = SessionContext[Session[Hunger]]


async def hunger(update: Update, context: Context) -> None:
    """Tell how many there were."""
    await message_of(update).reply_text(f"So far: {context.session.data.pizzas} 🍕")


async def forget(update: Update, context: Context) -> None:
    """Forget this chat."""
    del context.session
    await message_of(update).reply_text("Pizza? What pizza?")


async def count(update: Update, context: Context) -> None:
    """Count, and save before answering: what was answered is remembered, whatever happens next."""
    message = message_of(update)
    context.session.data.pizzas += (message.text or "").count("🍕")
    if "🍍" in (message.text or ""):
        raise ValueError("🍍 on pizza? That never happened.")
    await context.session.save()
    await message.reply_text(f"Yum! That makes {context.session.data.pizzas} 🍕")


async def apologise(update: object, context: Context) -> None:
    """Answer for what a handler raised: nothing of it was saved."""
    if isinstance(update, Update):
        await message_of(update).reply_text(str(context.error))


def message_of(update: Update) -> Message:
    """Return the message: the handlers below are for nothing else."""
    assert update.effective_message is not None  # noqa: S101 - for the type checker
    return update.effective_message


def make_application(builder: Any, storage: Storage) -> Application[Any, Any, Any, Any, Any, Any]:
    """Put the bot together."""
    sessions = Sessions(storage, initial=Hunger)
    application: Application[Any, Any, Any, Any, Any, Any] = install(builder, sessions).concurrent_updates(True).build()
    application.add_handler(CommandHandler("hunger", hunger))
    application.add_handler(CommandHandler("forget", forget))
    application.add_handler(MessageHandler(filters.TEXT, count))
    application.add_error_handler(apologise)
    return application


def main() -> None:
    """Run it: on Telegram if there is a token, else in the terminal."""
    parser = argparse.ArgumentParser(description="A bot that counts pizza, and remembers.")
    parser.add_argument("--storage", metavar="URL", default="sqlite:pizza.db", help="where it remembers (%(default)s)")
    storage = open_storage(parser.parse_args().storage)
    builder = Application.builder()
    if token := os.environ.get("BOT_TOKEN"):
        make_application(builder.token(token), storage).run_polling()
        return

    @asynccontextmanager
    async def polling(token: str, url: str) -> AsyncIterator[None]:
        application = make_application(builder.token(token).base_url(f"{url}/bot"), storage)
        async with application:
            await application.start()
            assert application.updater is not None  # noqa: S101 - for the type checker
            await application.updater.start_polling()
            yield
            await application.updater.stop()
            await application.stop()

    asyncio.run(offline.chat(polling))


if __name__ == "__main__":
    main()
