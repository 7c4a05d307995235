"""Strict sessions: what is read, what is written, and when nothing is."""

import asyncio
import dataclasses
import gc
import math
import weakref
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from bot_session import (
    ConfigurationError,
    ConflictError,
    DecodeError,
    EncodeError,
    LockTimeoutError,
    MemoryStorage,
    Origin,
    PrefixedStorage,
    SessionClosedError,
    SessionKeyError,
    Sessions,
    UnavailableError,
    by_user,
)
from bot_session.storage import ANY, MAX_TTL


@dataclass
class Pizza:
    count: int = 0
    toppings: list[str] = field(default_factory=list)


class Shared(MemoryStorage):
    """What one process has of a storage that several share; it can be held up, overtaken, and fail once."""

    capabilities = dataclasses.replace(MemoryStorage.capabilities, shared=True, durable=True)

    def __init__(self, entries):
        super().__init__()
        self._entries = entries
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.after_writes = []
        self.fails_once = None

    def _fail(self, operation):
        if self.fails_once == operation:
            self.fails_once = None
            raise UnavailableError("down for a moment")

    async def read(self, key):
        self._fail("read")
        return await super().read(key)

    async def has(self, key):
        self._fail("has")
        return await super().has(key)

    async def touch(self, key, ttl):
        self._fail("touch")
        return await super().touch(key, ttl)

    async def delete(self, key, **options):
        self._fail("delete")
        return await super().delete(key, **options)

    async def write(self, key, value, **options):
        self._fail("write")
        self.reached.set()
        await self.gate.wait()
        version = await super().write(key, value, **options)
        if self.after_writes:
            await self.after_writes.pop(0)()
        return version


async def eat(sessions, key):
    async with sessions.open(key) as session:
        assert session.data


@pytest.fixture
def sessions(storage):
    return Sessions(storage, initial=Pizza)


class TestOneUpdate:
    async def test_a_change_is_read_once_and_written_once(self, storage, sessions):
        async with sessions.open("42") as session:
            session.data.count += 1

        assert [("read", "42"), ("write", "42")] == storage.calls
        assert '{"count":1,"toppings":[]}' == await storage.stored("42")

    async def test_its_opening_says_whose_it_is_and_nothing_of_the_update(self, sessions):
        opening = sessions.open("42", context={"text": "secret"})

        assert repr(opening) == "<Opening '42'>"

    async def test_it_is_read_before_the_body(self, storage, sessions):
        async with sessions.open("42"):
            assert [("read", "42")] == storage.calls

    async def test_a_change_in_place_is_enough_however_deep(self, storage, sessions):
        async with sessions.open("42") as session:
            session.data.toppings.append("olives")

        assert Pizza(0, ["olives"]) == await sessions.read("42")

    async def test_the_data_is_the_same_object_throughout(self, sessions):
        async with sessions.open("42") as session:
            assert session.data is session.data
            assert session.data is await session.get()

    async def test_untouched_data_is_not_written(self, storage, sessions):
        await storage.store("42", '{"count":1,"toppings":[]}')
        async with sessions.open("42"):
            pass

        assert [("read", "42")] == storage.calls

    async def test_data_that_was_only_looked_at_is_not_written(self, storage, sessions):
        await storage.store("42", '{"count":1,"toppings":[]}')
        async with sessions.open("42") as session:
            assert 1 == session.data.count

        assert [("read", "42")] == storage.calls

    async def test_a_change_that_is_taken_back_is_not_written(self, storage, sessions):
        await storage.store("42", '{"count":1,"toppings":[]}')
        async with sessions.open("42") as session:
            session.data.count += 1
            session.data.count -= 1

        assert [("read", "42")] == storage.calls

    @pytest.mark.parametrize(
        "text", ['{\n\t"count": 1,\n\t"toppings": []\n}', '{"toppings":[],"count":1}', '{"count":1}']
    )
    async def test_another_programs_way_of_writing_is_no_change(self, storage, text):
        await storage.store("42", text)
        async with Sessions(storage, initial=Pizza).open("42") as session:
            assert 1 == session.data.count

        assert [("read", "42")] == storage.calls
        assert text == await storage.stored("42")

    async def test_unchanged_initial_data_is_not_written(self, storage, sessions):
        async with sessions.open("42") as session:
            assert Pizza() == session.data
            assert session.is_new

        assert [("read", "42")] == storage.calls

    async def test_assigning_replaces(self, storage, sessions):
        async with sessions.open("42") as session:
            session.data = Pizza(7)

            assert 7 == session.data.count
        assert Pizza(7) == await sessions.read("42")
        assert not (await self._open_and_look(sessions)).is_new

    async def _open_and_look(self, sessions):
        async with sessions.open("42") as session:
            return session

    async def test_without_initial_new_data_is_none_and_nothing_is_deleted(self, storage):
        async with Sessions(storage).open("42") as session:
            assert session.data is None

        assert [("read", "42")] == storage.calls

    @pytest.mark.parametrize("value", [0, "", False, [], {}, 1.5, "text", [1, {"a": None}]])
    async def test_any_json_value_is_kept_falsy_ones_too(self, storage, value):
        async with Sessions(storage).open("42") as session:
            session.data = value

        back = await Sessions(storage).read("42")

        assert (value, type(value)) == (back, type(back))

    async def test_a_stored_null_is_none_without_initial_and_stays_if_untouched(self, storage, sessions):
        await storage.store("42", "null")
        nullable = Sessions(storage, initial=lambda: 1)
        async with nullable.open("42") as session:
            assert session.data is None

        assert "null" == await storage.stored("42")

    async def test_the_key_is_at_hand(self, sessions):
        async with sessions.open("42") as session:
            assert "42" == session.key

    async def test_the_empty_key_is_a_key(self, sessions):
        async with sessions.open("") as session:
            session.data.count = 1

        assert Pizza(1) == await sessions.read("")

    async def test_a_prefix_stands_before_the_key_and_is_not_seen(self, storage):
        sessions = Sessions(storage, initial=Pizza, prefix="p:")
        async with sessions.open("42") as session:
            session.data.count = 1

            assert "42" == session.key
        assert ["p:42"] == [key async for key in storage.read_all_keys()]
        assert ["42"] == [key async for key in sessions.keys()]


