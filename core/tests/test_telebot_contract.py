"""The integration contract, held by pyTelegramBotAPI's own asynchronous bot: polling, and as a webhook."""

import asyncio
from unittest.mock import patch

import pytest
from bot_session.testing.integrations import IntegrationContract

pytest.importorskip("telebot")
pytest.importorskip("aiohttp")

from bot_session.frameworks.telebot import SessionTeleBot
from telebot import asyncio_helper
from telebot.types import CallbackQuery, InlineQuery


class TeleBot:
    def __init__(self, api, sessions, play, lazy):
        self.play = play
        self.bot = SessionTeleBot(api.token, sessions=sessions, lazy=lazy, exception_handler=self)

        async def answer(event, session):
            text = getattr(event, "text", None) or getattr(event, "data", None) or getattr(event, "query", None)
            said = await play(text, session)
            if isinstance(event, CallbackQuery):
                event = event.message
            if not isinstance(event, InlineQuery):
                await self.bot.send_message(event.chat.id, said)

        for register in (
            self.bot.register_message_handler,
            self.bot.register_edited_message_handler,
            self.bot.register_channel_post_handler,
        ):
            register(answer, func=lambda event: event.text not in (None, "nobody"))
        self.bot.register_callback_query_handler(answer, func=lambda _: True)
        self.bot.register_inline_handler(answer, func=lambda _: True)

    async def handle(self, error):
        self.play.failed(error)
        return True

    async def start(self):
        self.polling = asyncio.create_task(self.bot.polling(timeout=1))

    async def stop(self):
        self.polling.cancel()
        await self.polling


class WebhookBot(TeleBot):
    def __init__(self, *arguments):
        from telebot.ext.aio import webhooks

        super().__init__(*arguments)
        self.api = arguments[0]
        made = self.made = asyncio.Queue()

        class Server(webhooks.Server):
            """Theirs, which `run_webhooks` keeps to itself: as if from outside it is asked where it is, and to stop."""

            async def startup(self, *arguments, **options):
                await super().startup(*arguments, **options)
                made.put_nowait(self)

        self.patch = patch.object(webhooks, "Server", Server)

    async def start(self):
        with self.patch:
            self.running = asyncio.create_task(
                self.bot.run_webhooks(port=0, url_path="hook", webhook_url="http://127.0.0.1:9", secret_token="s3cret")
            )
            self.server = await self.made.get()
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.api.deliver_to(f"http://127.0.0.1:{port}/hook/", secret_token="s3cret")

    async def stop(self):
        self.server.should_exit = True
        await self.running


class TestPolling(IntegrationContract):
    bot = TeleBot

    @pytest.fixture(autouse=True)
    def address(self, api, monkeypatch):
        monkeypatch.setattr(asyncio_helper, "API_URL", f"{api.url}/bot{{0}}/{{1}}")

    def make_bot(self, api, sessions, play, *, lazy=False):
        return self.bot(api, sessions, play, lazy)


class TestWebhook(TestPolling):
    """Every update is answered at once, and handled afterwards."""

    bot = WebhookBot

    @pytest.fixture(autouse=True)
    def needs_fastapi(self):
        pytest.importorskip("fastapi")
        pytest.importorskip("uvicorn")
