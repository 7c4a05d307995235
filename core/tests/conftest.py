"""What several files of tests are given."""

from __future__ import annotations

import json

import pytest
from bot_session.testing.watched import WatchedStorage


@pytest.fixture
def storage():
    """A storage that tells what was asked of it."""
    return WatchedStorage()


@pytest.fixture
def offline():
    """A function that makes a builder of python-telegram-bot make applications without a connection to Telegram."""
    from telegram.request import BaseRequest

    class Silent(BaseRequest):
        read_timeout = None

        async def initialize(self):
            pass

        async def shutdown(self):
            pass

        async def do_request(self, url, *_, **__):
            me = {"id": 42, "is_bot": True, "first_name": "Bot", "username": "test_bot"}
            return 200, json.dumps({"ok": True, "result": me if url.endswith("getMe") else True}).encode()

    return lambda builder: builder.token("42:TEST").request(Silent()).get_updates_request(Silent()).updater(None)
