"""The integration contract, held by pyTelegramBotAPI's own asynchronous bot as it polls."""

import asyncio

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


class TestPolling(IntegrationContract):
    @pytest.fixture(autouse=True)
    def address(self, api, monkeypatch):
        monkeypatch.setattr(asyncio_helper, "API_URL", f"{api.url}/bot{{0}}/{{1}}")

    def make_bot(self, api, sessions, play, *, lazy=False):
        return TeleBot(api, sessions, play, lazy)
