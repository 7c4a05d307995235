"""lock="shared": one update of a session at a time, whichever process it is in. Two storages on one dict stand for two."""

import asyncio
import dataclasses
import json
from itertools import pairwise

import pytest
from bot_session import (
    ConfigurationError,
    ConflictError,
    EncodeError,
    LockTimeoutError,
    MemoryStorage,
    ObservedStorage,
    PrefixedStorage,
    SchemaError,
    Seal,
    Sessions,
    StorageWrapper,
    UnavailableError,
    generate_key,
)
from bot_session.codec import Codec
from bot_session.leases import LEASE_PREFIX, Lease


class Shared(MemoryStorage):
    """A memory that several instances share, as processes share a database."""

    capabilities = dataclasses.replace(MemoryStorage.capabilities, shared=True)

    def __init__(self, entries, clock):
        super().__init__(clock=clock)
        self._entries = entries


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def process(clock):
    """A function that makes what one process has: `Sessions` on a storage of its own, over the same data."""
    entries = {}

    def process(**options):
        return Sessions(Shared(entries, clock), initial=dict, lock="shared", **options)

    return process


def add_one(data):
    data["n"] = data.get("n", 0) + 1


async def eat(sessions, key="42"):
    async with sessions.open(key) as session:
        before = session.data.get("n", 0)
        await asyncio.sleep(0)
        session.data["n"] = before + 1


async def until_in_line(storage, count, key="42"):
    async with asyncio.timeout(5):
        while True:
            record = await storage.read(LEASE_PREFIX + key)
            if len(json.loads(record.value)["waiting"]) == count:
                return
            await asyncio.sleep(0)


class TestTaking:
    async def test_nothing_is_left_when_idle(self, process):
        sessions = process()
        await eat(sessions)

        assert ["42"] == [key async for key in sessions.storage.read_all_keys()]

    async def test_processes_take_turns(self, process):
        one, two, three = process(), process(), process()
        await asyncio.gather(*(eat(sessions) for _ in range(20) for sessions in (one, two, three)))

        assert {"n": 60} == await one.read("42")

    async def test_update_and_open_take_turns_too(self, process):
        one, two = process(on_conflict="raise"), process()
        await asyncio.gather(*(eat(one) for _ in range(10)), *(two.update("42", add_one) for _ in range(10)))

        assert {"n": 20} == await one.read("42")

    async def test_those_who_wait_are_served_in_the_order_they_came(self, process):
        order = []
        first = process()
        async with first.open("42"):

            async def wait(number):
                async with process().open("42"):
                    order.append(number)

            waiting = []
            for number in range(5):
                waiting.append(asyncio.create_task(wait(number)))
                await until_in_line(first.storage, number + 1)
        await asyncio.gather(*waiting)

        assert [0, 1, 2, 3, 4] == order

    async def test_waiting_has_an_end_and_leaves_the_line(self, process):
        one, two = process(), process(lock_timeout=0.02)
        async with one.open("42"):
            with pytest.raises(LockTimeoutError, match="another process"):
                async with two.open("42"):
                    pytest.fail("the body ran")
            record = await one.storage.read(LEASE_PREFIX + "42")

            assert [] == json.loads(record.value)["waiting"]
        assert 0 == len(two.desk.locks)
        assert [] == [key async for key in one.storage.read_all_keys()]

    async def test_whoever_is_cancelled_while_waiting_leaves_the_line(self, process):
        one, two = process(), process()
        async with one.open("42"):
            waiting = asyncio.create_task(eat(two))
            await until_in_line(one.storage, 1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await eat(two)

        assert {"n": 1} == await one.read("42")
        assert 0 == len(two.desk.locks)

    @pytest.mark.parametrize("change", [{}, {"m": 1}])
    @pytest.mark.parametrize("waiters", [0, 1])
    @pytest.mark.parametrize("turn", range(1, 12))
    async def test_whoever_is_cancelled_while_giving_it_back_gives_it_back(self, process, change, waiters, turn):
        one, two = process(), process()

        async def look():
            async with one.open("42") as session:
                inside.set()
                await leave.wait()
                session.data.update(change)

        inside, leave = asyncio.Event(), asyncio.Event()
        looking = asyncio.create_task(look())
        await inside.wait()
        waiting = [asyncio.create_task(eat(two)) for _ in range(waiters)]
        await until_in_line(two.storage, waiters)
        leave.set()
        for _ in range(turn):
            await asyncio.sleep(0)
        looking.cancel()
        await asyncio.wait([looking])
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)
            await eat(two)

        assert waiters + 1 == (await two.read("42"))["n"]
        assert ["42"] == [key async for key in one.storage.read_all_keys()]

    async def test_it_never_shows_when_going_through_sessions(self, process):
        sessions = process()
        async with sessions.open("42") as session:
            session.data["n"] = 1
            await session.save()

            assert ["42"] == [key async for key in sessions.keys()]
            assert [("42", {"n": 1})] == [entry async for entry in sessions.entries()]
            assert [{"n": 1}] == [data async for data in sessions.values()]
            assert 1 == await sessions.count()

    async def test_a_lazy_session_that_nobody_touches_takes_none(self, process):
        sessions = process()
        async with sessions.open("42", lazy=True):
            assert [] == [key async for key in sessions.storage.read_all_keys()]

    async def test_a_body_that_raises_gives_it_back(self, process):
        sessions = process()
        with pytest.raises(ZeroDivisionError):
            async with sessions.open("42"):
                raise ZeroDivisionError

        assert [] == [key async for key in sessions.storage.read_all_keys()]

    async def test_what_cannot_be_sealed_gives_the_lease_back(self, process, monkeypatch):
        sessions = process(seal=Seal(generate_key()), lock_timeout=0.2)
        with pytest.raises(EncodeError, match="surrogate"):
            async with sessions.open("42") as session:
                session.data["n"] = 1
                monkeypatch.setattr(Codec, "encode", lambda *_: '"\ud800"')
                monkeypatch.setattr(Codec, "verify", lambda *_: None)

        assert [] == [key async for key in sessions.storage.read_all_keys()]

    def test_a_storage_that_nobody_shares_needs_none(self):
        with pytest.raises(ConfigurationError, match="share"):
            Sessions(MemoryStorage(), lock="shared")


