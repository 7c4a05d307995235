"""Lazy sessions: read when somebody asks for them, and not at all if nobody does."""

import asyncio
from dataclasses import dataclass

import pytest
from bot_session import (
    ConfigurationError,
    LockTimeoutError,
    Origin,
    SessionClosedError,
    SessionKeyError,
    Sessions,
    UnavailableError,
)


@dataclass
class Pizza:
    count: int = 0


READ, WRITE, DELETE = ("read", "42"), ("write", "42"), ("delete", "42")


@pytest.fixture
def sessions(storage):
    return Sessions(storage, initial=Pizza)


async def turns(count=5):
    """Give other tasks a few turns of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


class TestReading:
    async def test_untouched_it_asks_nothing_of_the_storage(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        async with sessions.open("42", lazy=True):
            pass

        assert [] == storage.calls

    async def test_untouched_it_takes_no_lock(self, sessions):
        async with sessions.open("42", lazy=True):
            assert 0 == len(sessions.desk.locks)

    async def test_untouched_updates_of_one_key_do_not_wait_for_each_other(self, sessions):
        both = asyncio.Barrier(2)

        async def update():
            async with sessions.open("42", lazy=True):
                await both.wait()

        async with asyncio.timeout(5):
            await asyncio.gather(update(), update())

    async def test_untouched_it_never_calls_initial(self, storage):
        async with Sessions(storage, initial=lambda: pytest.fail("initial was called")).open("42", lazy=True):
            pass

    async def test_initial_is_called_at_the_first_access_and_once(self, storage):
        calls = []
        async with Sessions(storage, initial=lambda: calls.append(1) or {}).open("42", lazy=True) as session:
            assert [] == calls
            await session.get()
            await session.get()

        assert [1] == calls

    async def test_asked_again_and_again_it_reads_once(self, storage, sessions):
        async with sessions.open("42", lazy=True) as session:
            first = await session.get()

            assert first is await session.get()
            assert first is session.data
        assert [READ] == storage.calls

    async def test_asked_by_many_tasks_at_once_it_reads_once_and_all_get_the_same_object(self, storage, sessions):
        storage.gate.clear()
        async with sessions.open("42", lazy=True) as session:
            tasks = [asyncio.create_task(session.get()) for _ in range(10)]
            await turns()
            storage.gate.set()
            data = await asyncio.gather(*tasks)

            assert all(each is session.data for each in data)
        assert [READ] == storage.calls

    async def test_data_before_it_is_loaded_says_what_to_write(self, storage, sessions):
        async with sessions.open("42", lazy=True) as session:
            with pytest.raises(RuntimeError, match=r"await session\.get\(\)"):
                session.data  # noqa: B018

        assert [] == storage.calls

    async def test_what_was_only_looked_at_is_not_written(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        async with sessions.open("42", lazy=True) as session:
            assert Pizza(1) == await session.get()

        assert [READ] == storage.calls

    async def test_what_was_changed_in_place_is_written(self, storage, sessions):
        async with sessions.open("42", lazy=True) as session:
            (await session.get()).count += 1

        assert [READ, WRITE] == storage.calls
        assert '{"count":1}' == await storage.stored("42")

    async def test_unchanged_initial_data_is_not_written(self, storage, sessions):
        async with sessions.open("42", lazy=True) as session:
            await session.get()

        assert [READ] == storage.calls

    async def test_get_works_with_strict_sessions_alike(self, storage, sessions):
        for lazy in (False, True):
            async with sessions.open("42", lazy=lazy) as session:
                (await session.get()).count += 1

        assert Pizza(2) == await sessions.read("42")

    async def test_touched_updates_of_one_key_take_turns(self, sessions):
        async def update():
            async with sessions.open("42", lazy=True) as session:
                count = (await session.get()).count
                await asyncio.sleep(0)
                session.data.count = count + 1

        await asyncio.gather(*(update() for _ in range(50)))

        assert Pizza(50) == await sessions.read("42")
        assert 0 == len(sessions.desk.locks)

    async def test_after_its_update_it_is_closed(self, storage, sessions):
        async with sessions.open("42", lazy=True) as session:
            pass

        with pytest.raises(SessionClosedError):
            await session.get()
        with pytest.raises(SessionClosedError):
            session.data = Pizza(1)
        assert [] == storage.calls


class TestAFailedRead:
    async def test_raises_and_the_next_one_tries_again(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        async with sessions.open("42", lazy=True) as session:
            storage.down = True
            with pytest.raises(UnavailableError):
                await session.get()
            storage.down = False
            (await session.get()).count += 1

        assert Pizza(2) == await sessions.read("42")

    async def test_that_the_handler_dealt_with_is_not_repeated_at_the_end(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        storage.down = True
        async with sessions.open("42", lazy=True) as session:
            with pytest.raises(UnavailableError):
                await session.get()

        assert [READ] == storage.calls
        assert '{"count":1}' == await storage.stored("42")

    async def test_reaches_everybody_who_asked_each_having_tried(self, storage, sessions):
        storage.down = True
        async with sessions.open("42", lazy=True) as session:
            results = await asyncio.gather(*(session.get() for _ in range(3)), return_exceptions=True)

        assert [UnavailableError] * 3 == [type(result) for result in results]
        assert 0 == len(sessions.desk.locks)


class TestAssigning:
    async def test_before_reading_is_one_write_and_no_read(self, storage, sessions):
        await storage.store("42", "not even JSON")
        async with sessions.open("42", lazy=True) as session:
            session.data = Pizza(7)

            assert Pizza(7) == session.data
            assert Pizza(7) == await session.get()
        assert [WRITE] == storage.calls
        assert '{"count":7}' == await storage.stored("42")

    async def test_before_reading_overwrites_whoever_wrote_meanwhile(self, storage):
        async with Sessions(storage, initial=Pizza, on_conflict="raise").open("42", lazy=True) as session:
            session.data = Pizza(7)
            await storage.store("42", '{"count":1}')

        assert '{"count":7}' == await storage.stored("42")

    async def test_what_equals_initial_data_is_written_too(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        async with sessions.open("42", lazy=True) as session:
            session.data = Pizza()

        assert '{"count":0}' == await storage.stored("42")

    async def test_none_before_reading_is_one_delete_and_no_read(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        async with sessions.open("42", lazy=True) as session:
            session.data = None

            assert await session.get() is None
        assert [DELETE] == storage.calls
        assert await storage.stored("42") is None

    async def test_while_a_read_is_in_flight_wins_for_whoever_waits_for_it_too(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        storage.gate.clear()
        async with sessions.open("42", lazy=True) as session:
            waiting = asyncio.create_task(session.get())
            await turns()
            session.data = Pizza(7)
            storage.gate.set()

            assert Pizza(7) == await waiting
        assert [READ, WRITE] == storage.calls
        assert '{"count":7}' == await storage.stored("42")

    async def test_none_while_a_read_is_in_flight_wins(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        storage.gate.clear()
        async with sessions.open("42", lazy=True) as session:
            waiting = asyncio.create_task(session.get())
            await turns()
            session.data = None
            storage.gate.set()

            assert await waiting is None
        assert await storage.stored("42") is None

    async def test_while_a_read_is_in_flight_makes_initial_data_needless(self, storage):
        storage.gate.clear()
        sessions = Sessions(storage, initial=lambda: pytest.fail("initial was called"))
        async with sessions.open("42", lazy=True) as session:
            waiting = asyncio.create_task(session.get())
            await turns()
            session.data = 7
            storage.gate.set()

            assert 7 == await waiting

    async def test_is_not_saved_when_the_body_raises(self, storage, sessions):
        with pytest.raises(ZeroDivisionError):
            async with sessions.open("42", lazy=True) as session:
                session.data = Pizza(7)
                raise ZeroDivisionError

        assert [] == storage.calls

    async def test_what_is_changed_while_it_waits_for_its_turn_at_the_end_is_stored(self, sessions):
        leave, opened = asyncio.Event(), []

        async def hold():
            async with sessions.open("42"):
                await leave.wait()

        async def assign():
            async with sessions.open("42", lazy=True) as session:
                opened.append(session)
                session.data = Pizza(1)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hold())
            await turns()
            tasks.create_task(assign())
            await turns()
            opened[0].data.count = 2
            leave.set()

        assert Pizza(2) == await sessions.read("42")


class TestAssigningAnAwaitable:
    async def test_it_is_awaited_before_saving(self, storage, sessions):
        async def make():
            await asyncio.sleep(0)
            return Pizza(7)

        async with sessions.open("42", lazy=True) as session:
            session.data = make()

        assert [WRITE] == storage.calls
        assert '{"count":7}' == await storage.stored("42")

    async def test_it_may_ask_for_what_was_there_before(self, storage, sessions):
        """grammY's own documented example of this waits for itself for ever."""
        await storage.store("42", '{"count":1}')
        async with asyncio.timeout(5), sessions.open("42", lazy=True) as session:

            async def next_one():
                before = await session.get()
                return Pizza(before.count + 1)

            session.data = next_one()

        assert '{"count":2}' == await storage.stored("42")

    async def test_get_awaits_it(self, storage, sessions):
        async def make():
            return Pizza(7)

        async with sessions.open("42", lazy=True) as session:
            session.data = make()

            assert Pizza(7) == await session.get()
            assert Pizza(7) == session.data

    async def test_none_from_it_deletes(self, storage, sessions):
        async def make():
            await session.get()

        await storage.store("42", '{"count":1}')
        async with sessions.open("42", lazy=True) as session:
            session.data = make()

        assert [READ, DELETE] == storage.calls
        assert await storage.stored("42") is None

    async def test_a_future_will_do(self, storage, sessions):
        future = asyncio.get_running_loop().create_future()
        async with sessions.open("42", lazy=True) as session:
            session.data = future
            future.set_result(Pizza(7))

        assert '{"count":7}' == await storage.stored("42")

    async def test_save_midway_awaits_it(self, storage, sessions):
        async def make():
            return Pizza(7)

        async with sessions.open("42", lazy=True) as session:
            session.data = make()
            await session.save()

            assert '{"count":7}' == await storage.stored("42")

    async def test_data_says_that_it_must_be_awaited(self, sessions):
        async def make():
            return Pizza(7)

        async with sessions.open("42", lazy=True) as session:
            session.data = make()
            with pytest.raises(RuntimeError, match=r"await session\.get\(\)"):
                session.data  # noqa: B018

    async def test_the_last_assignment_wins_and_the_first_is_never_awaited(self, storage, sessions):
        async def make():
            pytest.fail("it was awaited")

        async with sessions.open("42", lazy=True) as session:
            session.data = make()
            session.data = Pizza(8)

        assert '{"count":8}' == await storage.stored("42")

    async def test_clear_drops_it(self, storage, sessions):
        async def make():
            pytest.fail("it was awaited")

        await storage.store("42", '{"count":1}')
        async with sessions.open("42", lazy=True) as session:
            session.data = make()
            session.clear()

        assert await storage.stored("42") is None

    async def test_its_error_fails_the_update_and_nothing_is_written(self, storage, sessions):
        async def make():
            raise ZeroDivisionError

        await storage.store("42", '{"count":1}')
        with pytest.raises(ZeroDivisionError):
            async with sessions.open("42", lazy=True) as session:
                session.data = make()

        assert '{"count":1}' == await storage.stored("42")
        assert 0 == len(sessions.desk.locks)

    async def test_it_is_dropped_when_the_body_raises(self, storage, sessions):
        async def make():
            pytest.fail("it was awaited")

        with pytest.raises(ZeroDivisionError):
            async with sessions.open("42", lazy=True) as session:
                session.data = make()
                raise ZeroDivisionError

        assert [] == storage.calls


