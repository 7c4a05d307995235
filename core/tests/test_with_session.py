"""@with_session: around any async function, and around the handlers of libraries without middleware."""

import asyncio
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
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


DOCUMENT = Path(__file__).parents[2] / "docs" / "frameworks.md"


def recipe(library, sessions):
    """Run the recipe for a library, as docs/frameworks.md has it, and return what it defines."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    [code] = [block for block in blocks if f"from {library} import" in block]
    defined = {"sessions": sessions, "with_session": with_session}
    exec(code, defined)
    return defined


class TestTelethon:
    @pytest.fixture
    def tl(self):
        return pytest.importorskip("telethon.tl.types")

    async def dispatch(self, client, tl, *ids):
        """Have updates handled as the client does when they come from the network."""
        updates = [
            tl.UpdateNewMessage(tl.Message(number, tl.PeerUser(7), None, message="🍕"), pts=1, pts_count=1)
            for number in ids
        ]
        for update in updates:
            update._entities = {}
        await asyncio.gather(*(client._dispatch_update(update) for update in updates))

    async def test_its_recipe_counts_all_of_many_updates_at_once(self, sessions, tl):
        client = recipe("telethon", sessions)["client"]
        await self.dispatch(client, tl, *range(25))

        assert Pizza(25) == await sessions.read("7")

    async def test_what_a_handler_changed_that_stops_propagation_is_saved(self, sessions, tl):
        from telethon import events

        defined = recipe("telethon", sessions)
        client = defined["client"]
        client.remove_event_handler(defined["eat_with_telethon"])

        @client.on(events.NewMessage)
        @with_session(sessions, passthrough=(events.StopPropagation,))
        async def stop(_, session):
            session.data.count += 1
            raise events.StopPropagation

        client.add_event_handler(defined["eat_with_telethon"], events.NewMessage)
        await self.dispatch(client, tl, 1)

        assert Pizza(1) == await sessions.read("7")


class TestKurigram:
    @pytest.fixture
    def raw(self):
        return pytest.importorskip("pyrogram.raw.types")

    async def dispatch(self, app, raw, *ids):
        """Have updates handled by the client's own workers, which end when they are done."""
        ada = raw.User(id=7, first_name="Ada", usernames=[], restriction_reason=[])
        sent = {"peer_id": raw.PeerUser(user_id=7), "date": 1, "entities": [], "restriction_reason": []}
        await app.dispatcher.start()
        for number in ids:
            message = raw.Message(id=number, message="🍕", **sent)
            update = raw.UpdateNewMessage(message=message, pts=1, pts_count=1)
            app.dispatcher.updates_queue.put_nowait((update, {7: ada}, {}))
        await app.dispatcher.stop()

    async def test_its_recipe_counts_all_of_many_updates_at_once(self, sessions, raw):
        await self.dispatch(recipe("pyrogram", sessions)["app"], raw, *range(25))

        assert Pizza(25) == await sessions.read("7")

    async def test_what_a_handler_changed_that_stops_or_continues_propagation_is_saved(self, sessions, raw):
        from pyrogram import ContinuePropagation, StopPropagation

        app = recipe("pyrogram", sessions)["app"]
        for number, control_flow in enumerate((ContinuePropagation, StopPropagation, ZeroDivisionError)):

            @app.on_message(group=-3 + number)
            @with_session(
                sessions,
                key=lambda _, message: message.chat.id,
                passthrough=(StopPropagation, ContinuePropagation),
            )
            async def steer(_, message, session, control_flow=control_flow):
                session.data.count += 10
                raise control_flow

        await self.dispatch(app, raw, 1)

        assert Pizza(20) == await sessions.read("7")
