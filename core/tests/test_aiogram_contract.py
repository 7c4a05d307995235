"""The integration contract, held by aiogram's own dispatcher: polling, and as a webhook behind aiohttp."""

import asyncio

import pytest
from bot_session import Sessions
from bot_session.testing.botapi import BOB, FakeBotAPI, message
from bot_session.testing.integrations import Hunger, IntegrationContract, Play
from bot_session.testing.watched import WatchedStorage

pytest.importorskip("aiogram")

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.dispatcher.event.bases import CancelHandler, SkipHandler
from aiogram.types import CallbackQuery, InlineQuery
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web
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


class PollingBot(AiogramBot):
    async def start(self, **options):
        self.polling = asyncio.create_task(self.dispatcher.start_polling(self.bot, handle_signals=False, **options))

    async def stop(self):
        await self.dispatcher.stop_polling()
        await self.polling


class WebhookBot(AiogramBot):
    in_background = True

    async def start(self):
        application = web.Application()
        # In this order: the bot's connections are closed after what still runs is done.
        setup_application(application, self.dispatcher, bot=self.bot)
        handler = SimpleRequestHandler(
            self.dispatcher, self.bot, handle_in_background=self.in_background, secret_token="s3cret"
        )
        handler.register(application, path="/hook")
        self.runner = web.AppRunner(application)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        await self.bot.set_webhook(f"http://127.0.0.1:{self.runner.addresses[0][1]}/hook", secret_token="s3cret")

    async def stop(self):
        await self.bot.delete_webhook()
        await self.runner.cleanup()


class ForegroundWebhookBot(WebhookBot):
    in_background = False


class AiogramContract(IntegrationContract):
    control_flow = CancelHandler
    errors_have_session = True
    bot = PollingBot

    def make_bot(self, api, sessions, play, *, lazy=False):
        return self.bot(api, sessions, play, lazy)


class TestPolling(AiogramContract):
    """Every update is a task."""


class TestSkipping(AiogramContract):
    """The other control flow exception: the next handler has its turn."""

    control_flow = SkipHandler


class TestWebhook(AiogramContract):
    """Every update is answered at once, and handled afterwards."""

    bot = WebhookBot


class TestForegroundWebhook(AiogramContract):
    """Every update is answered when it was handled; what fails comes again."""

    control_flow = SkipHandler  # A CancelHandler would be an error for aiohttp, and Telegram would send it again.
    bot = ForegroundWebhookBot

    async def test_a_cancelled_handler_saves_nothing_and_lets_the_next_one_in(self, run, api, play):
        await run()
        await api.feed(message("wait"), message("eat"))
        await play.entered.wait()
        play.leave.set()
        play.waiting.cancel()
        calls = await api.answered(2)

        assert ["1", "2"] == [call.text for call in calls]  # Telegram has sent the first again.
        await api.delivered()
        assert [None, 200, 200] == [delivery.status for delivery in api.deliveries]
        assert {"7": '{"count":2}'} == await run.stored()


class TestOneByOne:
    async def test_what_a_shutdown_interrupts_comes_again_and_is_counted_once(self):
        """With ``handle_as_tasks=False`` aiogram itself cancels the handler; it has not confirmed the update yet."""
        sessions = Sessions(WatchedStorage(), initial=Hunger)
        async with FakeBotAPI() as api:
            first, second = Play(None), Play(None)
            bot = PollingBot(api, sessions, first, lazy=False)
            await bot.start(handle_as_tasks=False)
            assert "1" == await api.ask("eat", user=BOB)
            await api.feed(message("wait"))
            await first.entered.wait()
            await bot.stop()
            assert '{"count":1}' == await opened(sessions, "8")
            assert None is await opened(sessions, "7")

            second.leave.set()
            bot = PollingBot(api, sessions, second, lazy=False)
            await bot.start(handle_as_tasks=False)
            await second.entered.wait()
            await api.delivered()
            await bot.stop()

        assert '{"count":1}' == await opened(sessions, "7")


async def opened(sessions, key):
    """What is stored, though the bot has closed the storage."""
    await sessions.storage.open()
    return await sessions.storage.stored(key)
