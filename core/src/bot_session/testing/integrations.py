"""
The integration contract: one pytest class that the hook into every bot framework passes.

Its author supplies a bot of that framework, which plays what the tests tell it to; everything else is here. The bot is
the framework's own, unmodified, and polls a `FakeBotAPI`::

    from bot_session.testing.integrations import IntegrationContract

    class TestMine(IntegrationContract):
        control_flow = StopHandlers

        def make_bot(self, api, sessions, play, *, lazy=False):
            return MyBot(api, sessions, play, lazy)     # with `start` and `stop`
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import pytest
import pytest_asyncio

from bot_session.errors import SessionClosedError, SessionKeyError, UnavailableError
from bot_session.keys import (
    KeyFunction,
    by_business_connection,
    by_chat,
    by_topic,
    by_user,
    by_user_in_chat,
    with_bot_id,
)
from bot_session.multi import MultiSessions
from bot_session.sessions import Sessions

from .botapi import (
    ADA,
    BOB,
    FakeBotAPI,
    business_connection,
    business_message,
    callback_query,
    channel,
    channel_post,
    edited_message,
    group,
    inline_query,
    member_change,
    message,
    migrate_from,
    migrate_to,
    person,
    poll,
    pre_checkout_query,
    private,
    reaction,
    supergroup,
)
from .watched import WatchedStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

__all__ = ["KEYED", "KEYLESS", "Hunger", "IntegrationBot", "IntegrationContract", "Play"]

GROUP = -100
SUPERGROUP = -1001000000100

_FORUM = supergroup(-100, is_forum=True)

KEYED: Final[list[tuple[KeyFunction, dict[str, Any], str]]] = [
    (by_chat, message(), "7"),
    (by_chat, message(chat=_FORUM), "-100"),
    (by_chat, edited_message(), "7"),
    (by_chat, channel_post(chat=channel(-5)), "-5"),
    (by_chat, callback_query(chat=_FORUM), "-100"),
    (by_chat, callback_query(message={"chat": _FORUM, "message_id": 1, "date": 0}), "-100"),  # out of reach
    (by_chat, member_change(_FORUM), "-100"),
    (by_chat, reaction(chat=_FORUM), "-100"),
    (by_user, message(chat=_FORUM), "7"),
    (by_user, reaction(chat=_FORUM), "7"),
    (by_user, inline_query(), "7"),
    (by_user_in_chat, message(chat=_FORUM), "7/-100"),
    (by_topic, message(chat=_FORUM, message_thread_id=3, is_topic_message=True), "-100:3"),
    (by_topic, message(chat=_FORUM, message_thread_id=3), "-100"),  # an answer, in no topic
    (by_chat, business_connection("abc"), "7"),  # as in grammY: the owner's private chat with the bot
    (by_business_connection, business_connection("abc"), "abc:7"),
    (by_business_connection, business_message(connection="abc"), "abc:8"),
    (
        by_business_connection,
        {"deleted_business_messages": {"business_connection_id": "abc", "chat": private(), "message_ids": [1]}},
        "abc:7",
    ),
    (with_bot_id(by_user), message(), "42:7"),
]
"""For every key function updates, and the key that each has with a bot of id 42."""

KEYLESS: Final[list[dict[str, Any]]] = [
    inline_query(),
    {"chosen_inline_result": {"result_id": "1", "from": ADA, "query": ""}},
    callback_query(inline_message_id="y"),
    pre_checkout_query(),
    poll(),
]
"""Updates that belong to no chat."""


@dataclass
class Hunger:
    """The session data of the tests."""

    count: int = 0


class IntegrationBot(Protocol):
    """
    A bot that polls, with the session hook installed in the usual way.

    - For messages, edited messages, channel posts, callback queries and inline queries, unless the text (or data, or
      query) is "nobody", it has a handler, which calls ``await play(text, session)`` and sends what that returns to the
      chat; nothing if there is no chat. For "nobody" it has none.
    - What reaches the framework's error handler it gives to ``play.failed(error)``, with the session that the error
      handler is given, if it is given one: ``play.failed(error, session)``.
    """

    async def start(self) -> None:
        """Start polling, and return."""

    async def stop(self) -> None:
        """Stop as one stops a bot in earnest: handlers that still run are waited for."""


class Play:
    """
    What handlers do, by the text of their update.

    Attributes:
        errors: What the framework's error handler was given, oldest first.
        entered: Set when a handler of "wait" begins; it goes on when `leave` is set.
        leave: See `entered`.
        waiting: The task of that handler.
        closed: Whether the session was closed where an error handler was given it.
    """

    def __init__(self, control_flow: type[BaseException] | None) -> None:
        self.errors: list[BaseException] = []
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()
        self.waiting: asyncio.Task[Any] | None = None
        self.closed: list[bool] = []
        self._control_flow = control_flow
        self._failed = asyncio.Event()

    async def __call__(self, text: str, session: Any) -> str:
        """Handle an update, and return the answer."""
        return str(await getattr(self, f"_{text}")(session))

    def failed(self, error: BaseException, session: Any = None) -> None:
        """Take note of an error."""
        self.errors.append(error)
        self._failed.set()
        if session is not None and not isinstance(error, SessionKeyError):
            try:
                session.clear()
            except SessionClosedError:
                self.closed.append(True)
            else:
                self.closed.append(False)

    async def error(self) -> BaseException:
        """Wait for the first error."""
        await _soon(self._failed.wait(), "an error in the framework's error handler")
        return self.errors[0]

    async def _eat(self, session: Any) -> int:
        data: Hunger = await session.get()
        count = data.count
        await asyncio.sleep(0)  # Whoever may come in between does.
        data.count = count + 1
        return data.count

    async def _eagerly(self, session: Any) -> object:
        session.data.count += 1
        return session.data.count

    async def _assign(self, session: Any) -> str:
        session.data = Hunger(50)
        return "assigned"

    async def _look(self, session: Any) -> object:
        return (await session.get()).count

    async def _ignore(self, _: Any) -> str:
        return "ignored"

    async def _clear(self, session: Any) -> str:
        session.clear()
        return "cleared"

    async def _fail(self, session: Any) -> None:
        await self._eat(session)
        raise ZeroDivisionError("on purpose")

    async def _steer(self, session: Any) -> None:
        await self._eat(session)
        assert self._control_flow is not None
        raise self._control_flow

    async def _wait(self, session: Any) -> int:
        count = await self._eat(session)
        self.waiting = asyncio.current_task()
        self.entered.set()
        await self.leave.wait()
        return count

    async def _both(self, session: Any) -> str:
        session.user.data.count += 1
        session.chat.data.count += 10
        return f"{session.user.data.count} {session.chat.data.count}"


async def _soon(waiting: Any, what: str, patience: float = 10.0) -> Any:
    try:
        async with asyncio.timeout(patience):
            return await waiting
    except TimeoutError:
        raise AssertionError(f"waited {patience:g} s for {what}") from None


@pytest.mark.asyncio
class IntegrationContract:
    """Inherit, supply `make_bot`, and say what kind of framework it is."""

    control_flow: ClassVar[type[BaseException] | None] = None
    """What a handler raises to steer, after which the session is saved all the same; None if there is nothing."""

    concurrent: ClassVar[bool] = True
    """Whether handlers run side by side, so that one of them can be waited for, or cancelled, without the others."""

    errors_have_session: ClassVar[bool] = False
    """Whether the framework's error handlers are given the session, too."""

    def make_bot(
        self, api: FakeBotAPI, sessions: Sessions[Any] | MultiSessions, play: Play, *, lazy: bool = False
    ) -> IntegrationBot:
        """Make a bot as `IntegrationBot` says, not yet started. It may close the storage when it stops."""
        raise NotImplementedError("supply make_bot: see bot_session.testing.integrations")

    @pytest_asyncio.fixture
    async def api(self) -> AsyncIterator[FakeBotAPI]:
        """Return the fake Bot API of this test."""
        async with FakeBotAPI() as api:
            yield api

    @pytest.fixture
    def storage(self) -> WatchedStorage:
        """Return the storage of this test."""
        return WatchedStorage()

    @pytest.fixture
    def sessions(self, storage: WatchedStorage) -> Sessions[Hunger]:
        """Return one kind of session, by chat."""
        return Sessions(storage, initial=Hunger)

    @pytest.fixture
    def play(self) -> Play:
        """Return what handlers do."""
        return Play(self.control_flow)

    @pytest_asyncio.fixture
    async def run(self, api: FakeBotAPI, sessions: Sessions[Hunger], play: Play) -> AsyncIterator[_Run]:
        """Return a function that starts a bot; it is stopped at the end, if the test has not done that."""
        run = _Run(self, api, sessions, play)
        yield run
        play.leave.set()
        await run.stop()

    # ------------------------------------------------------------------ what a handler is given

    async def test_a_handler_is_given_the_session_of_its_chat(self, run: _Run, api: FakeBotAPI) -> None:
        """Eagerly, by a synchronous property; and other chats have others."""
        await run()

        assert await api.ask("eagerly") == "1"
        assert await api.ask("eagerly") == "2"
        assert await api.ask("eagerly", user=BOB) == "1"
        assert await run.stored() == {"7": '{"count":2}', "8": '{"count":1}'}

    async def test_every_kind_of_update_is_given_it(self, run: _Run, api: FakeBotAPI, storage: WatchedStorage) -> None:
        """Messages, edited messages, channel posts and pressed buttons."""
        await run()
        await api.feed(message("eat"), edited_message("eat"), callback_query("eat"), channel_post("eat"))
        await storage.until_stored("7", '{"count":3}')
        await storage.until_stored("-1002000000000", '{"count":1}')

    async def test_lazily_it_is_read_when_it_is_asked_for(
        self, run: _Run, api: FakeBotAPI, storage: WatchedStorage
    ) -> None:
        """And only then, and written only if it changed."""
        await run(lazy=True)

        assert await api.ask("look") == "0"
        assert await api.ask("eat") == "1"
        await run.stop()
        assert storage.calls == [("read", "7"), ("read", "7"), ("write", "7")]

    async def test_a_lazy_session_that_nobody_touches_costs_no_call(
        self, run: _Run, api: FakeBotAPI, storage: WatchedStorage
    ) -> None:
        """Nor a lock: the next handler of the chat does not wait for it."""
        await run(lazy=True)

        assert await api.ask("ignore") == "ignored"
        await run.stop()
        assert storage.calls == []

    async def test_an_assigned_lazy_session_is_written_without_being_read(
        self, run: _Run, api: FakeBotAPI, storage: WatchedStorage
    ) -> None:
        """Once."""
        await run(lazy=True)

        assert await api.ask("assign") == "assigned"
        await run.stop()
        assert storage.calls == [("write", "7")]

    async def test_several_kinds_at_once(self, run: _Run, api: FakeBotAPI, storage: WatchedStorage) -> None:
        """By user and by chat, each saved by itself."""
        user = Sessions(storage, initial=Hunger, key=by_user, prefix="user:")
        chat = Sessions(storage, initial=Hunger, key=by_chat, prefix="chat:")
        await run(MultiSessions(user=user, chat=chat))

        assert await api.ask("both", chat=group(GROUP)) == "1 10"
        assert await api.ask("both", chat=group(GROUP), user=BOB) == "1 20"
        expected = {"user:7": '{"count":1}', "user:8": '{"count":1}', f"chat:{GROUP}": '{"count":20}'}
        assert expected == await run.stored()

    async def test_a_cleared_session_is_deleted(self, run: _Run, api: FakeBotAPI, storage: WatchedStorage) -> None:
        """And begins anew."""
        await storage.store("7", '{"count":5}')
        await run()

        assert await api.ask("clear") == "cleared"
        assert await api.ask("eat") == "1"
        assert await api.ask("clear") == "cleared"
        assert await run.stored() == {}

    async def test_an_update_without_a_key_is_handled_and_touching_its_session_raises(
        self, run: _Run, api: FakeBotAPI, play: Play, storage: WatchedStorage
    ) -> None:
        """An inline query belongs to no chat."""
        await run()
        await api.feed(inline_query("ignore"), inline_query("eat"))

        assert isinstance(await play.error(), SessionKeyError)
        await run.stop()
        assert [SessionKeyError] == [type(error) for error in play.errors]
        assert storage.calls == []

    # ------------------------------------------------------------------ when it is saved

    async def test_what_was_changed_before_a_handler_raised_is_not_saved(
        self, run: _Run, api: FakeBotAPI, play: Play, storage: WatchedStorage
    ) -> None:
        """The error is the framework's to handle, after the session is closed."""
        await run()
        await api.feed(message("fail"))

        assert isinstance(await play.error(), ZeroDivisionError)
        assert await api.ask("eat") == "1"
        await run.stop()
        assert storage.calls == [("read", "7"), ("read", "7"), ("write", "7")]
        assert ([True] if self.errors_have_session else []) == play.closed

    async def test_after_a_control_flow_exception_it_is_saved(
        self, run: _Run, api: FakeBotAPI, play: Play, storage: WatchedStorage
    ) -> None:
        """It is no failure, and reaches no error handler."""
        if self.control_flow is None:
            pytest.skip("not applicable: the framework has no control flow exceptions")
        await run()
        await api.feed(message("steer"))
        await storage.until_stored("7", '{"count":1}')

        assert await api.ask("eat") == "2"
        await run.stop()
        assert play.errors == []

    async def test_an_update_that_nobody_handles_writes_nothing(
        self, run: _Run, api: FakeBotAPI, storage: WatchedStorage
    ) -> None:
        """It costs a reading at most."""
        await run()
        await api.feed(message("nobody"))

        assert await api.ask("look") == "0"
        await run.stop()
        assert {("read", "7")} == set(storage.calls)
        assert await run.stored() == {}

    # ------------------------------------------------------------------ one at a time

    async def test_twenty_five_updates_of_one_chat_at_once_end_at_twenty_five(self, run: _Run, api: FakeBotAPI) -> None:
        """None is lost, none is counted twice."""
        await run()
        await api.feed(*(message("eat") for _ in range(25)))
        calls = await api.answered(25)

        assert sorted(str(number) for number in range(1, 26)) == sorted(str(call.text) for call in calls)
        assert await run.stored() == {"7": '{"count":25}'}

    async def test_updates_of_many_chats_at_once_are_kept_apart(self, run: _Run, api: FakeBotAPI) -> None:
        """Each chat has its own count."""
        users = [person(number, "Ada") for number in range(100, 110)]
        await run()
        await api.feed(*(message("eat", user=user) for _ in range(3) for user in users))
        await api.answered(30)

        assert {str(user["id"]): '{"count":3}' for user in users} == await run.stored()

    async def test_a_handler_that_waits_holds_up_its_own_chat_only(
        self, run: _Run, api: FakeBotAPI, play: Play
    ) -> None:
        """Another chat is answered meanwhile."""
        self._needs_concurrency()
        await run()
        await api.feed(message("wait", user=ADA), message("eat", user=ADA))
        await _soon(play.entered.wait(), "the handler of 'wait'")

        assert await api.ask("eat", user=BOB) == "1"
        play.leave.set()
        await api.answered(3)
        assert await run.stored() == {"7": '{"count":2}', "8": '{"count":1}'}

    # ------------------------------------------------------------------ outages, shutdowns, moves

    async def test_an_outage_goes_to_the_error_handler_and_the_bot_lives_on(
        self, run: _Run, api: FakeBotAPI, play: Play, storage: WatchedStorage
    ) -> None:
        """While the storage is down nothing is answered from an empty session, and nothing is overwritten."""
        await storage.store("7", '{"count":5}')
        await run()
        storage.down = True
        await api.feed(message("eat"))

        assert isinstance(await play.error(), UnavailableError)
        storage.down = False
        assert await api.ask("eat") == "6"
        assert [call.text for call in api.sent] == ["6"]
        assert await run.stored() == {"7": '{"count":6}'}

    async def test_a_save_that_fails_goes_to_the_error_handler_too(
        self, run: _Run, api: FakeBotAPI, play: Play, storage: WatchedStorage
    ) -> None:
        """And the bot lives on."""
        self._needs_concurrency()
        await run()
        await api.feed(message("wait"))
        await _soon(play.entered.wait(), "the handler of 'wait'")
        storage.down = True
        play.leave.set()

        assert isinstance(await play.error(), UnavailableError)
        storage.down = False
        assert await api.ask("eat") == "1"
        assert await run.stored() == {"7": '{"count":1}'}

    async def test_a_cancelled_handler_saves_nothing_and_lets_the_next_one_in(
        self, run: _Run, api: FakeBotAPI, play: Play
    ) -> None:
        """Its lock is let go."""
        self._needs_concurrency()
        await run()
        await api.feed(message("wait"))
        await _soon(play.entered.wait(), "the handler of 'wait'")
        assert play.waiting is not None
        play.waiting.cancel()

        assert await api.ask("eat") == "1"
        assert await run.stored() == {"7": '{"count":1}'}

    async def test_a_shutdown_waits_for_handlers_and_saves_what_they_did(
        self, run: _Run, api: FakeBotAPI, play: Play
    ) -> None:
        """Those that wait for their turn, too."""
        await run()
        await api.feed(message("wait"), message("eat", user=BOB))
        await _soon(play.entered.wait(), "the handler of 'wait'")
        stopping = asyncio.create_task(run.stop())
        await asyncio.wait([stopping], timeout=0.5)  # Some servers take their time to begin to stop.

        assert not stopping.done()
        play.leave.set()
        await _soon(stopping, "the bot to stop")
        assert (await run.stored())["7"] == '{"count":1}'

    @pytest.mark.parametrize("first", ["old chat", "new chat"])
    async def test_a_session_moves_along_when_a_group_becomes_a_supergroup(
        self, run: _Run, api: FakeBotAPI, storage: WatchedStorage, first: str
    ) -> None:
        """Whichever of the two messages about it comes first."""
        supergroup = {"id": SUPERGROUP, "type": "supergroup", "title": "Lunch"}
        news = [migrate_to(SUPERGROUP, chat=group(GROUP)), migrate_from(GROUP, chat=supergroup)]
        await run()
        await api.ask("eat", chat=group(GROUP))
        await api.feed(*(news if first == "old chat" else reversed(news)))
        await storage.until_stored(str(SUPERGROUP), '{"count":1}')

        assert await api.ask("eat", chat=supergroup) == "2"
        assert {str(SUPERGROUP): '{"count":2}'} == await run.stored()

    def _needs_concurrency(self) -> None:
        if not self.concurrent:
            pytest.skip("not applicable: the framework handles one update at a time")


class _Run:
    """Starts the bot of a test, and stops it once."""

    def __init__(self, contract: IntegrationContract, api: FakeBotAPI, sessions: Sessions[Hunger], play: Play) -> None:
        self._contract = contract
        self._api = api
        self._sessions = sessions
        self._play = play
        self._bot: IntegrationBot | None = None

    async def __call__(self, sessions: MultiSessions | None = None, *, lazy: bool = False) -> None:
        self._bot = self._contract.make_bot(self._api, sessions or self._sessions, self._play, lazy=lazy)
        await self._bot.start()

    async def stop(self) -> None:
        """Stop the bot; then, nobody must have kept a lock."""
        bot, self._bot = self._bot, None
        if bot is not None:
            await bot.stop()
            assert len(self._sessions.desk.locks) == 0, "a lock was left"

    async def stored(self) -> Mapping[str, str]:
        """Stop the bot, and return all that is stored."""
        await self.stop()
        inner = self._sessions.storage.inner  # type: ignore[attr-defined]
        await inner.open()
        return {key: record.value async for key, record in inner.read_all_entries()}
