"""Faults between sessions and real servers: connections that are cut and delayed at random under load."""

import asyncio
import os
import random
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import pytest
from bot_session import BotSessionError, ConflictError, Sessions, UnavailableError, open_storage
from bot_session.testing.proxy import Proxy

SECONDS = float(os.environ.get("BOT_SESSION_TEST_FAULT_SECONDS", "4"))
"""How long each server is troubled; the environment may ask for more."""

# PyMongo leaves a socket to the garbage collector when it is cut off while it connects.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*<socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(SECONDS + 120),
]


@dataclass
class Diary:
    entries: list[int] = field(default_factory=list)


@pytest.fixture(params=["redis", "mongo", "postgres", "supabase"])
async def line(request, make_url, open_url):
    """A proxy before a server, and the URL that leads through it."""
    direct = make_url(request.param)
    await open_url(direct)
    parts = urlsplit(direct)
    async with Proxy(parts.hostname, parts.port) as proxy:
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        through = parts._replace(netloc=f"{login}127.0.0.1:{proxy.port}")
        yield proxy, urlunsplit(through._replace(query=f"{through.query}&timeout=2"))


async def trouble(proxy, until):
    """Cut, delay and refuse at random."""
    chance = random.Random(7)
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        await asyncio.sleep(chance.uniform(0, 0.2))
        match chance.randrange(4):
            case 0 | 1:
                await proxy.cut()
            case 2:
                proxy.delay = chance.uniform(0, 0.05)
            case 3:
                proxy.refusing = True
                await asyncio.sleep(chance.uniform(0, 0.1))
        proxy.refusing, proxy.delay = False, 0


async def test_nothing_acknowledged_is_lost_nothing_begins_anew_and_nobody_hangs(line):
    proxy, url = line
    acknowledged = {str(key): [] for key in range(8)}
    failures = []
    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Diary)
        for key in acknowledged:
            await sessions.update(key, lambda diary: diary.entries.append(0))
        until = asyncio.get_running_loop().time() + SECONDS

        async def write(worker):
            number = worker * 1_000_000
            while asyncio.get_running_loop().time() < until:
                number += 1
                key = random.choice(list(acknowledged))
                try:
                    async with sessions.open(key) as session:
                        assert not session.is_new
                        assert 0 == session.data.entries[0]
                        session.data.entries.append(number)
                except (UnavailableError, ConflictError) as error:
                    failures.append(error)
                else:
                    acknowledged[key].append(number)

        async with asyncio.timeout(SECONDS + 60):
            await asyncio.gather(trouble(proxy, until), *(write(worker) for worker in range(1, 17)))
        found = {key: (await sessions.read(key)).entries for key in acknowledged}

        assert 0 == len(sessions.desk.locks)
    for key, numbers in acknowledged.items():
        assert [] == [number for number in numbers if number not in set(found[key])]
        assert len(found[key]) == len(set(found[key]))
    assert sum(map(len, acknowledged.values())) > 20 * SECONDS
    assert failures, "the faults were never felt"


async def test_an_outage_is_told_in_time_and_is_over_when_it_is_over(line):
    proxy, url = line
    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Diary)
        await sessions.update("42", lambda diary: diary.entries.append(1))
        proxy.refusing = True
        await proxy.cut()
        async with asyncio.timeout(15):
            with pytest.raises(UnavailableError) as caught:
                async with sessions.open("42"):
                    pytest.fail("the body ran")

        assert caught.value.__cause__ is not None

        proxy.refusing = False
        async with asyncio.timeout(15), sessions.open("42") as session:
            assert [1] == session.data.entries


async def test_a_slow_server_is_given_up_within_the_timeout(line):
    proxy, url = line
    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Diary)
        await sessions.update("42", lambda diary: diary.entries.append(1))
        proxy.delay = 30
        started = asyncio.get_running_loop().time()
        with pytest.raises(UnavailableError):
            async with sessions.open("42"):
                pytest.fail("the body ran")

        assert asyncio.get_running_loop().time() - started < 8

        proxy.delay = 0
        await proxy.cut()
        async with asyncio.timeout(15), sessions.open("42") as session:
            assert [1] == session.data.entries


@pytest.mark.parametrize("steps", range(12))
async def test_a_save_that_is_cancelled_anywhere_leaves_everything_usable(line, steps):
    _, url = line
    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Diary)
        await sessions.update("42", lambda diary: diary.entries.append(0))

        async def update():
            async with sessions.open("42") as session:
                session.data.entries.append(1)

        task = asyncio.create_task(update())
        for _ in range(steps * 3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(15):
            for _ in range(3):
                try:
                    async with sessions.open("42") as session:
                        session.data.entries.append(2)
                except BotSessionError:  # The cancelled write may arrive in between, and then merging cannot help.
                    continue
                break

        assert 0 == len(sessions.desk.locks)
        assert (await sessions.read("42")).entries in ([0, 2], [0, 1, 2])
