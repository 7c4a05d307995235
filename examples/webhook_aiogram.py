"""
A webhook with several workers: whichever gets an update, the session is there, and nothing is lost.

    python examples/webhook_aiogram.py                          a rehearsal: two workers, and a Telegram of its own
    BOT_TOKEN=… WEBHOOK_SECRET=… python examples/webhook_aiogram.py --port 8080 --storage redis://localhost

Start as many of the second kind as you like behind a load balancer, and call ``setWebhook`` once, with the secret.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiogram import Bot, Dispatcher, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web
from bot_session import Session, Sessions, open_storage
from bot_session.frameworks.aiogram import SessionMiddleware

if TYPE_CHECKING:
    from aiogram.methods import SendMessage
    from aiogram.types import Message


@dataclass
class Visits:
    """What the bot remembers of a chat."""

    count: int = 0


router = Router()


@router.message()
async def visit(message: Message, session: Session[Visits]) -> SendMessage:
    """Count; slowly, so that the workers get into each other's way."""
    count = session.data.count
    await asyncio.sleep(0.005)
    session.data.count = count + 1
    return message.answer(f"{count + 1}, says worker {os.getpid()}")


async def work(arguments: argparse.Namespace) -> None:
    """Be a worker, until interrupted."""
    server = TelegramAPIServer.from_base(arguments.api) if arguments.api else PRODUCTION
    bot = Bot(os.environ["BOT_TOKEN"], session=AiohttpSession(api=server))
    dispatcher = Dispatcher()
    dispatcher.include_router(router)
    # The one thing that several workers need: a session belongs to one of them at a time.
    sessions = Sessions(open_storage(arguments.storage), initial=Visits, lock="shared")
    SessionMiddleware(sessions).setup(dispatcher)

    application = web.Application()
    # First this, then the handler: at shutdown, what still runs is waited for before the bot's connections are closed.
    setup_application(application, dispatcher, bot=bot)
    SimpleRequestHandler(dispatcher, bot, secret_token=os.environ["WEBHOOK_SECRET"]).register(application, "/webhook")
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
    print(runner.addresses[0][1], flush=True)
    interrupted = asyncio.Event()
    with suppress(NotImplementedError):  # On Windows a worker just ends.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    await interrupted.wait()
    await runner.cleanup()


async def rehearse(storage: str) -> None:
    """Start a Telegram and two workers, send thirty messages of one chat, and show what was answered."""
    from bot_session.testing.botapi import FakeBotAPI, message  # noqa: PLC0415 - needs bot-session[testing]

    async with FakeBotAPI(patience=60) as api, AsyncExitStack() as stack:
        environment = {**os.environ, "BOT_TOKEN": api.token, "WEBHOOK_SECRET": "secret"}
        command = [sys.executable, __file__, "--port", "0", "--api", api.url, "--storage", storage]
        urls = []
        for _ in range(2):
            worker = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
            stack.push_async_callback(worker.wait)
            stack.callback(worker.terminate)
            assert worker.stdout is not None  # noqa: S101 - for the type checker
            urls.append(f"http://127.0.0.1:{int(await worker.stdout.readline())}/webhook")
        api.deliver_to(*urls, secret_token="secret")  # noqa: S106 - a rehearsal
        await api.feed(*(message("hello") for _ in range(30)))
        for call in await api.answered(30):
            print(call.text)


def main() -> None:
    """Run a worker, or without a token a rehearsal."""
    parser = argparse.ArgumentParser(description="A bot that counts visits, with several workers.")
    parser.add_argument("--storage", metavar="URL", help="one that processes share; for a rehearsal a new database")
    parser.add_argument("--port", type=int, default=8080, help="where to listen (%(default)s)")
    parser.add_argument("--api", metavar="URL", help="a Bot API server of your own")
    arguments = parser.parse_args()
    if os.environ.get("BOT_TOKEN"):
        asyncio.run(work(arguments))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(rehearse(arguments.storage or f"sqlite:{folder}/webhook.db"))


if __name__ == "__main__":
    main()
