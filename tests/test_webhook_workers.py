"""Two webhook workers behind one Telegram, with updates of one chat arriving at both: nothing is lost."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from bot_session.testing.botapi import BOB, FakeBotAPI, message

WORKER = Path(__file__).with_name("webhook_worker.py")
MESSAGES = 30


@pytest.fixture
async def api():
    async with FakeBotAPI(patience=60) as api:
        yield api


@pytest.fixture
async def start(api):
    """A function that starts a worker as a process and returns it with its address."""
    workers = []

    async def start(framework, url):
        worker = await asyncio.create_subprocess_exec(
            sys.executable, str(WORKER), framework, api.url, url, stdout=asyncio.subprocess.PIPE
        )
        workers.append(worker)
        return worker, (await worker.stdout.readline()).decode().strip()

    yield start
    for worker in workers:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()


@pytest.mark.parametrize("name", ["sqlite", "redis"])
@pytest.mark.parametrize("framework", ["aiogram", "telegram", "telebot"])
async def test_every_message_of_one_chat_is_counted_once(framework, name, make_url, open_url, api, start):
    pytest.importorskip(framework)
    url = make_url(name)
    storage = await open_url(url)
    workers = [await start(framework, url) for _ in range(2)]
    api.deliver_to(*(address for _, address in workers), secret_token="s3cret")
    await api.feed(*(message("hello") for _ in range(MESSAGES)), message("hello", user=BOB))
    said = [call.text for call in await api.answered(MESSAGES + 1) if call.chat_id == 7]
    for worker, _ in workers:
        worker.terminate()
    ended = [await worker.wait() for worker, _ in workers]

    counted = [re.fullmatch(r"(\d+), says (\d+)", text) for text in said]
    assert list(range(1, MESSAGES + 1)) == sorted(int(each[1]) for each in counted)
    assert {worker.pid for worker, _ in workers} == {int(each[2]) for each in counted}
    assert {200: MESSAGES + 1} == Counter(delivery.status for delivery in api.deliveries)
    assert [0, 0] == ended
    assert [{"count": MESSAGES}, {"count": 1}] == [json.loads((await storage.read(key)).value) for key in ("7", "8")]