class TestAReadNobodyAwaited:
    async def test_is_waited_for_and_what_it_led_to_is_saved(self, storage, sessions):
        async def later():
            (await session.get()).count += 1

        storage.gate.clear()
        async with sessions.open("42", lazy=True) as session:
            task = asyncio.create_task(later())
            await turns()
            asyncio.get_running_loop().call_later(0.001, storage.gate.set)

        await task
        assert [READ, WRITE] == storage.calls
        assert '{"count":1}' == await storage.stored("42")

    async def test_that_fails_does_not_fail_the_update(self, storage, sessions):
        storage.down = True
        async with sessions.open("42", lazy=True) as session:
            task = asyncio.create_task(session.get())
            await turns(1)

        with pytest.raises(UnavailableError):
            await task
        assert [READ] == storage.calls

    async def test_gives_no_data_that_could_not_be_saved_any_more(self, storage, sessions):
        storage.gate.clear()
        with pytest.raises(ZeroDivisionError):
            async with sessions.open("42", lazy=True) as session:
                task = asyncio.create_task(session.get())
                await turns()
                raise ZeroDivisionError
        storage.gate.set()

        with pytest.raises(SessionClosedError):
            await task
        assert 0 == len(sessions.desk.locks)

    async def test_that_waits_for_its_turn_gives_it_back_when_its_update_is_over(self, storage, sessions):
        async with sessions.open("42"):

            async def update():
                async with sessions.open("42", lazy=True) as session:
                    reading.append(asyncio.create_task(session.get()))
                    await turns()
                    raise ZeroDivisionError

            reading = []
            with pytest.raises(ZeroDivisionError):
                await asyncio.create_task(update())

        with pytest.raises(SessionClosedError):
            await reading[0]
        assert 0 == len(sessions.desk.locks)

    async def test_does_not_keep_a_save_midway_from_its_turn(self, storage, sessions):
        """Both need the key's lock, and another update has it: the session must not wait for itself."""

        async def other():
            async with sessions.open("42"):
                entered.set()
                await leave.wait()

        entered, leave = asyncio.Event(), asyncio.Event()
        before = asyncio.create_task(other())
        await entered.wait()
        async with asyncio.timeout(5), sessions.open("42", lazy=True) as session:
            session.data = Pizza(1)
            saving = [asyncio.create_task(session.save()) for _ in range(3)]
            await turns()
            leave.set()
            await asyncio.gather(*saving, before)

        assert Pizza(1) == await sessions.read("42")
        assert 0 == len(sessions.desk.locks)


