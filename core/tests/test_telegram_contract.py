"""The integration contract, held by python-telegram-bot's own application: polling, and as a webhook."""

import socket

import pytest
from bot_session.testing.integrations import IntegrationContract

pytest.importorskip("telegram")

from bot_session.frameworks.telegram import install
from telegram.ext import Application, ApplicationHandlerStop, TypeHandler


class TelegramBot:
    def __init__(self, api, sessions, play, concurrent, lazy):
        builder = Application.builder().token(api.token).base_url(f"{api.url}/bot").concurrent_updates(concurrent)
        self.application = install(builder, sessions, lazy=lazy).build()
        self.play = play
        self.application.add_handler(TypeHandler(object, self._handle))
        self.application.add_error_handler(self._failed)

    async def _handle(self, update, context):
        query = update.callback_query or update.inline_query
        text = update.effective_message.text if query is None else getattr(query, "data", None) or query.query
        if text not in (None, "nobody"):
            answer = await self.play(text, context.session)
            if update.effective_chat is not None:
                await update.effective_chat.send_message(answer)

    async def _failed(self, update, context):
        self.play.failed(context.error)

    async def start(self):
        await self.application.initialize()
        await self.application.start()
        await self.listen()

    async def listen(self):
        await self.application.updater.start_polling()

    async def stop(self):
        await self.application.updater.stop()
        await self.application.stop()
        await self.application.shutdown()


class WebhookBot(TelegramBot):
    async def listen(self):
        own = socket.create_server(("127.0.0.1", 0))
        own.setblocking(False)
        url = f"http://127.0.0.1:{own.getsockname()[1]}/hook"
        await self.application.updater.start_webhook(url_path="hook", webhook_url=url, secret_token="s3cret", unix=own)


class TestConcurrently(IntegrationContract):
    control_flow = ApplicationHandlerStop
    bot = TelegramBot

    def make_bot(self, api, sessions, play, *, lazy=False):
        return self.bot(api, sessions, play, self.concurrent, lazy)


class TestOneByOne(TestConcurrently):
    concurrent = False


class TestWebhook(TestConcurrently):
    """Every update is answered at once, and handled afterwards."""

    bot = WebhookBot

    @pytest.fixture(autouse=True)
    def needs_tornado(self):
        pytest.importorskip("tornado")


class TestWebhookOneByOne(TestWebhook):
    concurrent = False
