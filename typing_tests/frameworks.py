"""What type checkers see of sessions in python-telegram-bot, and of with_session. Checked, not run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_type

from bot_session import LazySession, MemoryStorage, Session, Sessions, with_session
from bot_session.frameworks.telegram import BotSessionPersistence, SessionContext, install, persist
from telegram.ext import Application, MessageHandler, filters

if TYPE_CHECKING:
    from telegram import Update


@dataclass
class Pizza:
    count: int = 0


sessions = Sessions(MemoryStorage(), initial=Pizza)


async def eat(_: Update, context: SessionContext[Session[Pizza]]) -> None:
    assert_type(context.session.data, Pizza)
    context.session = Pizza(3)
    del context.session


async def look(_: Update, context: SessionContext[LazySession[Pizza]]) -> None:
    assert_type(await context.session.get(), Pizza)


application = install(Application.builder().token("42:TEST"), sessions).build()
application.add_handler(MessageHandler(filters.TEXT, eat))
application.add_handler(MessageHandler(filters.TEXT, look))
persist(Application.builder(), BotSessionPersistence(MemoryStorage())).build()


@with_session(sessions)
async def count(chat_id: int, session: Session[Pizza]) -> int:
    session.data.count += chat_id
    return session.data.count


async def call() -> None:
    assert_type(await count(1), int)
