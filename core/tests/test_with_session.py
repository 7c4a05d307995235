"""@with_session: around any async function, and around the handlers of libraries without middleware."""

import asyncio
import inspect
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from bot_session import (
    ConfigurationError,
    MultiSessions,
    Origin,
    SessionKeyError,
    Sessions,
    UnavailableError,
    by_user,
    with_session,
)


@dataclass
class Pizza:
    count: int = 0


class HandledError(Exception):
    """A framework's control flow."""


@pytest.fixture
def sessions(storage):
    return Sessions(storage, initial=Pizza)


def event(chat_id=7, **more):
    return SimpleNamespace(chat_id=chat_id, **more)


class TestTheFunction:
    async def test_it_is_called_with_the_session_of_its_first_argument(self, sessions):
        @with_session(sessions)
        async def eat(event, number, *, session):
            session.data.count += number
            return session.key

        assert ["7", "7"] == [await eat(event(), 1), await eat(event=event(), number=2)]
        assert Pizza(3) == await sessions.read("7")

    async def test_the_key_comes_from_all_its_arguments(self, sessions):
        @with_session(sessions, key=lambda client, message: f"{client}/{message}")
        async def eat(client, message, session):
            return session.key

        assert "me/you" == await eat("me", "you")

    async def test_the_key_may_take_time(self, sessions):
        async def key(event):
            await asyncio.sleep(0)
            return event.chat_id

        @with_session(sessions, key=key)
        async def eat(_, session):
            return session.key

        assert "7" == await eat(event())

    async def test_several_kinds_look_at_an_origin(self, storage):
        kinds = MultiSessions(user=Sessions(storage, key=by_user, prefix="u:"), chat=Sessions(storage, prefix="c:"))

        @with_session(kinds, key=lambda event: Origin(chat_id=event.chat_id, user_id=event.sender_id))
        async def keys(_, session):
            return session.user.key, session.chat.key

        assert ("8", "7") == await keys(event(sender_id=8))

    async def test_by_a_name_of_its_own_and_lazily(self, sessions, storage):
        @with_session(sessions, name="memory", lazy=True)
        async def look(event, memory):
            return event.wanted and (await memory.get()).count

        assert False is await look(event(wanted=False))
        assert [] == storage.calls
        assert 0 == await look(event(wanted=True))

    async def test_it_may_be_a_method(self, sessions):
        class Bot:
            @with_session(sessions, key=lambda _, event: event.chat_id)
            async def eat(self, event, session):
                session.data.count += 1

        await Bot().eat(event())

        assert Pizza(1) == await sessions.read("7")

    async def test_calls_for_one_session_do_not_lose_updates(self, sessions):
        @with_session(sessions)
        async def eat(_, session):
            count = session.data.count
            await asyncio.sleep(0)
            session.data.count = count + 1

        await asyncio.gather(*(eat(event()) for _ in range(25)))

        assert Pizza(25) == await sessions.read("7")

    def test_its_signature_is_without_what_the_caller_must_not_pass(self, sessions):
        @with_session(sessions)
        async def eat(event, number: int = 1, *, session):
            """Eat."""

        assert "(event, number: int = 1)" == str(inspect.signature(eat))
        assert ("eat", "Eat.", True) == (eat.__name__, eat.__doc__, inspect.iscoroutinefunction(eat))


class TestFailures:
    async def test_nothing_is_saved_if_it_raises(self, sessions, storage):
        @with_session(sessions)
        async def fail(_, session):
            session.data.count = 99
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail(event())

        assert [("read", "7")] == storage.calls

    async def test_unless_that_is_control_flow(self, sessions):
        @with_session(sessions, passthrough=(HandledError,))
        async def stop(_, session):
            session.data.count += 1
            raise HandledError

        with pytest.raises(HandledError):
            await stop(event())

        assert Pizza(1) == await sessions.read("7")

    async def test_without_a_key_it_runs_and_the_session_raises_when_touched(self, sessions):
        @with_session(sessions)
        async def touch(event, session):
            return event.wanted and session.data

        assert False is await touch(event(None, wanted=False))
        with pytest.raises(SessionKeyError):
            await touch(event(None, wanted=True))

    async def test_it_does_not_run_in_an_outage(self, sessions, storage):
        @with_session(sessions)
        async def never(_, session):
            raise AssertionError

        storage.down = True
        with pytest.raises(UnavailableError):
            await never(event())

    async def test_what_cannot_work_is_refused(self, sessions):
        with pytest.raises(ConfigurationError, match="async"):
            with_session(sessions)(lambda event, session: None)

        async def nowhere_to_put_it(event):
            pass

        with pytest.raises(ConfigurationError, match="'session'"):
            with_session(sessions)(nowhere_to_put_it)

        @with_session(sessions)
        async def eat(_, session):
            pass

        with pytest.raises(ConfigurationError, match="taken"):
            await eat(event(), session="a database session")


class TestTelethon:
    async def test_its_events_have_what_the_default_key_looks_at(self, sessions):
        pytest.importorskip("telethon")
        from telethon import TelegramClient, events
        from telethon.sessions import MemorySession
        from telethon.tl.types import Message, PeerUser

        client = TelegramClient(MemorySession(), 1, "hash")

        @client.on(events.NewMessage)
        @with_session(sessions, passthrough=(events.StopPropagation,))
        async def eat(event, session):
            session.data.count += 1
            raise events.StopPropagation

        message = Message(1, PeerUser(7), None, "🍕", from_id=PeerUser(7))
        for _ in range(2):
            with pytest.raises(events.StopPropagation):
                await client.list_event_handlers()[0][0](events.NewMessage.Event(message))

        assert Pizza(2) == await sessions.read("7")


class TestKurigram:
    async def test_a_key_function_looks_at_its_message(self, sessions):
        pytest.importorskip("pyrogram")
        from pyrogram import Client, StopPropagation
        from pyrogram.handlers import MessageHandler
        from pyrogram.types import Chat, Message

        @with_session(sessions, key=lambda _, message: message.chat.id, passthrough=(StopPropagation,))
        async def eat(client, message, session):
            session.data.count += 1
            raise StopPropagation

        client = Client("me", api_id=1, api_hash="hash", in_memory=True)
        for _ in range(2):
            with pytest.raises(StopPropagation):
                await MessageHandler(eat).callback(client, Message(id=1, chat=Chat(id=7)))

        assert Pizza(2) == await sessions.read("7")
