"""Runs an aiogram bot in the terminal: without a token, without a network, on aiogram's own dispatcher."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from aiogram import Bot, Dispatcher
from aiogram.client.session.base import BaseSession
from aiogram.dispatcher.event.bases import UNHANDLED
from aiogram.methods import GetMe, SendMessage, TelegramMethod
from aiogram.types import Message, User
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from bot_session import Storage

console = Console(highlight=False, soft_wrap=True)


class TerminalTransport(BaseSession):
    """In place of aiogram's connection to Telegram: what the bot sends appears in the terminal."""

    async def make_request(self, bot: Bot, method: TelegramMethod[Any], timeout: int | None = None) -> Any:  # noqa: ASYNC109, ARG002
        """Show a message; agree to everything else."""
        if isinstance(method, GetMe):
            return User(id=bot.id, is_bot=True, first_name="Pizza bot", username="pizza_bot")
        if isinstance(method, SendMessage):
            say("pizza bot", method.text, "bold yellow")
            chat = {"id": method.chat_id, "type": "private"}
            sent = {"message_id": 1, "date": int(time.time()), "chat": chat, "text": method.text}
            return Message.model_validate(sent, context={"bot": bot})
        note(f"the bot calls {method.__api_method__}")
        return True

    async def stream_content(self, *args: Any, **options: Any) -> AsyncGenerator[bytes, None]:  # noqa: ARG002
        """Have nothing to download."""
        for chunk in list[bytes]():
            yield chunk

    async def close(self) -> None:
        """Have nothing to close."""


class Conversation:
    """A bot, its dispatcher, and an event loop that runs while there is something to do."""

    def __init__(self, dispatcher: Dispatcher, storage: Storage) -> None:
        self.bot = Bot("42:TERMINAL", session=TerminalTransport())
        self.dispatcher = dispatcher
        self.storage = storage

    async def feed(self, update: dict[str, Any]) -> None:
        """Have the bot handle an update, as polling would: what a handler returns is sent after everything is saved."""
        result = await self.dispatcher.feed_raw_update(self.bot, update)
        if isinstance(result, TelegramMethod):
            await self.bot(result)
        elif result is UNHANDLED:
            note("no handler for it")

    async def end(self) -> None:
        """Shut down as polling does: wait for handlers, close the storage."""
        await self.dispatcher.emit_shutdown(bot=self.bot)


def chat(dispatcher: Dispatcher, storage: Storage) -> None:
    """Chat with the bot: a line is a message; the end of input ends it."""
    conversation = Conversation(dispatcher, storage)
    note(f"the bot remembers in {storage!r}; send it 🍕, /hunger or /forget; Ctrl-D ends")
    you = {"id": 1, "is_bot": False, "first_name": "You"}
    with asyncio.Runner() as runner:
        try:
            for number in range(1, 1_000_000):
                text = console.input(label("you", "bold cyan"))
                if text.strip():
                    message = message_of(number, you, text.strip())
                    runner.run(conversation.feed({"update_id": number, "message": message}))
        except (EOFError, KeyboardInterrupt):
            console.print()
        finally:
            runner.run(conversation.end())
    note("start it again: it remembers")


def play(dispatcher: Dispatcher, storage: Storage, file: Path) -> None:
    """Have the bot handle recorded updates, one after the other."""
    conversation = Conversation(dispatcher, storage)
    note(f"playing {file.name}; the bot remembers in {storage!r}")
    with asyncio.Runner() as runner:
        try:
            for update in json.loads(file.read_text("utf-8")):
                show(update)
                runner.run(conversation.feed(update))
        finally:
            runner.run(conversation.end())
    note("start it again: it remembers")


def message_of(number: int, user: dict[str, Any], text: str) -> dict[str, Any]:
    """Make a message as Telegram would send it from a private chat."""
    message: dict[str, Any] = {"message_id": number, "date": int(time.time()), "from": user, "text": text}
    message["chat"] = {"id": user["id"], "type": "private", "first_name": user["first_name"]}
    if text.startswith("/"):
        message["entities"] = [{"type": "bot_command", "offset": 0, "length": len(text.split(maxsplit=1)[0])}]
    return message


def show(update: dict[str, Any]) -> None:
    """Show who sends what."""
    kind, event = next((kind, event) for kind, event in update.items() if kind != "update_id")
    sender = event.get("from", {}).get("first_name") or event.get("chat", {}).get("title", "")
    place = {"message": "", "edited_message": " (edited)", "channel_post": " (channel)"}.get(kind, f" ({kind})")
    if event.get("chat", {}).get("type") in ("group", "supergroup"):
        place += f" in {event['chat']['title']}"
    say(sender + place, event.get("text") or event.get("query") or kind, "bold cyan")


def say(who: str, what: str, style: str) -> None:
    """Show one line of the conversation."""
    console.print(label(who, style) + Text(what))


def note(text: str) -> None:
    """Show a remark."""
    console.print(Text(f"{'·':>25}  {text}", style="dim"))


def label(who: str, style: str) -> Text:
    """Say who is talking, in a column of its own."""
    return Text(f"{who:>25}  ", style=style)
