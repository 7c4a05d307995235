"""What `Storage` itself does for its adapters."""

import asyncio
import dataclasses

import pytest
from bot_session import ClosedError, InvalidKeyError, MemoryStorage, UnavailableError, ValueTooLargeError, Write
from bot_session.storage import distinct_rounds, portions


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

    def test_who_waited_in_one_loop_leaves_it_usable_in_the_next(self):
        storage = Down()

        async def use():
            return await asyncio.gather(*(storage.read(key) for key in "123"), return_exceptions=True)

        assert [UnavailableError] * 3 == [type(error) for error in asyncio.run(use())]
        storage.up = True

        assert [None] * 3 == asyncio.run(use())
        assert [None] * 3 == asyncio.run(use())

    def test_a_loop_that_was_left_in_the_middle_of_opening_does_not_keep_it(self):
        storage = Down()
        storage.up = True
        left = asyncio.new_event_loop()
        opening = left.create_task(storage.open())
        left.run_until_complete(asyncio.sleep(0))

        assert asyncio.run(asyncio.wait_for(storage.read("1"), 5)) is None
        left.run_until_complete(asyncio.gather(opening, return_exceptions=True))
        left.close()


class Connecting(MemoryStorage):
    """Takes its time to connect, and counts its connections."""

    def __init__(self):
        super().__init__()
        self.connections = 0
        self.most = 0
        self.connecting = asyncio.Event()
        self.gate = asyncio.Event()

    async def _open(self):
        self.connecting.set()
        await self.gate.wait()
        self.connections += 1
        self.most = max(self.most, self.connections)

    async def _close(self):
        await asyncio.sleep(0)
        self.connections -= 1


class TestClosing:
    async def test_what_is_closed_while_it_is_opened_stays_closed(self):
        storage = Connecting()
        waiting = [asyncio.create_task(storage.read(key)) for key in "123"]
        await storage.connecting.wait()
        closing = asyncio.create_task(storage.close())
        await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            await storage.read("4")
        storage.gate.set()
        await closing

        assert 0 == storage.connections
        assert [ClosedError] * 3 == [type(error) for error in await asyncio.gather(*waiting, return_exceptions=True)]
        with pytest.raises(ClosedError):
            await storage.write("1", "1")

    async def test_closing_that_is_cancelled_closes_too(self):
        storage = Connecting()
        opening = asyncio.create_task(storage.open())
        await storage.connecting.wait()
        closing = asyncio.create_task(storage.close())
        await asyncio.sleep(0)
        closing.cancel()
        storage.gate.set()
        with pytest.raises(ClosedError):
            await opening

        assert 0 == storage.connections

    async def test_whoever_opens_it_again_meanwhile_opens_it_once(self):
        storage = Connecting()
        first = asyncio.create_task(storage.open())
        await storage.connecting.wait()
        closing = asyncio.create_task(storage.close())
        await asyncio.sleep(0)
        again = asyncio.create_task(storage.open())
        storage.gate.set()
        results = await asyncio.gather(first, closing, again, return_exceptions=True)

        assert [ClosedError, type(None), type(None)] == [type(result) for result in results]
        assert (1, 1) == (storage.connections, storage.most)
        await storage.close()
        assert 0 == storage.connections

    async def test_it_is_opened_again_only_when_it_is_closed(self):
        storage = Connecting()
        storage.gate.set()
        await storage.open()
        await asyncio.gather(storage.close(), storage.open())

        assert (1, 1) == (storage.connections, storage.most)


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


@pytest.mark.parametrize(
    ("items", "portioned"),
    [
        ([], []),
        (["a"], [["a"]]),
        (["a", "b", "c", "d"], [["a", "b", "c"], ["d"]]),
        (["aaa", "bb", "c"], [["aaa", "bb"], ["c"]]),
        (["a", "bbbbbbb", "c"], [["a"], ["bbbbbbb"], ["c"]]),
    ],
)
def test_portions_are_as_long_as_they_may_be_and_a_long_item_travels_alone(items, portioned):
    assert portioned == [*portions(iter(items), len, most=3, longest=5)]
