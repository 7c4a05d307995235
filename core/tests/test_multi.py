"""Several kinds of session for one update."""

import asyncio
import dataclasses
from dataclasses import dataclass

import pytest
from bot_session import (
    ConfigurationError,
    DecodeError,
    MemoryStorage,
    MultiSessions,
    Origin,
    PrefixedStorage,
    SessionClosedError,
    SessionKeyError,
    Sessions,
    UnavailableError,
    by_chat,
    by_user,
)
from bot_session.storage import ANY


@dataclass
class User:
    name: str = ""


@dataclass
class Chat:
    count: int = 0


KEYS = {"user": "7", "chat": "-100"}
READS = [("read", "c:-100"), ("read", "u:7")]


@pytest.fixture
def users(storage):
    return Sessions(storage, initial=User, prefix="u:", key=by_user)


@pytest.fixture
def chats(storage):
    return Sessions(storage, initial=Chat, prefix="c:", key=by_chat)


@pytest.fixture
def multi(users, chats):
    return MultiSessions(user=users, chat=chats)


class Meeting(MemoryStorage):
    """Memory whose operations of one kind only go on when as many as expected are under way."""

    def __init__(self, operation, parties):
        super().__init__()
        self.operation = operation
        self.barrier = asyncio.Barrier(parties)

    async def meet(self, operation):
        if operation == self.operation:
            async with asyncio.timeout(5):
                await self.barrier.wait()

    async def read(self, key):
        await self.meet("read")
        return await super().read(key)

    async def write(self, key, value, **options):
        await self.meet("write")
        if "bad" in value:
            raise UnavailableError("down")
        return await super().write(key, value, **options)


def many(storage, count=3):
    return MultiSessions(**{f"f{n}": Sessions(storage, prefix=f"{n}:") for n in range(count)})


class TestStrict:
    async def test_each_fragment_has_its_own_data_key_and_prefix(self, storage, multi):
        async with multi.open(KEYS) as session:
            session.user.data.name = "Ada"
            session["chat"].data.count = 1

            assert ("7", "-100") == (session.user.key, session.chat.key)
        assert '{"name":"Ada"}' == await storage.stored("u:7")
        assert '{"count":1}' == await storage.stored("c:-100")

    async def test_only_the_fragments_that_changed_are_written(self, storage, multi):
        async with multi.open(KEYS) as session:
            session.chat.data.count = 1

        assert [*READS, ("write", "c:-100")] == storage.calls

    async def test_fragments_are_read_side_by_side(self):
        async with many(Meeting("read", 3)).open(dict.fromkeys(["f0", "f1", "f2"], "42")) as session:
            assert ["f0", "f1", "f2"] == list(session)

    async def test_fragments_are_written_side_by_side(self):
        storage = Meeting("write", 3)
        async with many(storage).open(dict.fromkeys(["f0", "f1", "f2"], "42")) as session:
            for name in session:
                session[name].data = name

        assert {"0:42", "1:42", "2:42"} == {key async for key in storage.read_all_keys()}

    async def test_one_that_cannot_be_written_keeps_none_of_the_others(self):
        storage = Meeting("write", 3)
        multi = many(storage)
        with pytest.raises(UnavailableError):
            async with multi.open(dict.fromkeys(["f0", "f1", "f2"], "42")) as session:
                session.assign({"f0": "bad", "f1": "good", "f2": "good"})

        assert {"1:42", "2:42"} == {key async for key in storage.read_all_keys()}
        assert 0 == len(multi.fragments["f0"].desk.locks)

    async def test_every_failure_is_told(self):
        with pytest.raises(UnavailableError) as caught:
            async with many(Meeting("write", 2)).open(dict.fromkeys(["f0", "f1", "f2"], "42")) as session:
                session.assign({"f0": "bad", "f1": "bad too"})

        assert 1 == len(caught.value.__notes__)
        assert "UnavailableError" in caught.value.__notes__[0]

    async def test_one_that_cannot_be_read_keeps_the_body_from_running_and_no_lock(self, storage, multi):
        await storage.store("u:7", "[]")
        with pytest.raises(DecodeError, match="u:7"):
            async with multi.open(KEYS):
                pytest.fail("the body ran")

        assert 0 == len(multi.fragments["user"].desk.locks)
        async with asyncio.timeout(5), multi.open({"chat": "-100"}) as session:
            session.chat.data.count = 1

    async def test_when_the_body_raises_nothing_is_written(self, storage, multi):
        with pytest.raises(ZeroDivisionError):
            async with multi.open(KEYS) as session:
                session.assign({"user": User("Ada"), "chat": Chat(1)})
                raise ZeroDivisionError

        assert sorted(READS) == sorted(storage.calls)
        assert 0 == len(multi.fragments["user"].desk.locks)

    async def test_control_flow_is_no_failure(self, storage, multi):
        with pytest.raises(StopAsyncIteration):
            async with multi.open(KEYS, passthrough=(StopAsyncIteration,)) as session:
                session.chat.data.count = 1
                raise StopAsyncIteration

        assert '{"count":1}' == await storage.stored("c:-100")

    async def test_each_storage_may_be_another(self):
        storages = MemoryStorage(), MemoryStorage()
        multi = MultiSessions(a=Sessions(storages[0]), b=Sessions(storages[1]))
        async with multi.open({"a": "42", "b": "42"}) as session:
            session.assign({"a": 1, "b": 2})

        assert ["1", "2"] == [(await storage.read("42")).value for storage in storages]

    async def test_initial_is_given_the_context(self, storage):
        multi = MultiSessions(a=Sessions(storage, initial=lambda context: [context]))
        async with multi.open({"a": "42"}, context="hello") as session:
            assert ["hello"] == session.a.data

    async def test_afterwards_every_fragment_is_closed(self, multi):
        async with multi.open(KEYS) as session:
            pass

        for name in session:
            with pytest.raises(SessionClosedError):
                session[name].data  # noqa: B018


