"""CachedStorage: reads that are saved, and what must never be answered from memory."""

import asyncio

import pytest
from bot_session import (
    BatchedStorage,
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

    @pytest.mark.parametrize(
        "change",
        [
            lambda cached, record: cached.write("42", record, ttl=10),
            lambda cached, record: cached.write_many([Write("42", record, ttl=10)]),
            lambda cached, _: cached.read("42"),
            lambda cached, _: cached.read_many(["42", "43"]),
        ],
        ids=["write", "write_many", "read", "read_many"],
    )
    async def test_a_ttl_begins_when_the_storage_is_called_and_not_when_it_answers(self, change):
        now = 0.0

        class Slow(MemoryStorage):
            def _then_wait(self, result):
                nonlocal now
                now = 1.0
                return result

            async def read_many(self, keys):
                return self._then_wait(await super().read_many(keys))

            async def read(self, key):
                return self._then_wait(await super().read(key))

            async def write(self, key, value, **options):
                return self._then_wait(await super().write(key, value, **options))

        storage = Slow(clock=lambda: now)
        await storage.write("42", '"old"', ttl=10)
        now = 0.0
        cached = CachedStorage(storage, clock=lambda: now)
        await change(cached, '"new"')
        now = 10.5

        assert await cached.read("42") is None

    async def test_what_has_expired_by_its_own_clock_is_asked_for(self):
        """The storage's clock may have begun a little later."""
        now = later = 0.0
        cached = CachedStorage(MemoryStorage(clock=lambda: now - later), clock=lambda: now)
        await cached.write("42", "1", ttl=10)
        now, later = 10.5, 1.0

        assert "1" == (await cached.read("42")).value

    async def test_closing_forgets_everything(self):
        storage = MemoryStorage()
        cached = CachedStorage(storage)
        async with cached:
            await cached.write("42", '"before"')
        async with storage:
            await storage.write("42", '"restored"')
        async with cached:
            assert '"restored"' == (await cached.read("42")).value

    async def test_what_ends_after_closing_is_not_remembered(self):
        storage = MemoryStorage()
        cached = CachedStorage(storage)
        write = storage.write

        async def write_and_close(key, value, **options):
            version = await write(key, value, **options)
            await cached.close()
            return version

        storage.write = write_and_close
        await cached.write("42", "1")

        assert 0 == len(cached._known)


class Late(MemoryStorage):
    """Changes that arrive after their caller has gone: `arrive` lets them."""

    def __init__(self):
        super().__init__()
        self.error = None
        self.late = []

    async def write_many(self, writes):
        return await self._later(super().write_many(writes))

    async def write(self, key, value, **options):
        return await self._later(super().write(key, value, **options))

    async def delete(self, key, **options):
        return await self._later(super().delete(key, **options))

    async def touch(self, key, ttl):
        return await self._later(super().touch(key, ttl))

    async def _later(self, call):
        if self.error is None:
            return await call
        self.late.append(call)
        raise self.error

    async def arrive(self):
        self.error = None
        for call in self.late:
            await call


CUT_OFF = UnavailableError("cut off", outcome_unknown=True)


class TestDoubt:
    """What may still happen to a key is not overlooked."""

    @pytest.mark.parametrize("error", [CUT_OFF, asyncio.CancelledError(), RuntimeError("a driver's")], ids=repr)
    @pytest.mark.parametrize(
        ("change", "after"),
        [
            (lambda cached: cached.write("42", "2"), ("2", None)),
            (lambda cached: cached.delete("42"), None),
            (lambda cached: cached.touch("42", 60), ("1", 60)),
            (lambda cached: cached.write_many([Write("43", "2"), Write("42", "2")]), ("2", None)),
            (lambda cached: cached.delete_many(["42"]), None),
        ],
        ids=["write", "delete", "touch", "write_many", "delete_many"],
    )
    async def test_a_change_that_arrives_later_is_seen(self, change, after, error):
        storage = Late()
        storage._clock = lambda: 0.0
        cached = CachedStorage(storage)
        await cached.write("42", "1")
        storage.error = error
        with pytest.raises(type(error)):
            await change(cached)

        assert "1" == (await cached.read("42")).value
        assert "1" == (await cached.read_many(["42", "43"]))["42"].value

        await storage.arrive()
        record = await cached.read("42")

        assert after == (record and (record.value, record.ttl))

    async def test_so_is_a_write_that_left_in_a_batch_when_it_was_cancelled(self):
        class Gated(MemoryStorage):
            gate = asyncio.Event()

            async def write_many(self, writes):
                await self.gate.wait()
                return await super().write_many(writes)

        cached = CachedStorage(BatchedStorage(Gated()))
        cancelled, other = [asyncio.create_task(cached.write(key, '"new"')) for key in ("42", "43")]
        for _ in range(3):
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)

        assert {} == await cached.read_many(["42", "44"])

        Gated.gate.set()
        await other

        assert '"new"' == (await cached.read("42")).value

    @pytest.mark.parametrize(
        "settle",
        [
            lambda cached: cached.write("42", "2"),
            lambda cached: cached.delete("42"),
            lambda cached: cached.write_many([Write("42", "2")]),
            lambda cached: asyncio.sleep(0, cached.forget("42")),
            lambda cached: asyncio.sleep(0, cached.forget()),
        ],
        ids=["write", "delete", "write_many", "forget one", "forget all"],
    )
    async def test_it_ends_with_the_next_write_or_when_somebody_says_so(self, storage, cached, settle):
        await self.doubt(storage, cached, "42")
        await settle(cached)
        for _ in range(3):
            await cached.read("42")

        assert len(reads(storage)) <= 1

    async def test_until_then_nothing_that_was_read_is_remembered(self, storage, cached):
        await self.doubt(storage, cached, "42")
        with pytest.raises(ConflictError):
            await cached.write("42", "3", match="another")
        await cached.touch("42", 60)
        for _ in range(3):
            await cached.read("42")

        assert ["42"] * 3 == reads(storage)

    @pytest.mark.parametrize("error", [UnavailableError("refused"), ConflictError("changed")])
    async def test_what_has_certainly_not_happened_leaves_none(self, error):
        storage = Late()
        cached = CachedStorage(storage)
        storage.error = error
        with pytest.raises(type(error)):
            await cached.write("42", "1")
        storage.late[0].close()
        await cached.read("42")

        assert "42" in cached._known

    async def test_of_too_many_keys_there_is_no_list(self, storage):
        cached = CachedStorage(storage, max_entries=2)
        await self.doubt(storage, cached, "a", "b")
        await cached.read("c")

        assert ["c"] == list(cached._known)

        await self.doubt(storage, cached, "d")
        for key in "abcd":
            await cached.read(key)
        await cached.write("a", "1")
        await cached.read("b")

        assert ["c", "a"] == list(cached._known)
        assert 0 == len(cached._doubtful)

        cached.forget()
        await cached.read("b")

        assert ["b"] == list(cached._known)

    async def doubt(self, storage, cached, *keys):
        """Write what is cancelled on its way."""
        storage.gate.clear()
        for key in keys:
            writing = asyncio.create_task(cached.write(key, "1"))
            await asyncio.sleep(0)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
        storage.gate.set()
        storage.calls.clear()


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
