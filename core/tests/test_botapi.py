"""The fake Bot API, as unmodified frameworks see it."""

import asyncio
import io
import json

import pytest
from bot_session.testing.botapi import (
    ADA,
    BOB,
    ApiError,
    FakeBotAPI,
    business_connection,
    business_message,
    callback_query,
    channel_post,
    edited_message,
    group,
    inline_query,
    member_change,
    message,
    migrate_from,
    migrate_to,
    person,
    poll,
    pre_checkout_query,
    private,
    reaction,
    supergroup,
)
from bot_session.testing.botapi.wire import read_message, response
from bot_session.testing.listener import Listener

EVERY_KIND = [
    message("/start", chat=group()),
    edited_message(),
    channel_post(),
    business_connection(),
    business_message(),
    callback_query(chat=supergroup()),
    callback_query(inline_message_id="x"),
    inline_query("pizza"),
    pre_checkout_query(),
    reaction(),
    member_change(group()),
    poll(),
    migrate_to(-1001000000000),
    migrate_from(-100),
]


@pytest.fixture
async def api():
    async with FakeBotAPI(patience=5) as api:
        yield api


def numbers(updates):
    return [update["update_id"] for update in updates]


class Webhook(Listener):
    """A server that answers as told and keeps what it was asked."""

    def __init__(self):
        super().__init__(self.answer_one)
        self.statuses = []
        self.answer = {}
        self.requests = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.busy = self.busiest = 0
        self.three = asyncio.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/hook"

    async def answer_one(self, reader, writer):
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        if self.busy == 3:
            self.three.set()
        request = await read_message(reader)
        self.requests.append(request)
        await self.gate.wait()
        self.busy -= 1
        writer.write(response(self.statuses.pop(0) if self.statuses else 200, self.answer))

    @property
    def texts(self):
        return [json.loads(request.body)["message"]["text"] for request in self.requests]


@pytest.fixture
async def webhook():
    async with Webhook() as webhook:
        yield webhook


class TestPolling:
    async def test_updates_come_again_until_the_next_ones_are_asked_for(self, api):
        first, second = await api.feed(message("1"), message("2"))

        assert [first, second] == numbers(await api.call("getUpdates"))
        assert [first] == numbers(await api.call("getUpdates", limit=1))
        assert [second] == numbers(await api.call("getUpdates", offset=second))
        assert [] == await api.call("getUpdates", offset=second + 1)
        await api.delivered()

    async def test_a_negative_offset_counts_from_the_end(self, api):
        updates = await api.feed(message("1"), message("2"), message("3"))

        assert updates[-1:] == numbers(await api.call("getUpdates", offset=-1))

    async def test_a_long_poll_ends_when_something_happens(self, api):
        polling = asyncio.create_task(api.call("getUpdates", timeout=50))
        await asyncio.sleep(0)
        fed = await api.feed(message())

        assert fed == numbers(await polling)

    async def test_a_second_poll_ends_the_first(self, api):
        first = asyncio.create_task(api.call("getUpdates", timeout=50))
        await api._until(lambda: api._polls or None, "the first poll")
        second = asyncio.create_task(api.call("getUpdates", timeout=50))
        with pytest.raises(ApiError, match="409 Conflict: terminated"):
            await first
        fed = await api.feed(message())

        assert fed == numbers(await second)

    async def test_what_the_bot_did_not_ask_for_it_does_not_get(self, api):
        await api.feed(reaction(), message())
        by_default = await api.call("getUpdates")
        await api.feed(reaction())
        asked = await api.call("getUpdates", allowed_updates=["message_reaction"])

        assert ["message"] == [kind for update in by_default for kind in update if kind != "update_id"]
        assert ["message_reaction"] == [kind for update in asked for kind in update if kind != "update_id"]
        assert 2 == len(api.dropped)  # The first reaction; and the message, which was not confirmed yet.

    async def test_every_kind_of_update_is_one_for_each_framework(self, api):
        aiogram = pytest.importorskip("aiogram.types")
        telegram = pytest.importorskip("telegram")
        telebot = pytest.importorskip("telebot.types")
        await api.feed(*EVERY_KIND)
        kinds = [next(iter(update)) for update in EVERY_KIND]
        updates = await api.call("getUpdates", allowed_updates=sorted(set(kinds)))

        for kind, update in zip(kinds, updates, strict=True):
            assert getattr(aiogram.Update.model_validate(update), kind)
            assert getattr(telegram.Update.de_json(update, None), kind)
            assert getattr(telebot.Update.de_json(update), kind)