class TestKeys:
    async def test_each_fragment_asks_its_own_key_function(self, multi):
        async with await multi.open_for(Origin(chat_id=-100, user_id=7)) as session:
            assert ("7", "-100") == (session.user.key, session.chat.key)

    @pytest.mark.parametrize("lazy", [False, True])
    async def test_one_without_a_key_raises_only_when_it_is_touched(self, storage, multi, lazy):
        async with await multi.open_for(Origin(user_id=7), lazy=lazy) as session:
            (await session.user.get()).name = "Ada"
            with pytest.raises(SessionKeyError, match="'chat'"):
                session.chat.data  # noqa: B018
            with pytest.raises(SessionKeyError, match="'chat'"):
                await session.chat.get()

        assert '{"name":"Ada"}' == await storage.stored("u:7")
        assert [("read", "u:7"), ("write", "u:7")] == storage.calls

    @pytest.mark.parametrize("lazy", [False, True])
    async def test_two_fragments_that_would_overwrite_each_other_are_refused(self, storage, lazy):
        multi = MultiSessions(a=Sessions(storage), b=Sessions(storage))
        with pytest.raises(ConfigurationError, match="prefix"):
            async with multi.open({"a": "42", "b": "42"}, lazy=lazy):
                pytest.fail("the body ran")

        assert [] == storage.calls
        async with multi.open({"a": "42", "b": "43"}, lazy=lazy):
            pass

    async def test_one_kind_under_two_names_is_refused_too_where_the_keys_are_the_same(self, storage, chats):
        multi = MultiSessions(here=chats, there=chats)
        with pytest.raises(ConfigurationError, match="'there'"):
            async with multi.open({"here": "42", "there": "42"}):
                pytest.fail("the body ran")
        async with multi.open({"here": "42", "there": "43"}) as session:
            assert session.here is not session.there

    async def test_they_are_found_behind_prefixes_and_wrappers(self, storage):
        multi = MultiSessions(a=Sessions(PrefixedStorage(storage, "x:")), b=Sessions(storage, prefix="x:"))
        with pytest.raises(ConfigurationError, match="prefix"):
            async with multi.open({"a": "42", "b": "42"}):
                pytest.fail("the body ran")

    async def test_refusing_them_leaves_a_session_that_was_open_before_as_it_was(self, storage):
        a = Sessions(storage, initial=Chat)
        multi = MultiSessions(a=a, b=Sessions(storage, initial=Chat))
        async with a.open("42") as session:
            session.data.count = 1
            with pytest.raises(ConfigurationError):
                async with multi.open({"a": "42", "b": "42"}):
                    pytest.fail("the body ran")

        assert Chat(1) == await a.read("42")
        assert 0 == len(a.desk.locks)