class TestClearing:
    async def test_before_loading_it_deletes_without_reading(self, storage, sessions):
        await storage.store("42", '{"count":9}')
        async with sessions.open("42", lazy=True) as session:
            session.clear()

            assert Pizza() == await session.get()
        assert [DELETE] == storage.calls

    async def test_before_loading_what_is_changed_then_is_written_without_reading(self, storage, sessions):
        await storage.store("42", '{"count":9}')
        async with sessions.open("42", lazy=True) as session:
            session.clear()
            session.data.count += 1

        assert [WRITE] == storage.calls
        assert '{"count":1}' == await storage.stored("42")

    async def test_with_an_async_initial(self, storage):
        async def initial() -> Pizza:
            return Pizza(100)

        await storage.store("42", '{"count":9}')
        async with Sessions(storage, initial=initial).open("42", lazy=True) as session:
            session.clear()

            assert Pizza(100) == await session.get()
        assert [DELETE] == storage.calls

    async def test_while_a_read_is_in_flight(self, storage, sessions):
        await storage.store("42", '{"count":9}')
        storage.gate.clear()
        async with sessions.open("42", lazy=True) as session:
            waiting = asyncio.create_task(session.get())
            await turns()
            session.clear()
            storage.gate.set()

            assert Pizza() == await waiting
        assert await storage.stored("42") is None

    async def test_while_a_read_is_in_flight_with_an_async_initial(self, storage):
        async def initial() -> Pizza:
            return Pizza(100)

        await storage.store("42", '{"count":9}')
        storage.gate.clear()
        async with Sessions(storage, initial=initial).open("42", lazy=True) as session:
            waiting = asyncio.create_task(session.get())
            await turns()
            session.clear()
            storage.gate.set()

            assert Pizza(100) == await waiting
        assert await storage.stored("42") is None

    @pytest.mark.parametrize("lazy", [False, True])
    async def test_saved_midway_the_initial_data_that_is_left_is_not_written(self, storage, sessions, lazy):
        await storage.store("42", '{"count":9}')
        async with sessions.open("42", lazy=lazy) as session:
            session.clear()
            await session.save()

            assert Pizza() == session.data
        assert WRITE not in storage.calls
        assert await storage.stored("42") is None


