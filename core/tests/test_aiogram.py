"""SessionMiddleware on aiogram's own dispatcher."""

import asyncio
from dataclasses import dataclass

import pytest
from bot_session import (
    ConfigurationError,
    ConflictError,
    KeylessSession,
    LazySession,
    MultiSessions,
    Session,
    SessionClosedError,
    SessionKeyError,
    Sessions,
    UnavailableError,
    by_chat,
    by_user,
)

pytest.importorskip("aiogram")

from aiogram import Bot, Dispatcher
from aiogram.client.session.base import BaseSession
from aiogram.dispatcher.event.bases import UNHANDLED, CancelHandler, SkipHandler
from aiogram.types import User
from bot_session.frameworks.aiogram import SessionEventIsolation, SessionFSMStorage, SessionMiddleware
from bot_session.testing import botapi
from bot_session.testing.botapi import message
from bot_session.testing.integrations import KEYED, KEYLESS
from bot_session.testing.watched import WatchedStorage


@dataclass
class Pizza:
    count: int = 0


class Silent(BaseSession):
    async def make_request(self, bot, method, timeout=None):
        return True

    async def stream_content(self, *args, **options):
        yield b""

    async def close(self):
        pass


GROUP = botapi.supergroup(-100, is_forum=True)


@pytest.fixture
def bot():
    return Bot("42:TEST", session=Silent())


@pytest.fixture
def sessions(storage):
    return Sessions(storage, initial=Pizza)


@pytest.fixture
def dispatcher():
    return Dispatcher()


@pytest.fixture
def feed(dispatcher, bot):
    async def feed(update):
        return await dispatcher.feed_raw_update(bot, {"update_id": 1, **update})

    return feed


@pytest.fixture
def eat(dispatcher):
    """A handler that counts."""

    @dispatcher.message()
    async def eat(_, session):
        count = session.data.count
        await asyncio.sleep(0)
        session.data.count = count + 1
        return session.data.count

    return eat


class TestInjection:
    async def test_a_handler_gets_the_session_of_its_chat(self, dispatcher, sessions, feed, eat):
        SessionMiddleware(sessions).setup(dispatcher)

        assert [1, 2] == [await feed(message()), await feed(message())]
        assert 1 == await feed(message(chat=GROUP))
        assert Pizza(2) == await sessions.read("7")

    async def test_a_filter_gets_it_too(self, dispatcher, sessions, feed):
        async def is_hungry(_, session):
            return session.data.count < 1

        @dispatcher.message(is_hungry)
        async def eat(_, session):
            session.data.count += 1

        SessionMiddleware(sessions).setup(dispatcher)
        await feed(message())

        assert UNHANDLED == await feed(message())

    async def test_lazily(self, dispatcher, storage, sessions, feed):
        @dispatcher.message()
        async def look(event, session):
            if event.text == "look":
                (await session.get()).count += 1
            return session

        SessionMiddleware(sessions, lazy=True).setup(dispatcher)

        assert isinstance(await feed(message()), LazySession)
        assert [] == storage.calls

        await feed(message("look"))

        assert [("read", "7"), ("write", "7")] == storage.calls

    async def test_several_kinds(self, dispatcher, storage, feed):
        kinds = MultiSessions(
            user=Sessions(storage, initial=Pizza, key=by_user, prefix="u:"),
            chat=Sessions(storage, initial=dict, key=by_chat, prefix="c:"),
        )

        @dispatcher.message()
        async def eat(_, session):
            session.user.data.count += 1
            session.chat.data["last"] = "pizza"

        SessionMiddleware(kinds).setup(dispatcher)
        await feed(message(chat=GROUP))

        assert {"u:7", "c:-100"} == {key async for key in storage.read_all_keys()}

    async def test_several_middlewares_side_by_side(self, dispatcher, storage, feed):
        @dispatcher.message()
        async def eat(_, session, profile):
            session.data.count += 1
            profile.data["name"] = "Ada"

        SessionMiddleware(Sessions(storage, initial=Pizza)).setup(dispatcher)
        SessionMiddleware(Sessions(storage, initial=dict, key=by_user, prefix="p:"), name="profile").setup(dispatcher)
        await feed(message())

        assert {"7", "p:7"} == {key async for key in storage.read_all_keys()}

    async def test_a_name_that_is_taken_is_refused(self, dispatcher, sessions, feed, eat):
        dispatcher["session"] = "a database session"
        SessionMiddleware(sessions).setup(dispatcher)

        with pytest.raises(ConfigurationError, match="name="):
            await feed(message())

    async def test_initial_may_look_at_where_the_update_comes_from(self, dispatcher, storage, feed):
        @dispatcher.message()
        async def show(_, session):
            return session.data

        origins = Sessions(storage, initial=lambda origin: {"user": origin.user_id, "bot": origin.bot_id})
        SessionMiddleware(origins).setup(dispatcher)

        assert {"user": 7, "bot": 42} == await feed(message())