class TestNames:
    @pytest.mark.parametrize("name", ["_x", "clear", "assign", "__init__"])
    async def test_those_that_the_multi_session_needs_are_refused(self, storage, name):
        with pytest.raises(ConfigurationError, match=name):
            MultiSessions(**{name: Sessions(storage)})

    async def test_none_at_all_is_refused(self):
        with pytest.raises(ConfigurationError):
            MultiSessions()

    async def test_a_key_for_an_unknown_one_is_refused(self, multi):
        with pytest.raises(ConfigurationError, match=r"'usr'.*user, chat"):
            multi.open({"usr": "42", "chat": "-100"})

    async def test_an_unknown_one_lists_those_that_are(self, multi):
        async with multi.open(KEYS) as session:
            with pytest.raises(AttributeError, match=r"'usr'.*user, chat"):
                session.usr  # noqa: B018

    async def test_replacing_a_fragment_says_what_to_write(self, multi):
        async with multi.open(KEYS) as session:
            with pytest.raises(AttributeError, match=r"session\.user\.data = "):
                session.user = User("Ada")


class TestClearAndAssign:
    async def test_assign_takes_data_by_name_and_leaves_the_others(self, storage, multi):
        await storage.store("c:-100", '{"count":5}')
        async with multi.open(KEYS) as session:
            session.assign({"user": User("Ada")})

        assert '{"name":"Ada"}' == await storage.stored("u:7")
        assert '{"count":5}' == await storage.stored("c:-100")

    async def test_assign_of_an_unknown_name_assigns_nothing(self, storage, multi):
        async with multi.open(KEYS) as session:
            with pytest.raises(AttributeError, match="'usr'"):
                session.assign({"user": User("Ada"), "usr": User("Bob")})

            assert User() == session.user.data

    async def test_none_deletes_those_that_have_a_key_and_passes_over_the_others(self, storage, multi):
        await storage.store("u:7", '{"name":"Ada"}')
        async with multi.open({"user": "7"}) as session:
            session.assign(None)

        assert await storage.stored("u:7") is None

    async def test_none_by_name_deletes_one(self, storage, multi):
        await storage.store("u:7", '{"name":"Ada"}')
        await storage.store("c:-100", '{"count":5}')
        async with multi.open(KEYS) as session:
            session.assign({"chat": None})

        assert '{"name":"Ada"}' == await storage.stored("u:7")
        assert await storage.stored("c:-100") is None

    async def test_clear_clears_those_that_have_a_key_and_passes_over_the_others(self, storage, multi):
        await storage.store("u:7", '{"name":"Ada"}')
        async with multi.open({"user": "7"}) as session:
            session.clear()

            assert User() == session.user.data
        assert await storage.stored("u:7") is None