class TestOpenedWithinEachOther:
    @pytest.mark.parametrize("inner", [False, True])
    @pytest.mark.parametrize("outer", [False, True])
    async def test_they_are_one_session_which_the_outermost_saves(self, storage, sessions, outer, inner):
        async with asyncio.timeout(5), sessions.open("42", lazy=outer) as one:
            async with sessions.open("42", lazy=inner) as other:
                assert one is other
                (await other.get()).count += 1
            (await one.get()).count += 1

            assert [READ] == storage.calls
        assert [READ, WRITE] == storage.calls
        assert Pizza(2) == await sessions.read("42")

    async def test_a_strict_one_within_an_untouched_lazy_one_has_its_data(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        async with sessions.open("42", lazy=True), sessions.open("42") as session:
            assert Pizza(1) == session.data

    async def test_an_untouched_outer_one_may_be_touched_while_the_inner_one_is_open(self, sessions):
        async with asyncio.timeout(5), sessions.open("42", lazy=True) as outer, sessions.open("42") as inner:
            inner.data.count += 1

            assert Pizza(1) == await outer.get()

    async def test_update_within_an_untouched_one_joins_it(self, storage, sessions):
        async with asyncio.timeout(5), sessions.open("42", lazy=True) as session:
            await sessions.update("42", lambda pizza: Pizza(pizza.count + 1))

            assert Pizza(1) == session.data
            assert [READ] == storage.calls
        assert Pizza(1) == await sessions.read("42")

    @pytest.mark.parametrize("stored", [False, True])
    async def test_delete_within_an_untouched_one_says_whether_there_was_one(self, storage, sessions, stored):
        if stored:
            await storage.store("42", '{"count":1}')
        async with asyncio.timeout(5), sessions.open("42", lazy=True) as session:
            assert stored is await sessions.delete("42")
            assert await session.get() is None

        assert not await sessions.has("42")

    async def test_two_kinds_under_one_key_are_refused(self, storage, sessions):
        other = Sessions(storage, initial=dict)
        async with sessions.open("42", lazy=True):
            with pytest.raises(ConfigurationError, match="prefix"):
                async with other.open("42", lazy=True):
                    pass

    async def test_nothing_of_them_is_left_when_they_are_over(self, sessions):
        async with sessions.open("42", lazy=True), sessions.open("42"):
            pass
        with pytest.raises(ZeroDivisionError):
            async with sessions.open("42", lazy=True):
                raise ZeroDivisionError

        assert sessions.desk.mine(sessions, "42") is None
        assert 0 == len(sessions.desk.locks)


class TestKeysAndTurns:
    async def test_an_update_without_a_key_raises_only_when_touched(self, storage, sessions):
        async with await sessions.open_for(Origin(user_id=7), lazy=True) as session:
            with pytest.raises(SessionKeyError):
                await session.get()
            with pytest.raises(SessionKeyError):
                session.data = Pizza(1)

        assert [] == storage.calls

    async def test_waiting_for_its_turn_has_an_end_and_may_be_tried_again(self, storage):
        sessions = Sessions(storage, initial=Pizza, lock_timeout=0.01)

        async def second():
            async with sessions.open("42", lazy=True) as session:
                with pytest.raises(LockTimeoutError):
                    await session.get()
                leave.set()
                await first
                (await session.get()).count += 1

        async def hold():
            async with sessions.open("42"):
                await leave.wait()

        leave = asyncio.Event()
        first = asyncio.create_task(hold())
        await turns(1)
        await second()

        assert Pizza(1) == await sessions.read("42")
        assert 0 == len(sessions.desk.locks)


class TestPromises:
    """An awaitable that is assigned is kept, whoever asks for it, and whoever gives up."""

    @staticmethod
    async def later(session=None):
        await asyncio.sleep(0.01)
        return Pizza(2 if session is None else (await session.get()).count + 1)

    async def test_all_who_ask_get_the_same(self, sessions):
        async with sessions.open("42", lazy=True) as session:
            session.data = self.later()
            one, two = await asyncio.gather(session.get(), session.get())

            assert one is two
            assert Pizza(2) == one

        assert Pizza(2) == await sessions.read("42")

    async def test_it_is_saved_though_whoever_asked_gave_up(self, sessions):
        async with sessions.open("42", lazy=True) as session:
            session.data = self.later()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await session.get()

        assert Pizza(2) == await sessions.read("42")

    async def test_it_is_saved_though_somebody_is_still_asking_at_the_end(self, sessions):
        async with sessions.open("42", lazy=True) as session:
            session.data = self.later()
            asking = asyncio.create_task(session.get())
            await turns()

        assert Pizza(2) == await sessions.read("42")
        await asyncio.wait([asking])

    async def test_all_who_ask_are_told_that_it_failed(self, storage, sessions):
        async def fail():
            await asyncio.sleep(0)
            raise ZeroDivisionError

        await storage.store("42", '{"count":1}')
        async with sessions.open("42", lazy=True) as session:
            session.data = fail()
            outcomes = await asyncio.gather(session.get(), session.get(), return_exceptions=True)

            assert [ZeroDivisionError] * 2 == [type(outcome) for outcome in outcomes]
            assert Pizza(1) == await session.get()

    async def test_a_failure_of_which_nobody_was_told_is_told_at_the_end(self, sessions):
        async def fail():
            await asyncio.sleep(0.005)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with sessions.open("42", lazy=True) as session:
                session.data = fail()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await session.get()
                await asyncio.sleep(0.01)

    async def test_another_assignment_takes_its_place_though_it_has_begun(self, sessions):
        async with sessions.open("42", lazy=True) as session:
            session.data = self.later()
            asking = asyncio.create_task(session.get())
            await turns()
            session.data = Pizza(7)

            assert Pizza(7) == await asking

        assert Pizza(7) == await sessions.read("42")

    async def test_inside_of_it_is_what_was_there_before(self, storage, sessions):
        await storage.store("42", '{"count":1}')
        async with asyncio.timeout(5), sessions.open("42", lazy=True) as session:
            session.data = self.later(session)

        assert Pizza(2) == await sessions.read("42")
