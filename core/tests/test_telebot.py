"""SessionTeleBot on pyTelegramBotAPI's own dispatching, and its states in a storage of ours."""

import asyncio
from dataclasses import dataclass

import pytest
from bot_session import (
    EncodeError,
    KeylessSession,
    LazySession,
    MultiSessions,
    SessionClosedError,
    SessionKeyError,
    Sessions,
    UnavailableError,
    by_chat,
    by_user,
)

pytest.importorskip("telebot")
pytest.importorskip("aiohttp")

from bot_session.frameworks.telebot import BotSessionStateStorage, SessionTeleBot
from bot_session.testing import botapi
from bot_session.testing.botapi import message
from bot_session.testing.integrations import KEYED, KEYLESS
from telebot import util
from telebot.async_telebot import AsyncTeleBot
from telebot.asyncio_handler_backends import BaseMiddleware, CancelUpdate, ContinueHandling
from telebot.asyncio_storage import StateMemoryStorage
from telebot.states import State, StatesGroup
from telebot.types import Update

GROUP = botapi.supergroup(-100, is_forum=True)


@dataclass
class Pizza:
    count: int = 0


class Errors:
    """An exception handler that remembers."""

    def __init__(self):
        self.seen = []

    async def handle(self, exception):
        self.seen.append(type(exception))
        return True


@pytest.fixture
def sessions(storage):
    return Sessions(storage, initial=Pizza)


@pytest.fixture
def errors():
    return Errors()


@pytest.fixture
def make(sessions, errors):
    def make(kinds=None, **options):
        return SessionTeleBot("42:TEST", sessions=kinds or sessions, exception_handler=errors, **options)

    return make


@pytest.fixture
def bot(make):
    return make()


async def feed(bot, *updates):
    updates = updates or (message(),)
    await bot.process_new_updates([Update.de_json({"update_id": n, **update}) for n, update in enumerate(updates)])


async def eat(_, session):
    count = session.data.count
    await asyncio.sleep(0)
    session.data.count = count + 1


def on_everything(bot, handler):
    for kind in util.update_types:
        name = kind.replace("inline_query", "inline").replace("chosen_inline_result", "chosen_inline")
        register = getattr(bot, f"register_{name}_handler", None)
        if register is not None:
            register(handler, func=lambda _: True)


class TestTheSession:
    async def test_a_handler_gets_that_of_its_chat(self, bot, sessions, errors):
        bot.register_message_handler(eat)
        await feed(bot, message(), message(chat=GROUP))
        await feed(bot)

        assert [Pizza(2), Pizza(1)] == [await sessions.read("7"), await sessions.read("-100")]
        assert [] == errors.seen

    async def test_one_with_data_finds_it_there_and_one_without_goes_without(self, bot, sessions):
        seen = []

        @bot.message_handler(commands=["data"])
        async def with_data(_, data):
            data["session"].data.count += 1

        @bot.message_handler()
        async def without(event):
            seen.append(event.text)

        await feed(bot, message("/data"), message("hi"))

        assert Pizza(1) == await sessions.read("7")
        assert ["hi"] == seen

    async def test_by_a_name_of_ones_own(self, make, sessions):
        bot = make(session_name="memory")

        @bot.message_handler()
        async def handler(_, memory):
            memory.data.count += 1

        await feed(bot)

        assert Pizza(1) == await sessions.read("7")

    async def test_middlewares_find_it_in_their_data(self, bot, sessions):
        class Counting(BaseMiddleware):
            update_types = ["message"]

            async def pre_process(self, message, data):
                data["session"].data.count += 1

            async def post_process(self, message, data, exception):
                data["session"].data.count += 10

        bot.setup_middleware(Counting())
        bot.register_message_handler(eat)
        await feed(bot)

        assert Pizza(12) == await sessions.read("7")

    async def test_none_deletes_it_and_clear_does(self, bot, storage, sessions):
        @bot.message_handler(commands=["none"])
        async def none(_, session):
            session.data = None

        @bot.message_handler(commands=["clear"])
        async def clear(_, session):
            session.clear()

        for command in ("/none", "/clear"):
            await storage.store("7", '{"count":3}')
            await feed(bot, message(command))

            assert not await sessions.has("7")

    async def test_lazily_an_untouched_one_costs_nothing(self, make, storage, errors):
        bot = make(lazy=True)

        @bot.message_handler()
        async def look(event, session):
            assert isinstance(session, LazySession)
            if event.text == "look":
                (await session.get()).count += 1

        await feed(bot)

        assert [] == storage.calls

        await feed(bot, message("look"))

        assert [("read", "7"), ("write", "7")] == storage.calls
        assert [] == errors.seen

    async def test_several_kinds(self, make, storage):
        bot = make(
            MultiSessions(
                user=Sessions(storage, initial=Pizza, key=by_user, prefix="u:"),
                chat=Sessions(storage, initial=dict, key=by_chat, prefix="c:"),
            )
        )

        @bot.message_handler()
        async def change(_, session):
            session.user.data.count += 1
            session.chat.data["last"] = "pizza"

        await feed(bot, message(chat=GROUP))

        assert ['{"count":1}', '{"last":"pizza"}'] == [await storage.stored("u:7"), await storage.stored("c:-100")]

    async def test_the_next_handler_goes_on_with_the_same(self, bot, sessions):
        @bot.message_handler()
        async def first(_, session):
            session.data.count += 1
            return ContinueHandling()

        bot.register_message_handler(eat)
        await feed(bot)

        assert Pizza(2) == await sessions.read("7")

    async def test_opened_by_hand_within_a_handler_it_is_the_same(self, bot, sessions, errors):
        @bot.message_handler()
        async def handler(_, session):
            async with sessions.open("7") as again:
                assert session is again
                again.data.count += 1

        await feed(bot)

        assert [] == errors.seen
        assert Pizza(1) == await sessions.read("7")


