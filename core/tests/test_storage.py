"""What `Storage` itself does for its adapters."""

import asyncio

import pytest
from bot_session import MemoryStorage, UnavailableError


class Down(MemoryStorage):
    """Cannot be opened, until it is up."""

    def __init__(self):
        super().__init__()
        self.up = False
        self.attempts = 0

    async def _open(self):
        self.attempts += 1
        await asyncio.sleep(0.01)
        if not self.up:
            raise UnavailableError("down", operation="open") from ConnectionError("no route")


class TestOpening:
    async def test_all_who_wait_for_an_attempt_are_told_that_it_failed(self):
        storage = Down()
        errors = await asyncio.gather(*(storage.read("1") for _ in range(30)), return_exceptions=True)

        assert 1 == storage.attempts
        assert [UnavailableError] * 30 == [type(error) for error in errors]
        assert 30 == len(set(map(id, errors)))
        assert [ConnectionError] * 30 == [type(error.__cause__) for error in errors]

    async def test_who_comes_later_tries_again(self):
        storage = Down()
        for attempt in (1, 2):
            with pytest.raises(UnavailableError):
                await storage.read("1")
            assert attempt == storage.attempts
        storage.up = True

        assert await storage.read("1") is None

    async def test_who_waits_for_one_that_is_cancelled_tries_in_its_place(self):
        storage = Down()
        storage.up = True
        first = asyncio.create_task(storage.read("1"))
        second = asyncio.create_task(storage.read("2"))
        await asyncio.sleep(0)
        first.cancel()

        assert await second is None
        assert 2 == storage.attempts