class Trips(StorageWrapper):
    """Counts what reaches the storage: every call is a round trip."""

    def __init__(self, inner):
        super().__init__(inner)
        self.calls = []


def counted(name):
    async def call(self, *args, **options):
        self.calls.append(name)
        return await getattr(self.inner, name)(*args, **options)

    return call


for name in ("read", "write", "delete", "has", "read_many", "write_many", "write_then_read"):
    setattr(Trips, name, counted(name))


class TestRoundTrips:
    @pytest.fixture
    def trips(self, process):
        return Trips(process().storage)

    async def test_opening_is_one_and_saving_is_one(self, trips):
        sessions = Sessions(trips, initial=dict, lock="shared")
        async with sessions.open("42") as session:
            assert ["write_then_read"] == trips.calls
            session.data["n"] = 1

        assert ["write_then_read"] * 2 == trips.calls
        assert {"n": 1} == await sessions.read("42")

    async def test_an_update_is_two_and_so_is_deleting_by_assignment(self, trips):
        sessions = Sessions(trips, initial=dict, lock="shared")
        await sessions.update("42", add_one)
        async with sessions.open("42") as session:
            session.data = None

        assert ["write_then_read"] * 4 == trips.calls
        assert [] == [key async for key in sessions.storage.read_all_keys()]

    async def test_behind_wrappers_too(self, trips):
        sessions = Sessions(PrefixedStorage(ObservedStorage(trips, id), "bot:"), initial=dict, lock="shared")
        await eat(sessions)

        assert ["write_then_read"] * 2 == trips.calls
        assert {"n": 1} == await sessions.read("42")

    async def test_many_sessions_at_once_share_them(self, trips):
        sessions = Sessions(trips, initial=dict, lock="shared")
        await asyncio.gather(*(eat(sessions, str(key)) for key in range(100)))

        assert 10 >= len(trips.calls)
        assert [{"n": 1}] * 100 == [await sessions.read(str(key)) for key in range(100)]
        assert 100 == await sessions.count()
        assert 100 == len([key async for key in sessions.storage.read_all_keys()])

    async def test_handing_over_to_whoever_is_known_to_wait_costs_no_more_than_giving_back(self, process, trips):
        first, second, third = process(), Sessions(trips, initial=dict, lock="shared"), process()
        async with first.open("42") as session:
            waiting = [asyncio.create_task(eat(sessions)) for sessions in (second, third)]
            await until_in_line(first.storage, 2)
            session.data["n"] = 1
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)

        assert "write_then_read" == trips.calls[-1]
        assert {"n": 3} == await first.read("42")

    async def test_what_could_not_be_read_on_the_way_is_read_again_and_says_why(self, process):
        class Unreadable(StorageWrapper):
            async def read_many(self, keys):
                raise SchemaError("not ours")

            async def read(self, key):
                if key.startswith(LEASE_PREFIX):
                    return await super().read(key)
                raise SchemaError("not ours")

        sessions = Sessions(Unreadable(process().storage), initial=dict, lock="shared")
        with pytest.raises(SchemaError, match="not ours"):
            async with sessions.open("42"):
                pytest.fail("the body ran")

        assert [] == [key async for key in sessions.storage.read_all_keys()]

    async def test_a_save_whose_lease_could_not_be_given_back_is_a_save(self, process, caplog):
        class Stubborn(StorageWrapper):
            async def delete(self, key, **options):
                raise UnavailableError("down", outcome_unknown=True)

        sessions = Sessions(Stubborn(process().storage), initial=dict, lock="shared")
        async with sessions.open("42") as session:
            session.data["n"] = 1
        assert {"n": 1} == await sessions.read("42")
        assert "ends only in 10 s" in caplog.text