class TestKeys:
    @pytest.mark.parametrize(("key", "update", "expected"), KEYED)
    async def test_every_type_of_update_has_the_key_of_its_chat_or_user(self, make, errors, key, update, expected):
        bot, seen = make(session_key=key), []

        async def look(_, session):
            seen.append(session.key)

        on_everything(bot, look)
        await feed(bot, update)

        assert [] == errors.seen
        assert [expected] == seen

    @pytest.mark.parametrize("update", KEYLESS)
    async def test_an_update_without_a_chat_is_handled_and_its_session_raises_when_touched(
        self, bot, storage, errors, update
    ):
        seen = []

        async def look(_, session):
            seen.append(type(session))
            session.data.count += 1

        on_everything(bot, look)
        await feed(bot, update)

        assert [KeylessSession] == seen
        assert [SessionKeyError] == errors.seen
        assert [] == storage.calls


class TestFailures:
    async def test_what_a_handler_changed_before_it_raised_is_not_saved(self, bot, storage, sessions, errors):
        @bot.message_handler()
        async def fail(_, session):
            session.data.count = 99
            raise ZeroDivisionError

        await feed(bot)

        assert [("read", "7")] == storage.calls
        assert [ZeroDivisionError] == errors.seen
        assert 0 == len(sessions.desk.locks)

    async def test_an_exception_handler_finds_it_closed_and_may_open_it_again(self, bot, sessions, errors):
        kept = []

        @bot.message_handler()
        async def fail(_, session):
            kept.append(session)
            session.data.count = 99
            raise ZeroDivisionError

        async def handle(_):
            with pytest.raises(SessionClosedError):
                kept[0].data.count = 99
            async with sessions.open("7") as session:
                session.data.count += 1
            return True

        errors.handle = handle
        await feed(bot)

        assert Pizza(1) == await sessions.read("7")

    async def test_an_outage_goes_to_the_exception_handler_and_the_handler_does_not_run(
        self, bot, storage, sessions, errors
    ):
        bot.register_message_handler(eat)
        storage.down = True
        await feed(bot)

        assert [UnavailableError] == errors.seen

        storage.down = False
        await feed(bot)

        assert Pizza(1) == await sessions.read("7")

    async def test_so_does_an_outage_while_saving(self, bot, storage, sessions, errors):
        @bot.message_handler()
        async def eat_in_an_outage(_, session):
            session.data.count += 1
            storage.down = True

        await feed(bot)

        assert [UnavailableError] == errors.seen
        assert 0 == len(sessions.desk.locks)

    async def test_without_an_exception_handler_an_outage_is_logged(self, sessions, storage, caplog):
        bot = SessionTeleBot("42:TEST", sessions=sessions)
        storage.down = True
        await feed(bot)

        assert "an update was not handled, or not saved: down" in caplog.text

    async def test_an_unhandled_update_writes_nothing(self, bot, storage):
        await feed(bot)

        assert [("read", "7")] == storage.calls

    @pytest.mark.parametrize("where", ["pre_process", "post_process"])
    async def test_a_middleware_that_raises_saves_nothing_and_leaves_no_lock(self, bot, storage, sessions, where):
        class Failing(BaseMiddleware):
            update_types = ["message"]

            async def pre_process(self, message, data):
                self._fail("pre_process")

            async def post_process(self, message, data, exception):
                self._fail("post_process")

            def _fail(self, here):
                if here == where:
                    raise ZeroDivisionError

        bot.setup_middleware(Failing())
        bot.register_message_handler(eat)
        with pytest.raises(ZeroDivisionError):
            await feed(bot)

        assert [("read", "7")] == storage.calls
        assert 0 == len(sessions.desk.locks)

    async def test_an_update_that_a_middleware_cancels_leaves_no_lock(self, bot, sessions):
        class Cancelling(BaseMiddleware):
            update_types = ["message"]

            async def pre_process(self, message, data):
                return CancelUpdate()

            async def post_process(self, message, data, exception):
                raise AssertionError

        bot.setup_middleware(Cancelling())
        await feed(bot)

        assert 0 == len(sessions.desk.locks)

    async def test_a_cancelled_handler_saves_nothing_and_lets_the_next_one_in(self, bot, sessions):
        entered = asyncio.Event()

        @bot.message_handler()
        async def wait(event, session):
            session.data.count += 1
            if event.text == "wait":
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(feed(bot, message("wait")))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await feed(bot)

        assert Pizza(1) == await sessions.read("7")


