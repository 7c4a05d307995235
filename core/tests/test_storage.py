"""What `Storage` itself does for its adapters."""

import asyncio
import dataclasses

import pytest
from bot_session import InvalidKeyError, MemoryStorage, UnavailableError, ValueTooLargeError, Write
from bot_session.storage import distinct_rounds


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


class Narrow(MemoryStorage):
    """Has limits that its capabilities do not tell."""

    def _validate_own(self, operation, key, value, ttl):
        if "x" in key:
            raise InvalidKeyError("no x", operation=operation, key=key)
        if "x" in value:
            raise ValueTooLargeError("no x", operation=operation, key=key)


class TestValidation:
    async def test_limits_of_an_adapter_s_own_hold_in_batches_too(self):
        storage = Narrow()
        with pytest.raises(InvalidKeyError):
            storage._validate_keys("read_many", ["1", "x"])
        with pytest.raises(InvalidKeyError):
            await storage.write_many([Write("1", "1"), Write("x", "1")])
        with pytest.raises(ValueTooLargeError):
            await storage.write_many([Write("1", "1"), Write("2", "x")])
        with pytest.raises(InvalidKeyError):
            await storage.read("x")
        with pytest.raises(ValueTooLargeError):
            await storage.write("1", "x")

        assert [] == [key async for key in storage.read_all_keys()]

    async def test_in_a_batch_a_key_that_is_too_long_is_refused_among_short_ones(self):
        storage = MemoryStorage()
        storage.capabilities = dataclasses.replace(storage.capabilities, max_key_bytes=3)
        storage._validate_keys("read_many", ["123", "456"])
        with pytest.raises(InvalidKeyError, match="the key has 4 bytes, the limit is 3"):
            await storage.write_many([Write("123", "1"), Write("1234", "1")])


@pytest.mark.parametrize(
    ("keys", "rounds"), [("", []), ("abc", [[0, 1, 2]]), ("abacab", [[0, 1, 3], [2, 5], [4]]), ("aa", [[0], [1]])]
)
def test_rounds_hold_each_key_once_and_keep_the_order_of_its_writes(keys, rounds):
    writes = [Write(key, str(position)) for position, key in enumerate(keys)]

    assert [[(position, writes[position]) for position in part] for part in rounds] == [*distinct_rounds(writes)]
