"""CachedStorage: reads that are saved, and what must never be answered from memory."""

import asyncio

import pytest
from bot_session import (
    CachedStorage,
    ClosedError,
    ConflictError,
    MemoryStorage,
    Sessions,
    StorageWrapper,
    UnavailableError,
    Write,
)


@pytest.fixture
def cached(storage):
    return CachedStorage(storage)


def reads(storage):
    return [key for operation, key in storage.calls if operation == "read"]


class TestSaving:
    async def test_a_busy_session_costs_its_writes_and_one_read(self, storage, cached):
        sessions = Sessions(cached, initial=dict)
        for n in range(5):
            async with sessions.open("42") as session:
                session.data["n"] = n

        assert ["42"] == reads(storage)
        assert 5 == storage.calls.count(("write", "42"))
        assert '{"n":4}' == await storage.stored("42")

    async def test_that_nothing_is_there_is_remembered(self, storage, cached):
        assert await cached.read("42") is None
        assert await cached.read("42") is None
        assert not await cached.has("42")
        assert ["42"] == reads(storage)

    async def test_many_at_once_ask_only_for_those_that_are_not_known(self, storage, cached):
        await cached.write("a", "1")
        await storage.store("b", "2")
        found = await cached.read_many(["a", "b", "c"])

        assert {"a": "1", "b": "2"} == {key: record.value for key, record in found.items()}
        assert found == await cached.read_many(["a", "b", "c"])
        assert "a" not in reads(storage)

    async def test_a_batch_is_remembered_too(self, storage, cached):
        await cached.write_many([Write("a", "1"), Write("b", "1"), Write("b", None)])
        storage.calls.clear()

        assert "1" == (await cached.read("a")).value
        assert await cached.read("b") is None
        assert [] == storage.calls


class TestTruth:
    async def test_a_conflict_makes_it_look_again(self, storage, cached):
        version = await cached.write("42", "1")
        await storage.store("42", "2")
        with pytest.raises(ConflictError):
            await cached.write("42", "3", match=version)

        assert "2" == (await cached.read("42")).value

    async def test_sessions_merge_with_what_somebody_else_wrote(self, storage, cached):
        sessions = Sessions(cached, initial=dict)
        await sessions.update("42", lambda data: data.update(mine=1))
        await storage.store("42", '{"mine":1,"theirs":1}')
        async with sessions.open("42") as session:
            session.data["more"] = 1

        assert '{"mine":1,"theirs":1,"more":1}' == await storage.stored("42")

    async def test_a_write_whose_outcome_is_unknown_is_forgotten(self, storage, cached):
        await cached.write("42", "1")
        storage.down = True
        with pytest.raises(UnavailableError):
            await cached.write("42", "2")
        storage.down = False
        await storage.store("42", "2")

        assert "2" == (await cached.read("42")).value

    @pytest.mark.parametrize(
        ("change", "after"),
        [
            (lambda cached: cached.write("42", "2"), ("2", None)),
            (lambda cached: cached.delete("42"), None),
            (lambda cached: cached.touch("42", 60), ("1", 60)),
            (lambda cached: cached.write_many([Write("42", "2")]), ("2", None)),
        ],
        ids=["write", "delete", "touch", "write_many"],
    )
    async def test_neither_is_what_was_read_before_a_change_whose_outcome_is_unknown(self, change, after):
        class CutOff(StorageWrapper):
            gate = asyncio.Event()

            async def _do(self, call):
                await self.gate.wait()
                await call
                raise UnavailableError("cut off", outcome_unknown=True)

            async def write(self, key, value, **options):
                await self._do(super().write(key, value, **options))

            async def delete(self, key, **options):
                await self._do(super().delete(key, **options))

            async def touch(self, key, ttl):
                await self._do(super().touch(key, ttl))

            async def write_many(self, writes):
                await self._do(super().write_many(writes))

        inner = CutOff(MemoryStorage(clock=lambda: 0.0))
        await inner.inner.write("42", "1")
        cached = CachedStorage(inner)
        changing = asyncio.create_task(change(cached))
        await asyncio.sleep(0)

        assert "1" == (await cached.read("42")).value

        inner.gate.set()
        with pytest.raises(UnavailableError):
            await changing
        record = await cached.read("42")

        assert after == (record and (record.value, record.ttl))

    async def test_a_read_that_a_write_overtook_is_not_remembered(self, storage, cached):
        storage.gate.clear()
        reading = asyncio.create_task(cached.read("42"))
        await asyncio.sleep(0)
        writing = asyncio.create_task(cached.write("42", "1"))
        await asyncio.sleep(0)
        storage.gate.set()
        await asyncio.gather(reading, writing)

        assert "1" == (await cached.read("42")).value

    async def test_expiry_is_kept(self):
        now = 0.0
        cached = CachedStorage(MemoryStorage(clock=lambda: now), clock=lambda: now)
        await cached.write("42", "1", ttl=10)
        now = 4.0

        assert 6 == (await cached.read("42")).ttl

        now = 10.0

        assert await cached.read("42") is None

    async def test_touching_is_seen(self, cached):
        await cached.write("42", "1", ttl=10)
        await cached.touch("42", 1000)

        assert 1000 == pytest.approx((await cached.read("42")).ttl, abs=5)

    async def test_a_closed_storage_answers_nothing(self):
        cached = CachedStorage(MemoryStorage())
        await cached.write("42", "1")
        await cached.close()

        with pytest.raises(ClosedError):
            await cached.read("42")

    async def test_forget_makes_it_look_again(self, storage, cached):
        await cached.read("42")
        await storage.store("42", "1")
        cached.forget("42")

        assert "1" == (await cached.read("42")).value


class TestBounds:
    async def test_what_was_not_used_for_the_longest_time_goes_first(self, storage):
        cached = CachedStorage(storage, max_entries=2)
        for key in ("a", "b", "a", "c", "a"):
            await cached.read(key)
        await cached.read("b")

        assert ["a", "b", "c", "b"] == reads(storage)

    async def test_the_size_of_documents_counts(self, storage):
        cached = CachedStorage(storage, max_characters=100)
        for key in ("a", "b"):
            await cached.write(key, '"' + "x" * 70 + '"')

        assert ["b"] == list(cached._known)
        assert 72 == cached._characters
