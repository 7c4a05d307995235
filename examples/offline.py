"""Lets a bot poll a fake Bot API on this machine, and a person chat with it: every line of input is a message."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from bot_session.testing.botapi import FakeBotAPI

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager


async def chat(polling: Callable[[str, str], AbstractAsyncContextManager[object]]) -> None:
    """
    Chat until the input ends.

    Args:
        polling: Given a token and the address of the Bot API, has the bot poll it for the time of a block.
    """
    print("Send it 🍕, /hunger or /forget; Ctrl-D ends.")
    async with FakeBotAPI() as api, polling(api.token, api.url):
        while line := await asyncio.to_thread(sys.stdin.readline):
            if text := line.strip():
                print(await api.ask(text))