class TestConcurrency:
    async def test_updates_of_one_chat_in_one_batch_all_count_and_others_do_not_wait(self, bot, sessions):
        others, seen = asyncio.Event(), []

        @bot.message_handler()
        async def slow(event, session):
            seen.append(event.chat.id)
            if event.chat.id == 8:
                others.set()
            await others.wait()
            count = session.data.count
            await asyncio.sleep(0)
            session.data.count = count + 1

        await feed(bot, *[message()] * 25, message(user=botapi.BOB))

        assert [7, 8] == seen[:2]
        assert [Pizza(25), Pizza(1)] == [await sessions.read("7"), await sessions.read("8")]
        assert 0 == len(sessions.desk.locks)

    async def test_updates_of_one_chat_are_handled_in_order_whatever_their_types(self, bot):
        seen = []

        async def note(event, session):
            await asyncio.sleep(0)
            seen.append(getattr(event, "text", None) or event.data)

        on_everything(bot, note)
        await feed(
            bot, message("0"), botapi.callback_query("1"), message("2"), botapi.edited_message("3"), message("4")
        )

        assert list("01234") == seen


class TestSupergroup:
    @pytest.mark.parametrize("order", [0, 1])
    async def test_the_session_of_a_group_comes_along(self, bot, storage, sessions, order):
        said = [
            botapi.migrate_to(-1005, chat=botapi.group(-5)),
            botapi.migrate_from(-5, chat=botapi.supergroup(-1005)),
        ]
        await storage.store("-5", '{"count":3}', ttl=1000)
        for update in (said, said[::-1])[order]:
            await feed(bot, update)

        assert Pizza(3) == await sessions.read("-1005")
        assert not await sessions.has("-5")
        assert 1000 == pytest.approx((await storage.read("-1005")).ttl, abs=5)


class Order(StatesGroup):
    size = State()


AT = {"chat_id": 7, "user_id": 7, "bot_id": 42, "business_connection_id": None, "message_thread_id": 3}