class TestKeys:
    @pytest.mark.parametrize(("key", "update", "expected"), KEYED)
    async def test_every_type_of_update_has_the_key_of_its_chat_or_user(
        self, dispatcher, sessions, feed, key, update, expected
    ):
        seen = []
        dispatcher.observers[next(iter(update))].register(lambda _, session: seen.append(session.key))
        SessionMiddleware(sessions, key=key).setup(dispatcher)
        await feed(update)

        assert [expected] == seen

    @pytest.mark.parametrize("update", KEYLESS)
    async def test_an_update_without_a_chat_is_handled_and_its_session_raises_when_touched(
        self, dispatcher, storage, sessions, feed, update
    ):
        async def touch(_, session):
            assert isinstance(session, KeylessSession)
            with pytest.raises(SessionKeyError):
                session.data.count += 1
            return "handled"

        dispatcher.observers[next(iter(update))].register(touch)
        SessionMiddleware(sessions).setup(dispatcher)

        assert "handled" == await feed(update)
        assert [] == storage.calls


class TestFailures:
    async def test_what_a_handler_changed_before_it_raised_is_not_saved(self, dispatcher, storage, sessions, feed):
        @dispatcher.message()
        async def fail(_, session):
            session.data.count = 99
            raise ZeroDivisionError

        SessionMiddleware(sessions).setup(dispatcher)
        with pytest.raises(ZeroDivisionError):
            await feed(message())

        assert [("read", "7")] == storage.calls
        assert 0 == len(sessions.desk.locks)

    async def test_an_error_handler_gets_the_session_closed(self, dispatcher, storage, sessions, feed):
        @dispatcher.message()
        async def fail(_, session):
            raise ZeroDivisionError

        @dispatcher.error()
        async def answer(_, session):
            with pytest.raises(SessionClosedError):
                session.data.count += 1
            return "sorry"

        SessionMiddleware(sessions).setup(dispatcher)

        assert "sorry" == await feed(message())
        assert [("read", "7")] == storage.calls

    async def test_an_outage_goes_to_the_error_handlers(self, dispatcher, storage, sessions, feed, eat):
        @dispatcher.error()
        async def answer(event, **_):
            return event.exception

        SessionMiddleware(sessions).setup(dispatcher)
        storage.down = True

        assert isinstance(await feed(message()), UnavailableError)

        storage.down = False

        assert 1 == await feed(message())

    async def test_cancel_handler_is_control_flow_and_saved(self, dispatcher, sessions, feed):
        @dispatcher.message()
        async def cancel(_, session):
            session.data.count += 1
            raise CancelHandler

        SessionMiddleware(sessions).setup(dispatcher)
        with pytest.raises(CancelHandler):
            await feed(message())

        assert Pizza(1) == await sessions.read("7")

    async def test_skip_handler_goes_on_with_the_same_session(self, dispatcher, sessions, feed):
        @dispatcher.message()
        async def skip(_, session):
            session.data.count += 1
            raise SkipHandler

        dispatcher.message.register(lambda _, session: setattr(session.data, "count", session.data.count + 10))
        SessionMiddleware(sessions).setup(dispatcher)
        await feed(message())

        assert Pizza(11) == await sessions.read("7")

    async def test_an_update_that_nobody_handles_writes_nothing(self, dispatcher, storage, sessions, feed):
        SessionMiddleware(sessions).setup(dispatcher)

        assert UNHANDLED == await feed(message())
        assert [("read", "7")] == storage.calls

    async def test_a_cancelled_handler_saves_nothing_and_lets_the_next_one_in(self, dispatcher, sessions, feed):
        entered = asyncio.Event()

        @dispatcher.message()
        async def wait(event, session):
            session.data.count += 1
            if event.text == "wait":
                entered.set()
                await asyncio.Event().wait()

        SessionMiddleware(sessions).setup(dispatcher)
        task = asyncio.create_task(feed(message("wait")))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await feed(message())

        assert Pizza(1) == await sessions.read("7")


