"""
One of several workers behind a webhook: run by test_webhook_workers.py, as ``webhook_worker.py FRAMEWORK API STORAGE``.

It prints where it listens, and then, for every message, counts in the session of its chat and answers with the count.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bot_session import Sessions, open_storage

TOKEN, SECRET = "42:TEST", "s3cret"


@dataclass
class Visits:
    count: int = 0


async def count(session):
    """Count; slowly, so that workers get into each other's way."""
    before = session.data.count
    await asyncio.sleep(0.005)
    session.data.count = before + 1
    return f"{session.data.count}, says {os.getpid()}"


@asynccontextmanager
async def served(application):
    """Run a web application of aiohttp's; the value is its address."""
    from aiohttp import web

    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    await runner.cleanup()


@asynccontextmanager
async def aiogram(api, sessions):
    from aiogram import Bot, Dispatcher
    from aiogram.client.session.aiohttp import AiohttpSession
    from aiogram.client.telegram import TelegramAPIServer
    from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
    from aiohttp import web
    from bot_session.frameworks.aiogram import SessionMiddleware

    bot, dispatcher = Bot(TOKEN, session=AiohttpSession(api=TelegramAPIServer.from_base(api))), Dispatcher()
    SessionMiddleware(sessions).setup(dispatcher)

    @dispatcher.message()
    async def handle(message, session):
        await message.answer(await count(session))

    application = web.Application()
    setup_application(application, dispatcher, bot=bot)
    SimpleRequestHandler(dispatcher, bot, secret_token=SECRET).register(application, "/hook")
    async with served(application) as url:
        yield url


@asynccontextmanager
async def telegram(api, sessions):
    from bot_session.frameworks.telegram import install
    from telegram.ext import Application, MessageHandler, filters

    async def handle(update, context):
        await update.message.reply_text(await count(context.session))

    builder = Application.builder().token(TOKEN).base_url(f"{api}/bot").concurrent_updates(True)
    application = install(builder, sessions).build()
    application.add_handler(MessageHandler(filters.TEXT, handle))
    own = socket.create_server(("127.0.0.1", 0))
    own.setblocking(False)
    url = f"http://127.0.0.1:{own.getsockname()[1]}/hook"
    async with application:
        await application.start()
        await application.updater.start_webhook(url_path="hook", webhook_url=url, secret_token=SECRET, unix=own)
        yield url
        await application.updater.stop()
        await application.stop()


@asynccontextmanager
async def telebot(api, sessions):
    from aiohttp import web
    from bot_session.frameworks.telebot import SessionTeleBot
    from telebot import asyncio_helper
    from telebot.types import Update

    asyncio_helper.API_URL = f"{api}/bot{{0}}/{{1}}"
    bot = SessionTeleBot(TOKEN, sessions=sessions)
    handled = set()

    @bot.message_handler()
    async def handle(message, session):
        await bot.send_message(message.chat.id, await count(session))

    async def take(request):
        """Answer at once and handle afterwards, as `run_webhooks` does."""
        assert SECRET == request.headers["X-Telegram-Bot-Api-Secret-Token"]
        task = asyncio.create_task(bot.process_new_updates([Update.de_json(await request.json())]))
        handled.add(task)
        task.add_done_callback(handled.discard)
        return web.Response()

    application = web.Application()
    application.router.add_post("/hook", take)
    async with sessions.storage, served(application) as url:
        yield url
        await bot.close_session()


async def main(framework: str, api: str, storage: str) -> None:
    """Be a worker until told to end."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    sessions = Sessions(open_storage(storage), initial=Visits, lock="shared")
    async with globals()[framework](api, sessions) as url:
        print(url, flush=True)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
