"""Batching: what a caller sees is what it would see alone; what the backend sees are batches."""

import asyncio

import pytest
from bot_session import (
    ABSENT,
    BatchedStorage,
    ConflictError,
    InvalidKeyError,
    MemoryStorage,
    SchemaError,
    Sessions,
    StorageWrapper,
    UnavailableError,
    Version,
    Write,
)


async def turns(count=10):
    """Give other tasks some turns of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


class Counted(StorageWrapper):
    """Counts calls, and lets a test hold them up."""

    def __init__(self, inner=None):
        super().__init__(inner or MemoryStorage())
        self.calls = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.poison = None

    async def _call(self, name, keys):
        self.calls.append((name, len(keys)))
        await self.gate.wait()
        if self.poison in keys:
            raise SchemaError("poison")

    async def read(self, key):
        await self._call("read", [key])
        return await super().read(key)

    async def write(self, key, value, **options):
        await self._call("write", [key])
        return await super().write(key, value, **options)

    async def delete(self, key, **options):
        await self._call("delete", [key])
        return await super().delete(key, **options)

    async def read_many(self, keys):
        await self._call("read_many", keys)
        return await super().read_many(keys)

    async def write_many(self, writes):
        await self._call("write_many", [write.key for write in writes])
        return await super().write_many(writes)


class TestBatches:
    async def test_what_is_issued_together_travels_together(self):
        counted = Counted()
        storage = BatchedStorage(counted)

        await asyncio.gather(*(storage.write(str(i), "1") for i in range(60)))
        records = await asyncio.gather(*(storage.read(str(i)) for i in range(60)))

        assert ["1"] * 60 == [record.value for record in records]
        assert [("write_many", 60), ("read_many", 60)] == counted.calls

    async def test_many_travel_in_as_many_parts_as_may_be_under_way(self):
        counted = Counted()
        storage = BatchedStorage(counted)

        await asyncio.gather(*(storage.write(str(i), "1") for i in range(100)))

        assert [("write_many", 50), ("write_many", 50)] == counted.calls

    async def test_batches_are_as_suits_the_storage_itself(self):
        counted = Counted(type("Small", (MemoryStorage,), {"max_batch": 10, "max_under_way": 1})())
        counted.gate.clear()
        reads = [asyncio.create_task(BatchedStorage(counted).read("a"))]
        storage = BatchedStorage(counted)
        reads += [asyncio.create_task(storage.read(str(i))) for i in range(20)]
        await asyncio.sleep(0.01)
        under_way = list(counted.calls)
        counted.gate.set()
        await asyncio.gather(*reads)

        assert [("read", 1), ("read_many", 10)] == under_way

    async def test_one_alone_takes_the_way_of_a_single_operation(self):
        counted = Counted()
        storage = BatchedStorage(counted)

        await storage.write("a", "1")
        await storage.read("a")
        await storage.delete("a")

        assert [("write", 1), ("read", 1), ("delete", 1)] == counted.calls

    async def test_what_comes_while_batches_are_under_way_waits_for_the_next_one(self):
        counted = Counted()
        storage = BatchedStorage(counted, max_under_way=1)
        counted.gate.clear()
        first = asyncio.create_task(storage.read("a"))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(storage.read(str(i))) for i in range(10)]
        await asyncio.sleep(0.01)

        assert [("read", 1)] == counted.calls

        counted.gate.set()
        await asyncio.gather(first, *others)

        assert [("read", 1), ("read_many", 10)] == counted.calls

    async def test_a_batch_has_a_largest_size(self):
        counted = Counted()
        storage = BatchedStorage(counted, max_batch=30)

        await asyncio.gather(*(storage.read(str(i)) for i in range(100)))

        assert {("read_many", 30), ("read_many", 10)} == set(counted.calls)

    async def test_memory_does_not_grow_with_those_who_wait(self):
        counted = Counted()
        storage = BatchedStorage(counted, max_batch=2, max_under_way=1, max_waiting=10)
        counted.gate.clear()
        readers = [asyncio.create_task(storage.read(str(i))) for i in range(50)]
        await asyncio.sleep(0.01)

        assert len(storage._reads._waiting) <= 10

        counted.gate.set()

        assert [None] * 50 == await asyncio.gather(*readers)

    async def test_whoever_met_nobody_does_not_wait_for_company_the_next_time(self):
        counted = Counted()
        storage = BatchedStorage(counted)

        await storage.read("a")
        with pytest.raises(StopIteration):  # Not even for the end of the tick.
            storage.read("a").send(None)
        counted.gate.clear()
        crowd = [asyncio.create_task(storage.read(key)) for key in "abc"]
        await asyncio.sleep(0.01)
        counted.gate.set()
        await asyncio.gather(*crowd)
        await asyncio.gather(*(storage.read(key) for key in "abc"))

        assert [("read", 1)] * 3 + [("read_many", 2), ("read_many", 3)] == counted.calls

    @pytest.mark.parametrize(("max_batch", "max_waiting"), [(2, 3), (1, 1), (1, 3)])
    async def test_more_than_may_wait_come_in_one_by_one_and_lose_nothing(self, max_batch, max_waiting):
        counted = Counted()
        storage = BatchedStorage(counted, max_batch=max_batch, max_under_way=1, max_waiting=max_waiting)
        counted.gate.clear()
        writes = [asyncio.create_task(storage.write(str(n), "1")) for n in range(20)]
        await asyncio.sleep(0)
        writes[10].cancel()
        counted.gate.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*writes, return_exceptions=True)

        assert {str(n) for n in range(20) if n != 10} == {key async for key in counted.inner.read_all_keys()}


class TestEachCallerAlone:
    async def test_each_has_its_own_conflict(self):
        storage = BatchedStorage(MemoryStorage())
        await storage.inner.write("b", "0")  # not through the batches: who was alone waits for nobody

        a, b, c = await asyncio.gather(
            *(storage.write(key, "1", match=ABSENT) for key in "abc"), return_exceptions=True
        )

        assert ("1", "1") == (a, c)
        assert isinstance(b, ConflictError)
        assert "b" == b.key

    async def test_a_conflict_in_a_batch_is_raised_not_returned(self):
        storage = BatchedStorage(MemoryStorage())
        await storage.inner.write("b", "0")  # not through the batches: who was alone waits for nobody
        raised = []

        async def attempt(operation, key):
            try:
                await operation
            except ConflictError:
                raised.append(key)

        await asyncio.gather(*(attempt(storage.write(key, "1", match=ABSENT), key) for key in "abc"))
        await asyncio.gather(*(attempt(storage.delete(key, match=Version("2")), key) for key in "abc"))

        assert ["b", "a", "b", "c"] == raised

    async def test_deletes_tell_whether_there_was_anything(self):
        storage = BatchedStorage(MemoryStorage())
        await storage.write("a", "1")

        assert [True, False] == await asyncio.gather(storage.delete("a"), storage.delete("b"))

    async def test_a_bad_key_fails_alone(self):
        storage = BatchedStorage(MemoryStorage())

        good, bad = await asyncio.gather(storage.read("a"), storage.read("\0"), return_exceptions=True)

        assert good is None
        assert isinstance(bad, InvalidKeyError)

    async def test_a_poisoned_operation_fails_alone(self):
        counted = Counted()
        counted.poison = "7"
        storage = BatchedStorage(counted)

        results = await asyncio.gather(*(storage.write(str(i), "1") for i in range(10)), return_exceptions=True)

        assert ["7"] == [str(i) for i, result in enumerate(results) if isinstance(result, SchemaError)]
        assert 9 == len([key async for key in storage.read_all_keys()])

    async def test_an_outage_reaches_everybody_and_is_not_tried_again(self):
        class Down(Counted):
            async def write_many(self, writes):
                self.calls.append("write_many")
                raise UnavailableError("down", outcome_unknown=True) from OSError("cable")

        down = Down()
        storage = BatchedStorage(down)

        results = await asyncio.gather(*(storage.write(str(i), "1") for i in range(10)), return_exceptions=True)

        assert [True] * 10 == [error.outcome_unknown for error in results]
        assert isinstance(results[0].__cause__, OSError)
        assert 10 == len({id(error) for error in results})
        assert ["write_many"] == down.calls

    @pytest.mark.parametrize("which", [0, 5])
    async def test_cancelling_one_harms_no_other(self, which):
        counted = Counted()
        storage = BatchedStorage(counted)
        counted.gate.clear()
        writers = [asyncio.create_task(storage.write(str(i), "1")) for i in range(10)]
        await asyncio.sleep(0.01)

        writers[which].cancel()
        await asyncio.sleep(0)
        counted.gate.set()
        results = await asyncio.gather(*writers, return_exceptions=True)

        assert isinstance(results.pop(which), asyncio.CancelledError)
        assert ["1"] * 9 == results
        assert 0 == len(storage._writing)

    async def test_cancelling_the_first_before_it_left_sends_the_others(self):
        storage = BatchedStorage(MemoryStorage())
        writers = [asyncio.create_task(storage.write(str(i), "1")) for i in range(3)]
        asyncio.get_running_loop().call_soon(writers[0].cancel)

        first, *others = await asyncio.gather(*writers, return_exceptions=True)

        assert isinstance(first, asyncio.CancelledError)
        assert ["1"] * 2 == others
        assert 0 == len(storage._writing)

    async def test_the_first_may_be_cancelled_when_a_batch_that_returns_has_taken_it_along(self):
        counted = Counted()
        storage = BatchedStorage(counted)
        counted.gate.clear()
        under_way = [asyncio.create_task(storage.write(key, "1")) for key in "ab"]
        await turns()
        gathering = asyncio.create_task(storage.write("c", "1"))
        counted.gate.set()
        asyncio.get_running_loop().call_soon(gathering.cancel)
        with pytest.raises(asyncio.CancelledError):
            await gathering

        assert ["1"] * 2 == await asyncio.gather(*under_way)
        await turns()
        assert 0 == len(storage._writing)


class TestOrder:
    async def test_writes_of_one_key_keep_their_order(self):
        storage = BatchedStorage(MemoryStorage(), max_batch=2)

        await asyncio.gather(*(storage.write("a", str(i)) for i in range(50)))

        assert "49" == (await storage.read("a")).value

    @pytest.mark.parametrize(
        "change",
        [
            lambda storage, key: storage.write(key, "1"),
            lambda storage, key: storage.delete(key),
            lambda storage, key: storage.write_then_read([[Write(key, "1")]], [f"{key} too"]),
        ],
        ids=["write", "delete", "write_then_read"],
    )
    async def test_what_is_given_up_on_its_way_is_not_overtaken(self, change):
        counted = Counted()
        storage = BatchedStorage(counted)
        counted.gate.clear()
        given_up, company = (asyncio.create_task(change(storage, key)) for key in "ab")
        await turns()
        under_way = list(counted.calls)
        given_up.cancel()
        following = asyncio.create_task(storage.write("a", "2"))
        read = asyncio.create_task(storage.read("a"))
        await turns()

        assert given_up.cancelled()
        assert under_way == counted.calls

        counted.gate.set()
        await asyncio.gather(following, company)

        assert "2" == (await read).value
        assert 0 == len(storage._writing)

    async def test_whoever_gives_up_before_leaving_holds_nobody_up(self):
        counted = Counted()
        storage = BatchedStorage(counted, max_under_way=1, max_waiting=2)
        counted.gate.clear()
        writers = [asyncio.create_task(storage.write(str(i), "1")) for i in range(5)]
        _, left, waiting, _, outside = writers
        await turns()
        for writer in (left, waiting, outside):
            writer.cancel()
        await turns()
        counted.gate.set()
        await asyncio.gather(*writers, return_exceptions=True)
        async with asyncio.timeout(5):
            await asyncio.gather(*(storage.write(str(i), "2") for i in range(5)))

        assert 0 == len(storage._writing)

    async def test_whatever_asks_for_a_key_sees_the_writes_that_were_issued_before_it(self):
        storage = BatchedStorage(MemoryStorage())

        _, record, existed, touched = await asyncio.gather(
            storage.write("a", "1"), storage.read("a"), storage.has("a"), storage.touch("a", 60)
        )

        assert "1" == record.value
        assert existed
        assert touched


class TestRounds:
    async def test_each_gets_its_own_results_and_what_it_read_in_one_batch(self):
        counted = Counted()
        await counted.inner.write("taken", "0")
        storage = BatchedStorage(counted)
        (first, one), (second, two), (third, three) = await asyncio.gather(
            storage.write_then_read([[Write("a", "1"), Write("b", "2")], [Write("a", "3", match=ABSENT)]], ["b"]),
            storage.write_then_read([[Write("taken", "4", match=ABSENT)]], ["taken", "none"]),
            storage.write_then_read([[Write("c", "5")], [Write("c", None), Write("d", "6")]]),
        )

        assert ["1", "2", ConflictError] == [*first[:2], type(first[2])]
        assert [ConflictError] == [type(result) for result in second]
        assert ["5", True, "6"] == third
        assert [{"b": "2"}, {"taken": "0"}, {}] == [
            {key: record.value for key, record in found.items()} for found in (one, two, three)
        ]
        assert [("write_many", 4), ("write_many", 3), ("read_many", 3)] == counted.calls

    async def test_they_keep_their_place_among_other_writes_of_a_key(self):
        class Held(StorageWrapper):
            gate = asyncio.Event()

            async def write(self, key, value, **options):
                if value == "1":
                    await self.gate.wait()
                return await super().write(key, value, **options)

        held = Held(MemoryStorage())
        storage = BatchedStorage(held)
        first = asyncio.create_task(storage.write("k", "1"))
        await asyncio.sleep(0)
        second = asyncio.create_task(storage.write_then_read([[Write("k", "2")]], ["k"]))
        for _ in range(10):
            await asyncio.sleep(0)

        assert not second.done()

        held.gate.set()
        await asyncio.gather(first, second)

        assert "2" == (await storage.read("k")).value

    async def test_an_outage_is_everybodys(self):
        class Down(StorageWrapper):
            async def write_many(self, writes):
                raise UnavailableError("down", outcome_unknown=True)

        storage = BatchedStorage(Down(MemoryStorage()))
        errors = await asyncio.gather(
            *(storage.write_then_read([[Write(key, "1")]]) for key in "ab"), return_exceptions=True
        )

        assert [True, True] == [error.outcome_unknown for error in errors]
        assert errors[0] is not errors[1]


class TestSessions:
    async def test_a_storage_in_memory_has_nothing_to_gather(self):
        sessions = Sessions(MemoryStorage(), initial=dict)

        assert sessions.storage is sessions.documents.storage

    async def test_it_can_be_turned_off(self, tmp_path):
        pytest.importorskip("bot_session_storage_file")
        from bot_session import open_storage

        storage = open_storage(f"file:{tmp_path}")

        assert isinstance(Sessions(storage, initial=dict, retrying=False).documents.storage, BatchedStorage)
        assert Sessions(storage, initial=dict, batching=False, retrying=False).documents.storage is storage