class TestStates:
    """What `BotSessionStateStorage` does is what the library's own storage does."""

    @pytest.fixture(params=["theirs", "ours"])
    def states(self, request, storage):
        return StateMemoryStorage() if request.param == "theirs" else BotSessionStateStorage(storage)

    async def test_states(self, states):
        assert [None, False] == [await states.get_state(**AT), await states.delete_state(**AT)]
        assert [True, "Order:size"] == [
            await states.set_state(state=Order.size, **AT),
            await states.get_state(**AT),
        ]
        assert [True, "done"] == [await states.set_state(state="done", **AT), await states.get_state(**AT)]
        assert None is await states.get_state(7, 7, bot_id=42)
        assert [True, None] == [await states.delete_state(**AT), await states.get_state(**AT)]

    async def test_data(self, states):
        with pytest.raises(RuntimeError):
            await states.set_data(key="size", value=30, **AT)
        assert [{}, False, False] == [
            await states.get_data(**AT),
            await states.reset_data(**AT),
            await states.save(7, 7, {"size": 30}),
        ]
        await states.set_state(state=Order.size, **AT)
        assert [True, {"size": 30}] == [await states.set_data(key="size", value=30, **AT), await states.get_data(**AT)]

        await states.set_state(state="done", **AT)
        assert {"size": 30} == await states.get_data(**AT)
        assert [True, {}] == [await states.reset_data(**AT), await states.get_data(**AT)]

    async def test_interactive_data(self, states):
        async with states.get_interactive_data(**AT) as data:
            data["size"] = 30
        assert {} == await states.get_data(**AT)

        await states.set_state(state=Order.size, **AT)
        async with states.get_interactive_data(**AT) as data:
            data["size"] = 30
        assert {"size": 30} == await states.get_data(**AT)

    async def test_interactive_data_that_is_begun_with_a_state_is_kept(self, states):
        async with states.get_interactive_data(**AT) as data:
            await states.set_state(state=Order.size, **AT)
            data["size"] = 30

        assert ["Order:size", {"size": 30}] == [await states.get_state(**AT), await states.get_data(**AT)]

    async def test_interactive_data_that_is_reset_meanwhile_is_what_its_block_ends_with(self, states):
        await states.set_state(state=Order.size, **AT)
        await states.set_data(key="size", value=30, **AT)
        async with states.get_interactive_data(**AT) as data:
            await states.reset_data(**AT)
            data["thin"] = True

        assert {"size": 30, "thin": True} == await states.get_data(**AT)

    async def test_interactive_data_whose_state_is_deleted_meanwhile_is_gone(self, states):
        await states.set_state(state=Order.size, **AT)
        async with states.get_interactive_data(**AT) as data:
            data["size"] = 30
            await states.delete_state(**AT)
            data["thin"] = True

        assert [None, {}] == [await states.get_state(**AT), await states.get_data(**AT)]

    async def test_a_bot_keeps_its_states_in_a_storage(self, storage):
        bot = AsyncTeleBot("42:TEST", state_storage=BotSessionStateStorage(storage))
        await bot.set_state(7, Order.size)
        await bot.add_data(7, size=30)
        async with bot.retrieve_data(7) as data:
            data["size"] += 1

        assert "Order:size" == await bot.get_state(7)
        assert '{"state":"Order:size","data":{"size":31}}' == await storage.stored("telebot:42:7:7")


class TestStatesOfOurs:
    @pytest.fixture
    async def states(self, storage):
        states = BotSessionStateStorage(storage)
        await states.set_state(7, 7, "eating")
        return states

    async def test_interactive_data_does_not_lose_updates(self, states):
        async def eat():
            async with states.get_interactive_data(7, 7) as data:
                count = data.get("count", 0)
                await asyncio.sleep(0)
                data["count"] = count + 1

        await asyncio.gather(*(eat() for _ in range(25)))

        assert {"count": 25} == await states.get_data(7, 7)

    async def test_a_state_may_be_set_meanwhile(self, states):
        async with states.get_interactive_data(7, 7) as data:
            data["count"] = 1
            await states.set_state(7, 7, "full")

        assert ["full", {"count": 1}] == [await states.get_state(7, 7), await states.get_data(7, 7)]

    async def test_data_may_be_set_meanwhile(self, states):
        async with states.get_interactive_data(7, 7) as data:
            await states.reset_data(7, 7)
            await states.set_data(7, 7, "thin", True)
            data["count"] = 1

        assert {"thin": True, "count": 1} == await states.get_data(7, 7)

    async def test_a_block_that_raises_saves_nothing(self, states):
        with pytest.raises(ZeroDivisionError):
            async with states.get_interactive_data(7, 7) as data:
                data["count"] = 1
                raise ZeroDivisionError

        assert {} == await states.get_data(7, 7)

    async def test_data_that_would_not_come_back_is_refused(self, states):
        with pytest.raises(EncodeError):
            await states.set_data(7, 7, "when", {1, 2})

    async def test_an_outage_is_no_missing_state(self, states, storage):
        storage.down = True
        with pytest.raises(UnavailableError):
            await states.get_state(7, 7)

    async def test_states_expire(self, storage):
        states = BotSessionStateStorage(storage, ttl=100)
        await states.set_state(7, 7, "eating")

        assert 100 == pytest.approx((await storage.read("telebot:7:7")).ttl, abs=5)
