"""The integration contract, held by aiogram's own dispatcher as it polls."""

import asyncio

import pytest
from bot_session.testing.integrations import IntegrationContract

pytest.importorskip("aiogram")

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.dispatcher.event.bases import CancelHandler, SkipHandler
from aiogram.types import CallbackQuery, InlineQuery
from bot_session.frameworks.aiogram import SessionMiddleware


class AiogramBot:
    def __init__(self, api, sessions, play, lazy):
        self.bot = Bot(api.token, session=AiohttpSession(api=TelegramAPIServer.from_base(api.url)))
        self.dispatcher = dispatcher = Dispatcher()

        async def handle(event, session):
            text = getattr(event, "text", None) or getattr(event, "data", None) or getattr(event, "query", None)
            answer = await play(text, session)
            if isinstance(event, CallbackQuery):
                event = event.message
            if not isinstance(event, InlineQuery):
                await event.answer(answer)

        for kind in ("message", "edited_message", "channel_post"):
            dispatcher.observers[kind].register(handle, lambda event: event.text not in (None, "nobody"))
        dispatcher.callback_query.register(handle)
        dispatcher.inline_query.register(handle)

        @dispatcher.error()
        async def failed(event, session=None):
            play.failed(event.exception, session)

        SessionMiddleware(sessions, lazy=lazy).setup(dispatcher)

    async def start(self):
        self.polling = asyncio.create_task(self.dispatcher.start_polling(self.bot, handle_signals=False))

    async def stop(self):
        await self.dispatcher.stop_polling()
        await self.polling


class TestPolling(IntegrationContract):
    control_flow = CancelHandler
    errors_have_session = True

    def make_bot(self, api, sessions, play, *, lazy=False):
        return AiogramBot(api, sessions, play, lazy)


class TestSkipping(TestPolling):
    """The other control flow exception: the next handler has its turn."""

    control_flow = SkipHandler