class TestLazy:
    async def test_untouched_it_asks_nothing_and_takes_no_lock(self, storage, multi):
        async with multi.open(KEYS, lazy=True):
            assert 0 == len(multi.fragments["user"].desk.locks)

        assert [] == storage.calls

    async def test_only_the_fragment_that_is_touched_is_read(self, storage, multi):
        async with multi.open(KEYS, lazy=True) as session:
            (await session.user.get()).name = "Ada"

        assert [("read", "u:7"), ("write", "u:7")] == storage.calls
        assert 0 == len(multi.fragments["user"].desk.locks)

    async def test_assigned_fragments_are_written_without_being_read(self, storage, multi):
        async with multi.open(KEYS, lazy=True) as session:
            session.assign({"user": User("Ada"), "chat": Chat(1)})

        assert [("write", "c:-100"), ("write", "u:7")] == sorted(storage.calls)
        assert 0 == len(multi.fragments["user"].desk.locks)

    @pytest.mark.parametrize("name", KEYS)
    async def test_an_assigned_fragment_is_written_beside_untouched_ones(self, storage, multi, name):
        async with multi.open(KEYS, lazy=True) as session:
            session[name].data = None

        assert [("delete", f"{name[0]}:{KEYS[name]}")] == storage.calls
        assert 0 == len(multi.fragments["user"].desk.locks)

    @pytest.mark.parametrize("name", KEYS)
    async def test_an_assigned_fragment_is_written_even_if_another_update_has_an_untouched_one(self, multi, name):
        async def before():
            async with multi.open(KEYS):
                entered.set()
                await leave.wait()

        async def update():
            async with multi.open(KEYS, lazy=True) as session:
                session[name].data = {"user": User("Ada"), "chat": Chat(1)}[name]

        entered, leave = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(before())
        await entered.wait()
        second = asyncio.create_task(update())
        for _ in range(5):
            await asyncio.sleep(0)
        leave.set()
        async with asyncio.timeout(5):
            await asyncio.gather(first, second)

        assert await multi.fragments[name].has(KEYS[name])
        assert 0 == len(multi.fragments["user"].desk.locks)

    async def test_two_tasks_may_touch_two_fragments_at_once_even_when_another_update_has_them(self, multi):
        async def before():
            async with multi.open(KEYS):
                entered.set()
                await leave.wait()

        entered, leave = asyncio.Event(), asyncio.Event()
        other = asyncio.create_task(before())
        await entered.wait()
        async with asyncio.timeout(5), multi.open(KEYS, lazy=True) as session:
            tasks = [asyncio.create_task(session[name].get()) for name in ("user", "chat", "user")]
            for _ in range(3):
                await asyncio.sleep(0)
            leave.set()

            assert [User(), Chat(), User()] == await asyncio.gather(*tasks)
            await other

        assert 0 == len(multi.fragments["user"].desk.locks)

    async def test_when_the_body_raises_nothing_is_written(self, storage, multi):
        with pytest.raises(ZeroDivisionError):
            async with multi.open(KEYS, lazy=True) as session:
                session.assign({"user": User("Ada")})
                await session.chat.get()
                raise ZeroDivisionError

        assert [("read", "c:-100")] == storage.calls
        assert 0 == len(multi.fragments["user"].desk.locks)


class TestLocks:
    @pytest.mark.parametrize("lazy", [(False, False), (True, True), (True, False)])
    async def test_opposite_names_and_orders_do_not_deadlock(self, storage, lazy):
        a, b = Sessions(storage, initial=Chat, prefix="a:"), Sessions(storage, initial=Chat, prefix="b:")
        multis = MultiSessions(x=a, y=b), MultiSessions(x=b, y=a)

        async def update(multi, lazy):
            async with multi.open({"x": "42", "y": "42"}, lazy=lazy) as session:
                for name in "xy":
                    count = (await session[name].get()).count
                    await asyncio.sleep(0)
                    session[name].data.count = count + 1

        async with asyncio.timeout(10):
            await asyncio.gather(*(update(multis[n % 2], lazy[n % 2]) for n in range(20)))

        assert (Chat(20), Chat(20)) == (await a.read("42"), await b.read("42"))
        assert 0 == len(a.desk.locks)

    async def test_opposite_keys_do_not_deadlock(self, storage):
        multi = MultiSessions(x=Sessions(storage, initial=Chat), y=Sessions(storage, initial=Chat))

        async def update(x, y, lazy):
            async with multi.open({"x": x, "y": y}, lazy=lazy) as session:
                for name in "xy":
                    (await session[name].get()).count += 1

        async with asyncio.timeout(10):
            await asyncio.gather(*(update(*"12" if n % 2 else "21", lazy=n % 3 == 0) for n in range(20)))

        assert ['{"count":20}'] * 2 == [await storage.stored("1"), await storage.stored("2")]

    async def test_updates_that_share_one_fragment_take_turns(self, users, multi):
        async def together():
            async with multi.open(KEYS) as session:
                name = session.user.data.name
                await asyncio.sleep(0)
                session.user.data.name = name + "x"

        async def alone():
            async with users.open("7") as session:
                name = session.data.name
                await asyncio.sleep(0)
                session.data.name = name + "x"

        await asyncio.gather(*(update() for update in [together, alone] * 10))

        assert User("x" * 20) == await users.read("7")

    @pytest.mark.parametrize("lazy", [False, True])
    @pytest.mark.parametrize("turns", range(12))
    async def test_whenever_it_is_cancelled_it_lets_others_in(self, multi, users, turns, lazy):
        async def handle():
            async with multi.open(KEYS, lazy=lazy) as sessions:
                (await sessions.user.get()).name = "Anna"

        task = asyncio.create_task(handle())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

        assert 0 == len(users.desk.locks)
        async with asyncio.timeout(1), multi.open(KEYS):
            pass

    @pytest.mark.parametrize("lazy", [False, True])
    async def test_cancelled_as_it_ends_it_lets_others_in(self, storage, multi, users, lazy):
        async def handle():
            async with multi.open(KEYS, lazy=lazy) as sessions:
                (await sessions.user.get()).name = "Anna"
                asyncio.current_task().cancel()

        await asyncio.wait([asyncio.create_task(handle())])

        assert 0 == len(users.desk.locks)
        async with asyncio.timeout(1), multi.open(KEYS) as sessions:
            assert "" == sessions.user.data.name

    async def test_cancelled_twice_as_it_ends_it_lets_others_in_at_all_of_them(self):
        releasing = asyncio.Event()

        class Slow(MemoryStorage):
            capabilities = dataclasses.replace(MemoryStorage.capabilities, shared=True)

            async def delete(self, key, *, match=ANY):
                releasing.set()
                await asyncio.sleep(0.01)
                return await super().delete(key, match=match)

        storage, options = Slow(), {"lock": "shared", "batching": False, "retrying": False}
        kinds = [Sessions(storage, initial=User, prefix=prefix, **options) for prefix in ("a:", "b:", "c:")]

        async def handle():
            async with MultiSessions(a=kinds[0], b=kinds[1], c=kinds[2]).open(dict.fromkeys("abc", "1")):
                asyncio.current_task().cancel()

        task = asyncio.create_task(handle())
        await releasing.wait()
        task.cancel()
        await asyncio.wait([task])

        assert 0 == len(kinds[0].desk.locks)

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_locks_are_taken_in_the_order_of_the_places_wherever_the_storages_lie_in_memory(self, reverse):
        first, second = sorted((MemoryStorage(), MemoryStorage()), key=id, reverse=reverse)
        a, b = Sessions(first, initial=dict, prefix="a:"), Sessions(second, initial=dict, prefix="b:")
        multi = MultiSessions(b=b, a=a)

        async def eat():
            async with multi.open({"a": "1", "b": "1"}):
                pass

        async with a.open("1"):
            eating = asyncio.create_task(eat())
            await asyncio.sleep(0.01)

            assert 0 == len(b.desk.locks)
        await eating