class TestConcurrency:
    async def test_twenty_five_updates_of_one_chat_at_once_end_at_twenty_five(self, dispatcher, sessions, feed, eat):
        SessionMiddleware(sessions).setup(dispatcher)
        await asyncio.gather(*(feed(message()) for _ in range(25)))

        assert Pizza(25) == await sessions.read("7")
        assert 0 == len(sessions.desk.locks)


class TestShutdown:
    async def test_handlers_that_are_still_running_are_waited_for_and_saved(self, dispatcher, bot, sessions, feed):
        entered, leave = asyncio.Event(), asyncio.Event()

        @dispatcher.message()
        async def slow(_, session):
            entered.set()
            await leave.wait()
            session.data.count += 1

        SessionMiddleware(sessions).setup(dispatcher)
        handling = [asyncio.create_task(feed(message())) for _ in range(3)]
        await entered.wait()
        stopping = asyncio.create_task(dispatcher.emit_shutdown(bot=bot))
        await asyncio.sleep(0.01)

        assert not stopping.done()

        leave.set()
        await stopping

        assert all(task.done() for task in handling)
        await sessions.storage.open()
        assert Pizza(3) == await sessions.read("7")

    async def test_so_is_an_update_that_has_just_arrived(self, dispatcher, bot, sessions, feed, eat):
        SessionMiddleware(sessions).setup(dispatcher)
        handling = asyncio.create_task(feed(message()))
        await dispatcher.emit_shutdown(bot=bot)

        assert handling.done()
        await sessions.storage.open()
        assert Pizza(1) == await sessions.read("7")

    async def test_so_are_updates_that_wait_for_their_turn(self, bot, storage, sessions):
        dispatcher = Dispatcher(
            storage=SessionFSMStorage(storage, prefix="f:"), events_isolation=SessionEventIsolation()
        )
        entered, leave = asyncio.Event(), asyncio.Event()

        @dispatcher.message()
        async def slow(_, session):
            entered.set()
            await leave.wait()
            session.data.count += 1

        SessionMiddleware(sessions).setup(dispatcher)
        updates = [{"update_id": number, **message()} for number in range(3)]
        handling = [asyncio.create_task(dispatcher.feed_raw_update(bot, update)) for update in updates]
        await entered.wait()
        stopping = asyncio.create_task(dispatcher.emit_shutdown(bot=bot))
        await asyncio.sleep(0.01)
        leave.set()
        await stopping

        assert all(task.done() for task in handling)
        await storage.inner.open()
        assert Pizza(3) == await sessions.read("7")

    async def test_so_is_an_update_whose_state_is_still_being_read(self, bot, storage, sessions):
        dispatcher = Dispatcher(storage=SessionFSMStorage(storage, prefix="f:"))

        @dispatcher.message()
        async def eat(_, session):
            session.data.count += 1

        SessionMiddleware(sessions).setup(dispatcher)
        storage.gate.clear()
        handling = asyncio.create_task(dispatcher.feed_raw_update(bot, {"update_id": 1, **message()}))
        stopping = asyncio.create_task(dispatcher.emit_shutdown(bot=bot))
        await asyncio.sleep(0.01)

        assert [("read", "f:fsm:7:7:state")] == storage.calls
        assert not stopping.done()

        storage.gate.set()
        await stopping

        assert handling.done()
        await storage.inner.open()
        assert Pizza(1) == await sessions.read("7")

    async def test_so_are_error_handlers(self, dispatcher, bot, sessions, feed):
        entered, leave = asyncio.Event(), asyncio.Event()

        @dispatcher.message()
        async def fail(_, session):
            raise ZeroDivisionError

        @dispatcher.error()
        async def remember(_):
            entered.set()
            await leave.wait()
            async with sessions.open("7") as session:
                session.data.count += 1

        SessionMiddleware(sessions).setup(dispatcher)
        handling = asyncio.create_task(feed(message()))
        await entered.wait()
        stopping = asyncio.create_task(dispatcher.emit_shutdown(bot=bot))
        await asyncio.sleep(0.01)
        leave.set()
        await stopping

        assert handling.done()
        await sessions.storage.open()
        assert Pizza(1) == await sessions.read("7")

    async def test_that_waiting_has_an_end(self, dispatcher, bot, sessions, feed, caplog):
        entered = asyncio.Event()

        @dispatcher.message()
        async def stuck(_, session):
            entered.set()
            await asyncio.Event().wait()

        SessionMiddleware(sessions, drain_timeout=0.01).setup(dispatcher, close_storage=False)
        handling = asyncio.create_task(feed(message()))
        await entered.wait()
        await dispatcher.emit_shutdown(bot=bot)
        handling.cancel()

        assert "1 updates are still being handled" in caplog.text

    async def test_the_storage_is_closed_afterwards_unless_it_is_not_to_be(self, bot, storage, sessions):
        for close, state in ((False, "open"), (True, "closed")):
            dispatcher = Dispatcher()
            SessionMiddleware(sessions).setup(dispatcher, close_storage=close)
            await storage.inner.open()
            await dispatcher.emit_shutdown(bot=bot)

            assert state == storage.inner._state