class TestCalls:
    async def test_what_the_bot_sends_is_kept_and_answered_as_a_message_of_the_chat(self, api):
        await api.feed(message(chat=supergroup(title="Lunch")))
        answer = await api.call("sendMessage", chat_id=supergroup()["id"], text="hello")
        [call] = await api.answered(1)

        assert ("sendMessage", supergroup()["id"], "hello") == (call.method, call.chat_id, call.text)
        assert ("Lunch", "hello", 42) == (answer["chat"]["title"], answer["text"], answer["from"]["id"])

    async def test_asking_and_setting_up_is_not_kept(self, api):
        assert "test_bot" == (await api.call("getMe"))["username"]
        assert [] == await api.call("getMyCommands")
        assert await api.call("setMyCommands", commands=[])
        assert await api.call("deleteMessage", chat_id=7, message_id=1)
        assert ["deleteMessage"] == [call.method for call in api.sent]

    async def test_answers_may_be_given(self, api):
        api.answers["getChatMemberCount"] = 5
        api.answers["getFile"] = lambda fields: {"file_id": fields["file_id"]}
        api.answers["sendMessage"] = ApiError(429, "Too Many Requests: retry after 3", retry_after=3)

        assert 5 == await api.call("getChatMemberCount", chat_id=7)
        assert {"file_id": "x"} == await api.call("getFile", file_id="x")
        with pytest.raises(ApiError) as caught:
            await api.call("sendMessage", chat_id=7, text="hello")
        assert (429, {"retry_after": 3}) == (caught.value.code, caught.value.parameters)

    async def test_another_token_is_not_let_in(self, api):
        token, api.token = api.token, "42:WRONG"
        calling = api.call("getMe")
        task = asyncio.ensure_future(calling)
        await asyncio.sleep(0)
        api.token = token
        with pytest.raises(ApiError, match="401"):
            await task

    async def test_waiting_in_vain_ends_and_tells_what_there_was(self):
        async with FakeBotAPI(patience=0.01) as api:
            await api.feed(message())
            await api.call("sendMessage", chat_id=7, text="hello")
            with pytest.raises(AssertionError, match=r"2 calls.*'sendMessage': 1.*1 updates not taken"):
                await api.answered(2)

    async def test_what_is_no_http_is_answered_with_400(self, api):
        port = int(api.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /bot42:TEST/getMe HTTP/1.1\r\nContent-Length: many\r\n\r\n")

        assert b"HTTP/1.1 400" in await reader.read()
        writer.close()


class TestWebhook:
    async def test_it_gets_updates_with_its_secret(self, api, webhook):
        await api.call("setWebhook", url=webhook.url, secret_token="s3cret")
        await api.feed(message("1"), message("2"))
        await api.delivered()

        assert ["1", "2"] == webhook.texts
        assert {"s3cret"} == {request.headers["X-Telegram-Bot-Api-Secret-Token"] for request in webhook.requests}

    async def test_an_update_comes_again_until_it_is_answered_with_success_and_holds_up_its_chat(self, api, webhook):
        webhook.statuses = [500, 404, 200]
        await api.call("setWebhook", url=webhook.url)
        await api.feed(message("1"), message("2"))
        await api.delivered()

        assert ["1", "1", "1", "2"] == webhook.texts
        assert [500, 404, 200, 200] == [delivery.status for delivery in api.deliveries]
        assert "500" not in (await api.call("getWebhookInfo"))["last_error_message"]

    async def test_chats_do_not_wait_for_each_other(self, api, webhook):
        webhook.gate.clear()
        await api.call("setWebhook", url=webhook.url)
        users = [person(number, "Ada") for number in range(1, 4)]
        await api.feed(*(message(str(user["id"]), user=user) for user in users for _ in range(2)))
        await webhook.three.wait()
        webhook.gate.set()
        await api.delivered()

        assert 3 == webhook.busiest
        assert ["1", "1", "2", "2", "3", "3"] == sorted(webhook.texts)

    async def test_several_urls_take_turns(self, api, webhook):
        async with Webhook() as other:
            api.deliver_to(webhook.url, other.url)
            await api.feed(*(message(str(number)) for number in range(4)))
            await api.delivered()

            assert (["0", "2"], ["1", "3"]) == (webhook.texts, other.texts)

    async def test_a_call_may_be_the_answer(self, api, webhook):
        webhook.answer = {"method": "sendMessage", "chat_id": 7, "text": "hello"}
        await api.call("setWebhook", url=webhook.url)

        assert "hello" == await api.ask("hi")

    async def test_polling_is_refused_while_there_is_one(self, api, webhook):
        await api.call("setWebhook", url=webhook.url)
        with pytest.raises(ApiError, match="409"):
            await api.call("getUpdates")
        await api.call("deleteWebhook")

        assert "" == (await api.call("getWebhookInfo"))["url"]
        assert [] == await api.call("getUpdates")

    async def test_nobody_there_is_tried_again(self, api, webhook):
        async with Webhook() as gone:
            pass
        api.deliver_to(gone.url, webhook.url)
        await api.feed(message("1"))
        await api.delivered()

        assert [None, 200] == [delivery.status for delivery in api.deliveries]


class TestFrameworks:
    """A bot of each framework: asked by polling, with a file, with a button."""

    async def test_aiogram(self, api):
        pytest.importorskip("aiogram")
        from aiogram import Bot, Dispatcher
        from aiogram.client.session.aiohttp import AiohttpSession
        from aiogram.client.telegram import TelegramAPIServer
        from aiogram.types import BufferedInputFile, InlineKeyboardButton, InlineKeyboardMarkup

        bot = Bot(api.token, session=AiohttpSession(api=TelegramAPIServer.from_base(api.url)))
        dispatcher = Dispatcher()

        @dispatcher.message()
        async def echo(event):
            button = InlineKeyboardButton(text="b", callback_data="c")
            answer = await event.answer(event.text, reply_markup=InlineKeyboardMarkup(inline_keyboard=[[button]]))
            await answer.edit_text("[1]")
            await event.answer_document(BufferedInputFile(b"\0\r\n\xff", "x.bin"), caption="7")

        polling = asyncio.create_task(dispatcher.start_polling(bot, handle_signals=False))
        await expect_echo(api)
        await dispatcher.stop_polling()
        await polling

    async def test_python_telegram_bot(self, api):
        pytest.importorskip("telegram")
        from telegram import InlineKeyboardButton, InlineKeyboardMarkup
        from telegram.ext import Application, MessageHandler

        async def echo(update, _):
            markup = InlineKeyboardMarkup([[InlineKeyboardButton("b", callback_data="c")]])
            answer = await update.message.reply_text(update.message.text, reply_markup=markup)
            await answer.edit_text("[1]")
            await update.message.reply_document(b"\0\r\n\xff", filename="x.bin", caption="7")

        application = Application.builder().token(api.token).base_url(f"{api.url}/bot").build()
        application.add_handler(MessageHandler(None, echo))
        async with application:
            await application.start()
            await application.updater.start_polling()
            await expect_echo(api)
            await application.updater.stop()
            await application.stop()

    async def test_telebot(self, api, monkeypatch):
        pytest.importorskip("telebot")
        from telebot import asyncio_helper
        from telebot.async_telebot import AsyncTeleBot
        from telebot.types import InlineKeyboardButton, InlineKeyboardMarkup, InputFile

        monkeypatch.setattr(asyncio_helper, "API_URL", api.url + "/bot{0}/{1}")
        bot = AsyncTeleBot(api.token)

        @bot.message_handler()
        async def echo(event):
            markup = InlineKeyboardMarkup([[InlineKeyboardButton("b", callback_data="c")]])
            answer = await bot.send_message(event.chat.id, event.text, reply_markup=markup)
            await bot.edit_message_text("[1]", answer.chat.id, answer.message_id)
            await bot.send_document(event.chat.id, InputFile(io.BytesIO(b"\0\r\n\xff"), "x.bin"), caption="7")

        polling = asyncio.create_task(bot.polling(non_stop=True))
        await expect_echo(api)
        polling.cancel()
        await asyncio.wait([polling])
        await bot.close_session()


async def expect_echo(api):
    await api.feed(message("42", user=BOB), message("42", user=ADA))
    calls = [call for call in await api.answered(6) if call.chat_id == private(ADA)["id"]]

    assert ["sendMessage", "editMessageText", "sendDocument"] == [call.method for call in calls]
    assert ["42", "[1]", "7"] == [call.text for call in calls]
    assert "c" == calls[0].fields["reply_markup"]["inline_keyboard"][0][0]["callback_data"]
    assert [b"\0\r\n\xff"] == list(calls[2].files.values())
    await api.delivered()