class TestWithinEachOther:
    @pytest.mark.parametrize("lazy", [False, True])
    async def test_a_session_that_is_open_already_is_the_fragment_and_the_outermost_saves(self, storage, chats, lazy):
        multi = MultiSessions(user=Sessions(storage, initial=User, prefix="u:"), chat=chats)
        async with asyncio.timeout(5), chats.open("-100") as outer:
            outer.data.count = 1
            async with multi.open(KEYS, lazy=lazy) as session:
                assert session.chat is outer
                session.chat.data.count += 1
                session.user.data = User("Ada")

            assert '{"name":"Ada"}' == await storage.stored("u:7")
            assert await storage.stored("c:-100") is None
        assert Chat(2) == await chats.read("-100")
        assert 0 == len(chats.desk.locks)

    @pytest.mark.parametrize("lazy", [False, True])
    async def test_a_lazy_one_that_was_touched_inside_lives_on_outside(self, chats, multi, lazy):
        async with asyncio.timeout(5), chats.open("-100", lazy=True) as outer:
            async with multi.open(KEYS, lazy=lazy) as session:
                (await session.chat.get()).count += 1
            (await outer.get()).count += 1

        assert Chat(2) == await chats.read("-100")
        assert 0 == len(chats.desk.locks)

    async def test_a_lazy_one_that_was_not_touched_inside_may_be_outside(self, chats, multi):
        async with asyncio.timeout(5), chats.open("-100", lazy=True) as outer:
            async with multi.open(KEYS, lazy=True):
                pass
            (await outer.get()).count += 1

        assert Chat(1) == await chats.read("-100")
        assert 0 == len(chats.desk.locks)

    async def test_a_fragment_that_is_opened_alone_inside_is_the_same(self, chats, multi):
        async with asyncio.timeout(5), multi.open(KEYS) as session, chats.open("-100") as inner:
            assert inner is session.chat
