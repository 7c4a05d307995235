"""A server that is killed and started again under load: every acknowledged change is there, and the bot goes on."""

import asyncio
import uuid
from dataclasses import dataclass, field

import pytest
from bot_session import ConflictError, Sessions, UnavailableError, open_storage

KILLS = 3


@dataclass
class Diary:
    entries: list[int] = field(default_factory=list)


@pytest.fixture(params=["redis", "postgres"])
def server(request):
    """A server that has what it acknowledges on the disk, and the URL of a storage in it."""
    alone = f"t{uuid.uuid4().hex}"
    if request.param == "redis":
        server = request.getfixturevalue("redis_aof_server")
        return server, server.url_with(f"prefix={alone}:&timeout=2")
    server = request.getfixturevalue("postgres_server")
    return server, server.url_with(f"table={alone}&timeout=2")


@pytest.mark.timeout(180)
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed_under_load(server):
    server, url = server
    acknowledged, done = {str(key): [] for key in range(8)}, asyncio.Event()
    progress = asyncio.Semaphore(0)

    async def fifty_more():
        async with asyncio.timeout(60):
            for _ in range(50):
                await progress.acquire()

    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Diary)

        async def write(worker):
            number = worker * 1_000_000
            while not done.is_set():
                number += 1
                key = str(number % 8)
                try:
                    async with sessions.open(key) as session:
                        assert session.is_new is (acknowledged[key] == [] and session.data.entries == [])
                        session.data.entries.append(number)
                except (UnavailableError, ConflictError):
                    await asyncio.sleep(0.01)
                else:
                    acknowledged[key].append(number)
                    progress.release()

        writers = [asyncio.create_task(write(worker)) for worker in range(1, 9)]
        for _ in range(KILLS):
            await fifty_more()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            while not progress.locked():  # What was done before the kill does not count.
                await progress.acquire()
        await fifty_more()  # Without a restart of ours, it works again.
        done.set()
        await asyncio.gather(*writers)
        for key, numbers in acknowledged.items():
            found = (await sessions.read(key)).entries

            assert [] == [number for number in numbers if number not in set(found)]
            assert len(found) == len(set(found))
        assert 0 == len(sessions.desk.locks)