class TestSupergroup:
    """A group that becomes a supergroup gets another chat id; Telegram says so in both chats."""

    said = (
        botapi.migrate_to(-1005, chat=botapi.group(-5)),
        botapi.migrate_from(-5, chat=botapi.supergroup(-1005)),
    )

    @pytest.fixture
    async def grown(self, dispatcher, storage, sessions):
        await storage.store("-5", '{"count":3}', ttl=1000)
        SessionMiddleware(sessions).setup(dispatcher)
        dispatcher.message.register(lambda _, session: session.key)

    @pytest.mark.parametrize("order", [0, 1])
    async def test_its_session_comes_along(self, grown, storage, sessions, feed, order):
        keys = [await feed(update) for update in (self.said, self.said[::-1])[order]]

        assert ["-1005", "-1005"] == keys
        assert Pizza(3) == await sessions.read("-1005")
        assert not await sessions.has("-5")
        assert 1000 == pytest.approx((await storage.read("-1005")).ttl, abs=5)

    async def test_a_session_that_has_begun_in_the_supergroup_stays(self, grown, storage, sessions, feed, caplog):
        await storage.store("-1005", '{"count":1}')
        await feed(self.said[0])

        assert [Pizza(3), Pizza(1)] == [await sessions.read("-5"), await sessions.read("-1005")]
        assert "session -5 stays" in caplog.text

    async def test_one_that_another_process_keeps_changing_is_no_such_session_but_an_error(
        self, dispatcher, feed, caplog, monkeypatch
    ):
        monkeypatch.setattr("bot_session.sessions.ATTEMPTS", 3)

        class Busy(WatchedStorage):
            async def delete(self, key, **options):
                await self.store("-5", f'{{"count":{len(self.calls)}}}')
                return await super().delete(key, **options)

        sessions = Sessions(Busy(), initial=Pizza)
        await sessions.storage.store("-5", '{"count":3}')
        SessionMiddleware(sessions).setup(dispatcher)

        with pytest.raises(ConflictError):
            await feed(self.said[0])

        assert "stays" not in caplog.text
        assert [True, False] == [await sessions.has("-5"), await sessions.has("-1005")]


async def test_types_are_those_that_handlers_annotate(dispatcher, sessions, feed):
    @dispatcher.message()
    async def check(_, session: Session[Pizza], event_from_user: User):
        return type(session), event_from_user.id

    SessionMiddleware(sessions).setup(dispatcher)

    assert (Session, 7) == await feed(message())
