"""
A fake Bot API, against which unmodified bots run: by polling or by webhook, with aiogram, python-telegram-bot or
pyTelegramBotAPI, or with anything else that speaks HTTP.

.. code-block:: python

    async def test_it_counts():
        async with FakeBotAPI() as api:
            bot = Bot(api.token, session=AiohttpSession(api=TelegramAPIServer.from_base(api.url)))
            polling = asyncio.create_task(dispatcher.start_polling(bot, handle_signals=False))

            assert "That makes 1 🍕" == await api.ask("🍕")

            await dispatcher.stop_polling()
            await polling
"""

from __future__ import annotations

from .server import ApiError, Call, Delivery, FakeBotAPI
from .updates import (
    ADA,
    BOB,
    business_connection,
    business_message,
    callback_query,
    channel,
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

__all__ = [
    "ADA",
    "BOB",
    "ApiError",
    "Call",
    "Delivery",
    "FakeBotAPI",
    "business_connection",
    "business_message",
    "callback_query",
    "channel",
    "channel_post",
    "edited_message",
    "group",
    "inline_query",
    "member_change",
    "message",
    "migrate_from",
    "migrate_to",
    "person",
    "poll",
    "pre_checkout_query",
    "private",
    "reaction",
    "supergroup",
]