class TestCostOfWaiting:
    async def test_nobody_starves_and_nobody_polls_in_a_hurry(self, process):
        """Twenty updates in two processes, whose handlers take their time."""
        processes = [Trips(process().storage) for _ in range(2)]
        order = []

        async def handle(number, sessions):
            async with sessions.open("42") as session:
                before = session.data.get("n", 0)
                await asyncio.sleep(0.05)
                session.data["n"] = before + 1
                order.append(number)

        both = [Sessions(trips, initial=dict, lock="shared", on_conflict="raise") for trips in processes]
        started = asyncio.get_running_loop().time()
        async with asyncio.timeout(20):
            await asyncio.gather(*(handle(number, both[number % 2]) for number in range(20)))
        seconds = asyncio.get_running_loop().time() - started

        assert {"n": 20} == await both[0].read("42")
        # In each process in the order in which they came; and the processes take turns, none twice while one waits.
        assert [list(range(0, 20, 2)), list(range(1, 20, 2))] == [
            [n for n in order if n % 2 == side] for side in (0, 1)
        ]
        assert all(one % 2 != next_one % 2 for one, next_one in pairwise(order))
        # Of those who wait in a process only the first looks: ten times a second when it has waited for a while.
        assert sum(len(trips.calls) for trips in processes) <= 20 * 14 + 20 * seconds


class TestLosing:
    async def test_the_lease_of_a_killed_process_runs_out(self, process, clock):
        killed = Lease(process().storage, "42", ttl=10)
        await killed.acquire(None)
        killed._stop()
        waiting = asyncio.create_task(eat(process()))
        await asyncio.sleep(0.02)

        assert not waiting.done()

        clock.now += 10
        async with asyncio.timeout(5):
            await waiting

    async def test_those_who_wait_do_not_keep_a_dead_holder_alive(self, process, clock):
        one = process()
        killed = Lease(one.storage, "42", ttl=10)
        await killed.acquire(None)
        killed._stop()
        waiting = [asyncio.create_task(eat(process())) for _ in range(3)]
        await asyncio.sleep(0.05)

        assert 10 >= (await one.storage.read(LEASE_PREFIX + "42")).ttl

        clock.now += 10
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)

        assert {"n": 3} == await one.read("42")

    async def test_it_is_renewed_while_the_body_runs(self, process, clock):
        sessions = process(lease_ttl=0.06)
        async with sessions.open("42"):
            for _ in range(3):
                clock.now += 0.05
                await asyncio.sleep(0.05)
            record = await sessions.storage.read(LEASE_PREFIX + "42")

            assert record is not None

    async def test_a_holder_that_lost_it_cannot_overwrite(self, process, clock, caplog):
        one, two = process(on_conflict="raise"), process()
        with pytest.raises(ConflictError):
            async with one.open("42") as session:
                session.data["n"] = 100
                clock.now += 11
                await eat(two)

        assert {"n": 1} == await two.read("42")
        assert 0 == len(one.desk.locks)
        assert "42" in caplog.text

    async def test_a_holder_that_lost_it_leaves_the_next_ones_alone(self, process, clock):
        one, two = process(), process()
        async with one.open("42"):
            clock.now += 11
            entered, leave = asyncio.Event(), asyncio.Event()

            async def hold():
                async with two.open("42"):
                    entered.set()
                    await leave.wait()

            holding = asyncio.create_task(hold())
            await entered.wait()
        record = await two.storage.read(LEASE_PREFIX + "42")
        leave.set()
        await holding

        assert record is not None


class TestFaults:
    async def test_a_write_whose_outcome_is_unknown_is_known_by_its_token(self, process):
        class Flaky(StorageWrapper):
            broken = True

            async def write(self, key, value, **options):
                version = await super().write(key, value, **options)
                if self.broken and key.startswith(LEASE_PREFIX):
                    self.broken = False
                    raise UnavailableError("cut off", outcome_unknown=True)
                return version

        sessions = Sessions(Flaky(process().storage), initial=dict, lock="shared")
        await eat(sessions)

        assert {"n": 1} == await sessions.read("42")
        assert ["42"] == [key async for key in sessions.storage.read_all_keys()]

    async def test_a_lease_that_cannot_be_given_back_fails_nothing(self, process, caplog):
        class Stubborn(StorageWrapper):
            async def delete(self, key, **options):
                raise UnavailableError("down")

        sessions = Sessions(Stubborn(process().storage), initial=dict, lock="shared")
        await eat(sessions)

        assert {"n": 1} == await sessions.read("42")
        assert "ends only in 10 s" in caplog.text

    async def test_an_outage_while_taking_it_reaches_the_caller(self, process):
        class Down(StorageWrapper):
            async def write(self, key, value, **options):
                raise UnavailableError("down")

        sessions = Sessions(Down(process().storage), initial=dict, lock="shared")
        with pytest.raises(UnavailableError):
            async with sessions.open("42"):
                pytest.fail("the body ran")

        assert 0 == len(sessions.desk.locks)