class TestDeleting:
    async def test_none_deletes(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        async with sessions.open("42") as session:
            session.data = None

            assert session.data is None
        assert [("read", "42"), ("delete", "42")] == storage.calls
        assert not await sessions.has("42")

    async def test_none_where_nothing_is_stored_costs_nothing(self, storage, sessions):
        async with sessions.open("42") as session:
            session.data = None

        assert [("read", "42")] == storage.calls

    async def test_none_and_then_data_is_a_replacement(self, storage, sessions):
        await storage.store("42", '{"count":1,"toppings":[]}')
        async with sessions.open("42") as session:
            session.data = None
            session.data = Pizza(1)

        assert Pizza(1) == await sessions.read("42")

    async def test_clear_deletes_and_leaves_initial_data(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        async with sessions.open("42") as session:
            session.clear()

            assert Pizza() == session.data
        assert await storage.stored("42") is None

    async def test_changes_after_clear_are_saved(self, storage, sessions):
        await storage.store("42", '{"count":9,"toppings":["ham"]}')
        async with sessions.open("42") as session:
            session.clear()
            session.data.count += 1

        assert Pizza(1) == await sessions.read("42")

    async def test_clear_works_with_async_initial(self, storage):
        async def initial() -> Pizza:
            return Pizza(100)

        await storage.store("42", '{"count":9}')
        async with Sessions(storage, initial=initial).open("42") as session:
            session.clear()

            assert Pizza(100) == await session.get()
        assert await storage.stored("42") is None

    async def test_clear_of_a_new_session_costs_nothing(self, storage, sessions):
        async with sessions.open("42") as session:
            session.data.count = 5
            session.clear()

        assert [("read", "42")] == storage.calls


class TestFailing:
    async def test_nothing_is_written_when_the_body_raises(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        with pytest.raises(ZeroDivisionError):
            async with sessions.open("42") as session:
                session.data.count = 99
                raise ZeroDivisionError

        assert '{"count":1}' == await storage.stored("42")
        assert 0 == len(sessions.desk.locks)

    async def test_control_flow_is_no_failure(self, storage, sessions):
        with pytest.raises(StopAsyncIteration):
            async with sessions.open("42", passthrough=(StopAsyncIteration,)) as session:
                session.data.count = 1
                raise StopAsyncIteration

        assert Pizza(1) == await sessions.read("42")

    async def test_nothing_is_written_when_the_body_is_cancelled(self, storage, sessions):
        entered = asyncio.Event()

        async def update():
            async with sessions.open("42") as session:
                session.data.count = 99
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(update())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await storage.stored("42") is None
        assert 0 == len(sessions.desk.locks)

    async def test_memory_is_not_changed_by_a_handler_that_raises(self):
        sessions = Sessions(MemoryStorage(), initial=dict)
        await sessions.update("42", lambda data: data.update(n=1))
        with pytest.raises(ZeroDivisionError):
            async with sessions.open("42") as session:
                session.data["n"] = 99
                raise ZeroDivisionError

        assert {"n": 1} == await sessions.read("42")

    async def test_an_outage_is_not_an_empty_session(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        storage.down = True
        with pytest.raises(UnavailableError) as caught:
            async with sessions.open("42"):
                pytest.fail("the body ran")
        storage.down = False

        assert isinstance(caught.value.__cause__, ConnectionError)
        assert '{"count":1}' == await storage.stored("42")
        assert 0 == len(sessions.desk.locks)

    async def test_a_document_that_cannot_be_decoded_raises_and_stays(self, storage, sessions):
        await storage.store("42", '{"count":"many"}')
        with pytest.raises(DecodeError, match=r"'42'.*Pizza.*count") as caught:
            async with sessions.open("42"):
                pytest.fail("the body ran")

        assert "42" == caught.value.key
        assert '{"count":"many"}' == await storage.stored("42")

    async def test_data_that_would_not_come_back_is_not_written(self, storage, sessions):
        with pytest.raises(EncodeError) as caught:
            async with sessions.open("42") as session:
                session.data.count = "many"

        assert "42" == caught.value.key
        assert await storage.stored("42") is None
        assert 0 == len(sessions.desk.locks)

    async def test_an_error_from_initial_reaches_the_caller(self, sessions, storage):
        def initial():
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with Sessions(storage, initial=initial).open("42"):
                pass

        assert 0 == len(sessions.desk.locks)

    async def test_after_its_update_a_session_is_closed(self, sessions):
        async with sessions.open("42") as session:
            pass

        for use in (lambda: session.data, session.clear, lambda: setattr(session, "data", Pizza())):
            with pytest.raises(SessionClosedError, match="42"):
                use()
        for use in (session.get, session.save):
            with pytest.raises(SessionClosedError, match="42"):
                await use()

    async def test_it_is_closed_after_a_failure_too(self, sessions):
        with pytest.raises(ZeroDivisionError):
            async with sessions.open("42") as session:
                raise ZeroDivisionError

        with pytest.raises(SessionClosedError):
            session.data.count += 1

    async def test_an_entering_or_leaving_that_never_began_has_no_effect(self, sessions):
        async def cancelled(step):
            task = asyncio.ensure_future(step)
            task.cancel()
            await asyncio.wait([task])

        opening = sessions.open("42")
        await cancelled(opening.__aenter__())
        async with opening as session:
            session.data.count += 1
            await cancelled(opening.__aexit__(None, None, None))
            session.data.count += 1

        assert Pizza(2) == await sessions.read("42")
        assert 0 == len(sessions.desk.locks)

    async def test_a_change_while_it_is_saved_at_the_end_comes_too_late_and_is_told_so(self):
        writing, go_on = asyncio.Event(), asyncio.Event()

        class Slow(MemoryStorage):
            async def write(self, key, value, *, ttl=None, match=ANY):
                writing.set()
                await go_on.wait()
                return await super().write(key, value, ttl=ttl, match=match)

        sessions = Sessions(Slow(), initial=Pizza)
        opened = []

        async def handle():
            async with sessions.open("42") as session:
                opened.append(session)
                session.data.count += 1

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(handle())
            await writing.wait()
            with pytest.raises(SessionClosedError):
                opened[0].data.count += 1
            with pytest.raises(SessionClosedError):
                await opened[0].get()
            go_on.set()

        assert Pizza(1) == await sessions.read("42")


class TestInitial:
    async def test_it_may_be_a_function(self, storage):
        async with Sessions(storage, initial=lambda: {"n": 5}).open("42") as session:
            assert {"n": 5} == session.data

    async def test_it_may_be_async(self, storage):
        async def initial():
            await asyncio.sleep(0)
            return {"n": 5}

        async with Sessions(storage, initial=initial).open("42") as session:
            assert {"n": 5} == session.data

    async def test_it_may_take_the_context(self, storage):
        async with Sessions(storage, initial=lambda context: {"user": context}).open("42", context=7) as session:
            assert {"user": 7} == session.data

    async def test_a_parameter_with_a_default_is_left_alone(self, storage):
        async with Sessions(storage, initial=lambda n=3: [n]).open("42", context=7) as session:
            assert [3] == session.data

    async def test_it_is_not_called_for_a_stored_session(self, storage):
        await storage.store("42", "1")
        async with Sessions(storage, initial=lambda: 1 / 0, type=int).open("42") as session:
            assert 1 == session.data

    async def test_nested_defaults_are_not_shared_between_sessions(self, storage):
        shared = {"items": []}
        sessions = Sessions(storage, initial=lambda: shared, type=dict)
        async with sessions.open("1") as session:
            session.data["items"].append("x")
        shared["items"].clear()
        async with sessions.open("2") as session:
            session.data["items"].append("y")

        assert [{"items": ["x"]}, {"items": ["y"]}] == [await sessions.read("1"), await sessions.read("2")]


class TestSavingMidway:
    async def test_save_writes_at_once_and_only_what_changed_later_is_written_later(self, storage, sessions):
        async with sessions.open("42") as session:
            session.data.count = 1
            await session.save()
            assert Pizza(1) == await sessions.read("42")

        assert 1 == storage.calls.count(("write", "42"))

    async def test_what_was_saved_stays_when_the_body_raises_later(self, sessions):
        with pytest.raises(ZeroDivisionError):
            async with sessions.open("42") as session:
                session.data.count = 1
                await session.save()
                session.data.count = 2
                raise ZeroDivisionError

        assert Pizza(1) == await sessions.read("42")

    async def test_a_save_that_failed_can_be_repeated(self, storage, sessions):
        async with sessions.open("42") as session:
            session.data.count = 1
            storage.down = True
            with pytest.raises(UnavailableError):
                await session.save()
            storage.down = False

        assert Pizza(1) == await sessions.read("42")

    async def test_deleting_midway(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        async with sessions.open("42") as session:
            session.data = None
            await session.save()
            assert await storage.stored("42") is None
            session.data = Pizza(2)

        assert Pizza(2) == await sessions.read("42")

    @pytest.mark.parametrize("again", ["", "clear"])
    @pytest.mark.parametrize("delete", ["assign", "clear"])
    async def test_what_is_deleted_while_it_is_being_saved_is_deleted(self, storage, sessions, delete, again):
        await storage.store("42", '{"count":1}')
        async with sessions.open("42") as session:
            if again:
                session.clear()
            session.data.count = 2
            storage.gate.clear()
            saving = asyncio.create_task(session.save())
            await asyncio.sleep(0)
            if delete == "clear":
                session.clear()
            else:
                session.data = None
            storage.gate.set()
            await saving

            assert '{"count":2,"toppings":[]}' == await storage.stored("42")

        assert await storage.stored("42") is None

    async def test_a_save_that_waits_for_another_may_come_too_late(self, storage, sessions):
        async with sessions.open("42") as session:
            session.data.count = 1
            storage.gate.clear()
            saving, late = (asyncio.create_task(session.save()) for _ in range(2))
            await asyncio.sleep(0)
            late.cancel()
            storage.gate.set()
        await saving

        assert Pizza(1) == await sessions.read("42")

    @pytest.mark.parametrize("number", [math.nan, math.inf])
    @pytest.mark.parametrize("stored", [None, '{"x":null}'])
    async def test_nan_in_place_of_nothing_is_refused_and_not_dropped(self, storage, stored, number):
        if stored is not None:
            await storage.store("42", stored)
        with pytest.raises(EncodeError, match=r"data\['x'\] is float"):
            async with Sessions(storage, initial=lambda: {"x": None}).open("42") as session:
                session.data["x"] = number

        assert stored == await storage.stored("42")


class TestSaveAccessed:
    """grammY's policy: whatever was looked at is written."""

    async def test_looking_writes(self, storage):
        await storage.store("42", '{"n":1}')
        async with Sessions(storage, initial=dict, save="accessed").open("42") as session:
            assert session.data

        assert [("read", "42"), ("write", "42")] == storage.calls

    async def test_not_looking_does_not(self, storage):
        await storage.store("42", '{"n":1}')
        async with Sessions(storage, initial=dict, save="accessed").open("42"):
            pass

        assert [("read", "42")] == storage.calls

    @pytest.mark.parametrize("midway", [False, True])
    @pytest.mark.parametrize("stored", [None, '{"n":1}'])
    async def test_what_was_cleared_stays_so(self, storage, stored, midway):
        if stored is not None:
            await storage.store("42", stored)
        async with Sessions(storage, initial=dict, save="accessed").open("42") as session:
            session.clear()
            if midway:
                await session.save()

            assert {} == session.data

        assert await storage.stored("42") is None

    async def test_initial_data_counts_as_a_write(self, storage):
        async with Sessions(storage, initial=dict, save="accessed").open("42"):
            pass

        assert "{}" == await storage.stored("42")

    async def test_a_stored_null_that_was_looked_at_is_deleted(self, storage):
        await storage.store("42", "null")
        async with Sessions(storage, save="accessed").open("42") as session:
            assert session.data is None

        assert await storage.stored("42") is None


class TestOrder:
    async def test_a_hundred_updates_of_one_key_end_at_a_hundred(self, sessions):
        async def update():
            async with sessions.open("42") as session:
                count = session.data.count
                await asyncio.sleep(0)
                session.data.count = count + 1

        await asyncio.gather(*(update() for _ in range(100)))

        assert Pizza(100) == await sessions.read("42")
        assert 0 == len(sessions.desk.locks)

    async def test_updates_of_one_key_are_handled_in_the_order_they_came(self, sessions):
        order = []

        async def update(number):
            async with sessions.open("42"):
                await asyncio.sleep(0)
                order.append(number)

        await asyncio.gather(*(update(number) for number in range(20)))

        assert list(range(20)) == order

    async def test_different_keys_run_side_by_side(self, sessions):
        both = asyncio.Barrier(2)

        async def update(key):
            async with sessions.open(key):
                await both.wait()

        async with asyncio.timeout(5):
            await asyncio.gather(update("1"), update("2"))

    async def test_a_raising_update_lets_the_next_one_in(self, sessions):
        async def fail():
            async with sessions.open("42"):
                raise ZeroDivisionError

        async def update():
            async with sessions.open("42") as session:
                session.data.count += 1

        await asyncio.gather(fail(), update(), fail(), update(), return_exceptions=True)

        assert Pizza(2) == await sessions.read("42")
        assert 0 == len(sessions.desk.locks)

    @pytest.mark.parametrize("which", [0, 1, 2])
    async def test_a_cancelled_update_lets_the_next_one_in(self, sessions, which):
        async def update():
            async with sessions.open("42") as session:
                await asyncio.sleep(0.001)
                session.data.count += 1

        tasks = [asyncio.create_task(update()) for _ in range(4)]
        await asyncio.sleep(0)
        tasks[which].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert isinstance(results[which], asyncio.CancelledError)
        assert Pizza(3) == await sessions.read("42")
        assert 0 == len(sessions.desk.locks)

    async def test_opening_again_within_a_task_gives_the_same_session_which_the_outermost_saves(
        self, storage, sessions
    ):
        async with asyncio.timeout(5):
            async with sessions.open("42") as outer:
                outer.data.count += 1
                async with sessions.open("42") as inner:
                    assert inner is outer
                    inner.data.count += 1
                assert [("read", "42")] == storage.calls

        assert Pizza(2) == await sessions.read("42")

    async def test_two_kinds_of_session_under_one_key_are_refused(self, storage, sessions):
        other = Sessions(PrefixedStorage(storage, "4"), initial=dict)
        async with sessions.open("42"):
            with pytest.raises(ConfigurationError, match="prefix"):
                async with other.open("2"):
                    pass

        assert 0 == len(sessions.desk.locks)

    async def test_two_kinds_of_session_in_two_tasks_take_turns(self, storage, sessions):
        other = Sessions(storage, initial=Pizza)

        async def update(kind):
            async with kind.open("42") as session:
                count = session.data.count
                await asyncio.sleep(0.001)
                session.data.count = count + 1

        await asyncio.gather(*(update(kind) for kind in [sessions, other] * 10))

        assert Pizza(20) == await sessions.read("42")
        assert 20 == storage.calls.count(("write", "42"))

    async def test_waiting_has_an_end(self, storage):
        sessions = Sessions(storage, initial=Pizza, lock_timeout=0.01)
        async with sessions.open("42"):

            async def second():
                async with sessions.open("42"):
                    pytest.fail("the body ran")

            with pytest.raises(LockTimeoutError, match="42"):
                await asyncio.create_task(second())

        assert 0 == len(sessions.desk.locks)

    async def test_nothing_is_kept_of_a_storage_that_is_gone(self):
        storage = MemoryStorage()
        sessions = Sessions(storage, initial=Pizza)
        async with sessions.open("42") as session:
            session.data.count += 1
        gone = weakref.ref(storage)
        del storage, sessions, session
        gc.collect()

        assert gone() is None

    async def test_a_storage_need_not_be_hashable(self):
        @dataclass
        class Own(MemoryStorage):
            def __post_init__(self):
                super().__init__()

        async with Sessions(Own(), initial=Pizza).open("42") as session:
            session.data.count += 1

        assert Own.__hash__ is None


class TestKeys:
    async def test_the_default_is_per_chat(self, sessions):
        async with await sessions.open_for(Origin(chat_id=42, user_id=7)) as session:
            assert "42" == session.key

    async def test_an_update_without_a_key_raises_only_when_touched(self, storage, sessions):
        async with await sessions.open_for(Origin(user_id=7)) as session:
            for use in (lambda: session.data, session.clear, lambda: setattr(session, "data", None)):
                with pytest.raises(SessionKeyError, match="by_chat"):
                    use()
            for use in (session.get, session.save):
                with pytest.raises(SessionKeyError):
                    await use()

        assert [] == storage.calls

    @pytest.mark.parametrize("lazy", [False, True])
    async def test_the_key_function_is_called_once_lazy_or_not(self, storage, lazy):
        calls = []
        sessions = Sessions(storage, initial=Pizza, key=lambda origin: calls.append(1) or "42")
        async with await sessions.open_for(Origin(), lazy=lazy):
            pass

        assert [1] == calls

    async def test_a_key_function_may_be_async_and_return_an_integer(self, storage):
        async def key(origin):
            return origin.user_id

        async with await Sessions(storage, initial=Pizza, key=key).open_for(Origin(user_id=7)) as session:
            assert "7" == session.key

    @pytest.mark.parametrize("bad", [1.5, True, b"42", ["42"], object()])
    async def test_what_is_no_key_is_refused(self, storage, bad):
        with pytest.raises(SessionKeyError):
            await Sessions(storage, key=lambda _: bad).open_for(Origin())

        assert [] == storage.calls

    async def test_a_key_function_may_be_given_for_the_call(self, sessions):
        async with await sessions.open_for(Origin(chat_id=42, user_id=7), key=by_user) as session:
            assert "7" == session.key


class TestTTL:
    async def test_it_is_the_storages_and_begins_anew_with_every_change(self, storage):
        sessions = Sessions(storage, initial=Pizza, ttl=timedelta(days=1))
        await storage.store("42", '{"count":1}', ttl=10)
        async with sessions.open("42") as session:
            session.data.count += 1

        assert 86_400 == pytest.approx((await storage.read("42")).ttl, abs=5)

    async def test_looking_does_not_renew_it_by_default(self, storage):
        await storage.store("42", '{"count":1}', ttl=10)
        async with Sessions(storage, initial=Pizza, ttl=1000).open("42") as session:
            assert session.data

        assert [("read", "42")] == storage.calls

    async def test_looking_renews_it_if_wanted(self, storage):
        await storage.store("42", '{"count":1}', ttl=10)
        async with Sessions(storage, initial=Pizza, ttl=1000, renew="use").open("42") as session:
            assert session.data

        assert [("read", "42"), ("touch", "42")] == storage.calls
        assert 1000 == pytest.approx((await storage.read("42")).ttl, abs=5)

    async def test_not_looking_does_not(self, storage):
        await storage.store("42", '{"count":1}', ttl=10)
        async with Sessions(storage, initial=Pizza, ttl=1000, renew="use").open("42"):
            pass

        assert [("read", "42")] == storage.calls

    async def test_looking_soon_again_does_not_write_again(self, storage):
        await storage.store("42", '{"count":1}', ttl=995)
        async with Sessions(storage, initial=Pizza, ttl=1000, renew="use").open("42") as session:
            assert session.data

        assert [("read", "42")] == storage.calls

    async def test_data_that_had_none_gets_one_when_used(self, storage):
        await storage.store("42", '{"count":1}')
        async with Sessions(storage, initial=Pizza, ttl=1000, renew="use").open("42") as session:
            assert session.data

        assert 1000 == pytest.approx((await storage.read("42")).ttl, abs=5)

    async def test_an_expired_session_is_new(self):
        now = 0.0
        sessions = Sessions(MemoryStorage(clock=lambda: now), initial=Pizza, ttl=10)
        await sessions.update("42", lambda pizza: setattr(pizza, "count", 1))
        now = 10.0
        async with sessions.open("42") as session:
            assert session.is_new
            assert Pizza() == session.data

        assert [] == [key async for key in sessions.keys()]
        assert 1 == await sessions.purge()

    async def test_an_infinite_one_is_none(self, storage):
        sessions = Sessions(storage, initial=Pizza, ttl=math.inf, renew="use")
        await storage.store("42", '{"count":1}')
        async with sessions.open("42") as session:
            assert session.data

        assert [("read", "42")] == storage.calls

    @pytest.mark.parametrize("bad", [0, -1, math.nan, True, timedelta(0), "10", -math.inf, 1e12])
    def test_a_bad_one_is_refused(self, storage, bad):
        with pytest.raises(ConfigurationError, match="ttl"):
            Sessions(storage, ttl=bad)


class TestWithoutAHandler:
    async def test_read_has_and_delete(self, sessions):
        await sessions.update("42", lambda pizza: Pizza(3))

        assert Pizza(3) == await sessions.read("42")
        assert await sessions.has("42")
        assert await sessions.delete("42")
        assert not await sessions.delete("42")
        assert await sessions.read("42") is None
        assert not await sessions.has("42")

    async def test_delete_waits_for_the_update_that_is_under_way(self, sessions):
        entered, leave = asyncio.Event(), asyncio.Event()

        async def update():
            async with sessions.open("42") as session:
                session.data.count = 1
                entered.set()
                await leave.wait()

        task = asyncio.create_task(update())
        await entered.wait()
        deleting = asyncio.create_task(sessions.delete("42"))
        await asyncio.sleep(0)
        leave.set()

        assert await deleting
        await task
        assert not await sessions.has("42")

    async def test_delete_within_its_own_update(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        async with asyncio.timeout(5), sessions.open("42") as session:
            assert await sessions.delete("42")
            assert session.data is None

        assert not await sessions.has("42")

    async def test_update_runs_again_until_it_wins(self, storage, sessions):
        tries = []

        async def add(pizza):
            tries.append(pizza.count)
            if len(tries) < 4:
                await storage.store("42", f'{{"count":{len(tries) * 10},"toppings":[]}}')
            pizza.count += 1

        assert Pizza(31) == await sessions.update("42", add)
        assert [0, 10, 20, 30] == tries
        assert Pizza(31) == await sessions.read("42")

    async def test_update_gives_up_at_last(self, storage, sessions, monkeypatch):
        monkeypatch.setattr("bot_session.sessions.ATTEMPTS", 3)
        n = iter(range(1, 100))

        async def add(pizza):
            await storage.store("42", f'{{"count":{next(n)}}}')
            pizza.count = -1

        with pytest.raises(ConflictError):
            await sessions.update("42", add)

        assert 0 == len(sessions.desk.locks)

    async def test_update_may_return_what_replaces_the_data(self, storage):
        sessions = Sessions(storage, initial=int)

        assert 1 == await sessions.update("42", lambda n: n + 1)
        assert 2 == await sessions.update("42", lambda n: n + 1)

    async def test_update_that_changes_nothing_writes_nothing(self, storage, sessions):
        await sessions.update("42", lambda pizza: None)

        assert [("read", "42")] == storage.calls

    async def test_update_that_leaves_nothing_where_there_was_nothing_writes_nothing(self, storage):
        assert await Sessions(storage).update("42", lambda data: None) is None

        assert [("read", "42")] == storage.calls

    async def test_update_within_an_open_session_joins_it(self, sessions):
        async with asyncio.timeout(5), sessions.open("42") as session:
            session.data.count = 1
            await sessions.update("42", lambda pizza: setattr(pizza, "count", pizza.count + 1))

            assert 2 == session.data.count
        assert Pizza(2) == await sessions.read("42")

    @pytest.mark.parametrize("call", ["update", "delete", "move", "open", "lazy"])
    async def test_within_an_update_the_same_session_is_refused_at_once_and_another_is_not(self, sessions, call):
        async def do(key):
            if call == "update":
                await sessions.update(key, lambda pizza: Pizza(pizza.count + 1))
            elif call == "delete":
                await sessions.delete(key)
            elif call == "move":
                await sessions.move(key, f"{key}+")
            else:
                async with sessions.open(key, lazy=call == "lazy") as session:
                    (await session.get()).count += 1

        async def change(pizza):
            await do("another")
            with pytest.raises(LockTimeoutError, match="'42' is being updated by this very task"):
                await do("42")
            pizza.count += 1

        async with asyncio.timeout(10):
            await sessions.update("42", change)
            await sessions.update("42", change)

        assert Pizza(2) == await sessions.read("42")
        assert 0 == len(sessions.desk.locks) == len(sessions.desk._holders)

    async def test_many_updates_at_once(self, sessions):
        def add(pizza):
            pizza.count += 1

        await asyncio.gather(*(sessions.update("42", add) for _ in range(50)))

        assert Pizza(50) == await sessions.read("42")

    async def test_move_takes_data_and_remaining_life_along(self, storage, sessions):
        await storage.store("-1", '{"count":1}', ttl=100)

        assert await sessions.move("-1", "-1001")
        assert not await sessions.has("-1")
        assert Pizza(1) == await sessions.read("-1001")
        assert 100 == pytest.approx((await storage.read("-1001")).ttl, abs=5)

    async def test_move_takes_the_longest_life_along_though_the_backend_rounded_it_up(self):
        now = 0.001
        storage = MemoryStorage(clock=lambda: now)
        await storage.write("old", "{}", ttl=MAX_TTL)
        now = 0.0

        assert (await storage.read("old")).ttl > MAX_TTL
        assert await Sessions(storage).move("old", "new")
        assert (await storage.read("new")).ttl == MAX_TTL

    async def test_move_of_nothing_is_no_error(self, sessions):
        assert not await sessions.move("-1", "-1001")

    async def test_move_onto_a_living_session_raises_and_changes_nothing(self, storage, sessions):
        await storage.store("-1", '{"count":1}')
        await storage.store("-1001", '{"count":2}')
        with pytest.raises(ConflictError):
            await sessions.move("-1", "-1001")

        assert [Pizza(1), Pizza(2)] == [await sessions.read("-1"), await sessions.read("-1001")]

    async def test_move_may_overwrite(self, storage, sessions):
        await storage.store("-1", '{"count":1}')
        await storage.store("-1001", '{"count":2}')

        assert await sessions.move("-1", "-1001", overwrite=True)
        assert Pizza(1) == await sessions.read("-1001")

    async def test_moves_in_opposite_directions_do_not_deadlock(self, storage, sessions):
        await storage.store("1", '{"count":1}')
        async with asyncio.timeout(5):
            await asyncio.gather(
                *(sessions.move("1", "2") for _ in range(5)), *(sessions.move("2", "1") for _ in range(5))
            )

        assert 1 == await sessions.count()

    @pytest.mark.parametrize("open_key", ["-1", "-1001"])
    async def test_moving_a_session_that_is_open_in_the_same_update_is_refused_at_once(
        self, storage, sessions, open_key
    ):
        await storage.store("-1", '{"count":1}')
        async with asyncio.timeout(5), sessions.open(open_key):
            with pytest.raises(LockTimeoutError, match="this very update"):
                await sessions.move("-1", "-1001")

        assert Pizza(1) == await sessions.read("-1")

    async def test_what_another_process_changes_while_it_is_moved_moves_too(self):
        entries = {}
        mine, other = (Sessions(Shared(entries), initial=Pizza) for _ in range(2))
        await mine.update("-1", lambda pizza: Pizza(1))
        mine.storage.after_writes.append(lambda: other.update("-1", lambda pizza: Pizza(2)))

        assert await mine.move("-1", "-1001")
        assert {"-1001": Pizza(2)} == dict([entry async for entry in mine.entries()])

    async def test_what_another_process_deletes_while_it_is_moved_is_gone(self):
        entries = {}
        mine, other = (Sessions(Shared(entries), initial=Pizza) for _ in range(2))
        await mine.update("-1", lambda pizza: Pizza(1))
        mine.storage.after_writes.append(lambda: other.delete("-1"))

        assert not await mine.move("-1", "-1001")
        assert 0 == await mine.count()

    async def test_a_move_that_others_win_each_time_leaves_the_session_where_it_was(self, monkeypatch):
        monkeypatch.setattr("bot_session.sessions.ATTEMPTS", 3)
        entries = {}
        mine, other = (Sessions(Shared(entries), initial=Pizza) for _ in range(2))
        await mine.update("-1", lambda pizza: Pizza(1))

        def add(pizza):
            pizza.count += 1

        mine.storage.after_writes.extend([lambda: other.update("-1", add)] * 3)
        with pytest.raises(ConflictError):
            await mine.move("-1", "-1001")

        assert {"-1": Pizza(4)} == dict([entry async for entry in mine.entries()])

    async def test_delete_comes_after_a_save_that_was_given_up_when_it_had_left(self):
        storage = Shared({})
        sessions = Sessions(storage, initial=Pizza)
        storage.gate.clear()
        given_up, company = (asyncio.create_task(sessions.update(key, lambda _: Pizza(1))) for key in "ab")
        await storage.reached.wait()
        given_up.cancel()
        await asyncio.wait([given_up])
        deleting = asyncio.create_task(sessions.delete("a"))
        for _ in range(20):
            await asyncio.sleep(0)
        storage.gate.set()

        assert await deleting
        await company
        assert {"b": Pizza(1)} == dict([entry async for entry in sessions.entries()])

    @pytest.mark.parametrize("operation", ["touch", "delete", "has", "read", "write"])
    async def test_a_short_outage_is_bridged_whatever_is_done(self, operation):
        storage = Shared({})
        sessions = Sessions(storage, initial=Pizza, ttl=1000, renew="use")
        await storage.write("1", '{"count":1}', ttl=10)
        calls = {
            "touch": lambda: eat(sessions, "1"),
            "delete": lambda: sessions.delete("1"),
            "has": lambda: sessions.move("1", "1"),
            "read": lambda: sessions.move("1", "2"),
            "write": lambda: sessions.move("1", "2"),
        }
        storage.fails_once = operation
        await calls[operation]()

        assert storage.fails_once is None

    async def test_going_through_all(self, storage):
        sessions = Sessions(storage, initial=Pizza, prefix="p:")
        await storage.store("other", "not JSON at all")
        for n in range(5):
            await sessions.update(str(n), lambda pizza, n=n: Pizza(n + 1))

        assert {str(n): Pizza(n + 1) for n in range(5)} == {key: data async for key, data in sessions.entries()}
        assert [1, 2, 3, 4, 5] == sorted([pizza.count async for pizza in sessions.values()])
        assert 5 == await sessions.count()

    async def test_foreign_documents_among_ours_raise_or_are_reported(self, storage, sessions):
        await storage.store("convo-42", '["not","ours"]')
        await sessions.update("42", lambda pizza: Pizza(1))
        with pytest.raises(DecodeError, match="convo-42"):
            assert [entry async for entry in sessions.entries()]
        foreign = []

        assert [("42", Pizza(1))] == [entry async for entry in sessions.entries(on_error=foreign.append)]
        assert ["convo-42"] == [error.key for error in foreign]


class TestConfiguration:
    @pytest.mark.parametrize("wrong", [{"renew": "always"}, {"save": "never"}, {"on_conflict": "ignore"}])
    def test_wrong_words_are_refused(self, storage, wrong):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            Sessions(storage, **wrong)

    @pytest.mark.parametrize("option", ["lease_ttl", "lock_timeout"])
    @pytest.mark.parametrize("seconds", [0, -5, float("nan"), "10"])
    def test_times_that_are_none_are_refused_at_once(self, storage, option, seconds):
        with pytest.raises(ConfigurationError, match=option):
            Sessions(storage, **{option: seconds})

    def test_a_url_is_no_storage(self):
        with pytest.raises(ConfigurationError, match="open_storage"):
            Sessions("memory:")

    def test_an_ordinary_class_is_refused_at_once(self, storage):
        class Plain:
            pass

        with pytest.raises(ConfigurationError, match="@dataclass"):
            Sessions(storage, initial=Plain)
