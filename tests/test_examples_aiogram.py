"""The examples for aiogram, as users see them: through a Bot API."""

import asyncio
import importlib
import json
import os
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bot_session import MemoryStorage, open_storage
from bot_session.testing.botapi import BOB, FakeBotAPI, group, pre_checkout_query

pytest.importorskip("aiogram")
pytest.importorskip("rich")

from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def chatting(monkeypatch):
    """A function that runs an example's bot, and gives the Bot API through which to talk to it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    @asynccontextmanager
    async def chatting(name, storage):
        monkeypatch.delitem(sys.modules, name, raising=False)  # A router can be included once.
        example = importlib.import_module(name)
        dispatcher = example.make_dispatcher(storage)
        async with FakeBotAPI() as api:
            bot = Bot(api.token, session=AiohttpSession(api=TelegramAPIServer.from_base(api.url)))
            polling = asyncio.create_task(dispatcher.start_polling(bot, handle_signals=False))
            yield api
            await dispatcher.stop_polling()
            await polling

    return chatting


class TestSettings:
    async def test_users_have_theirs_in_every_chat_and_chats_have_theirs_for_everybody(self, chatting):
        async with chatting("settings_aiogram", MemoryStorage()) as api:
            assert "What a day! It is 21 °C, and sunny." == await api.ask("/weather")

            await api.ask("/fahrenheit")
            await api.ask("/quiet", chat=group())

            assert "70 °F" == await api.ask("/weather", chat=group())
            assert "21 °C" == await api.ask("/weather", chat=group(), user=BOB)
            assert "What a day! It is 70 °F, and sunny." == await api.ask("/weather")

            await api.ask("/reset", chat=group())

            assert "What a day! It is 21 °C, and sunny." == await api.ask("/weather", chat=group())
            assert "What a day! It is 21 °C, and sunny." == await api.ask("/weather")
            assert "/weather" in await api.ask("hi")


class TestCheckout:
    async def test_from_an_old_cart_to_a_payment(self, chatting):
        now = 0.0
        storage = MemoryStorage(clock=lambda: now)
        await storage.write("7", '{"items":["pizza","sushi","pizza"]}')
        async with chatting("checkout_aiogram", storage) as api:
            assert "2 × pizza: 18 ⭐" == await api.ask("/cart")
            assert "1 × cola, 21 ⭐ in all" == await api.ask("Cola")

            await api.ask("/pay")
            invoice = api.sent[-1]
            assert ("sendInvoice", "21") == (invoice.method, invoice.fields["payload"])

            await api.ask("cola")
            await api.feed(pre_checkout_query("21"))
            assert "answerPreCheckoutQuery" == (await api.answered(5))[-1].method
            assert "ok" not in api.sent[-1].fields or not api.sent[-1].fields["ok"]

            await api.feed(pre_checkout_query("24"))
            assert (await api.answered(6))[-1].fields["ok"]
            payment = {
                "currency": "XTR",
                "total_amount": 24,
                "invoice_payload": "24",
                "telegram_payment_charge_id": "1",
                "provider_payment_charge_id": "1",
            }
            assert "It is on its way!" == await api.ask(None, successful_payment=payment)
            assert "nothing: 0 ⭐" == await api.ask("/cart")
            assert "There is nothing to pay." == await api.ask("/pay")
            assert "/cart" in await api.ask("sushi")

    async def test_a_cart_is_forgotten_an_hour_after_the_last_look(self, chatting):
        now = 0.0
        async with chatting("checkout_aiogram", MemoryStorage(clock=lambda: now)) as api:
            await api.ask("pizza")
            now = 3000.0
            assert "1 × pizza: 9 ⭐" == await api.ask("/cart")
            now = 6000.0
            assert "1 × pizza: 9 ⭐" == await api.ask("/cart")
            now = 9601.0
            assert "nothing: 0 ⭐" == await api.ask("/cart")


class TestWebhook:
    @pytest.mark.parametrize("scheme", ["sqlite", "file"])
    async def test_two_workers_count_every_message_of_one_chat(self, tmp_path, scheme):
        storage = f"{scheme}:{tmp_path}/webhook"
        environment = {name: value for name, value in os.environ.items() if name != "BOT_TOKEN"}
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, str(EXAMPLES / "webhook_aiogram.py"), "--storage", storage],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

        assert "" == done.stderr
        answers = re.findall(r"^(\d+), says worker (\d+)$", done.stdout, re.MULTILINE)
        assert sorted(range(1, 31)) == sorted(int(count) for count, _ in answers)
        assert 2 == len({worker for _, worker in answers})
        async with open_storage(storage) as kept:
            assert {"count": 30} == json.loads((await kept.read("7")).value)
