"""Sessions in python-telegram-bot's own Application."""

import asyncio
from dataclasses import dataclass

import pytest
from bot_session import (
    ConfigurationError,
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

pytest.importorskip("telegram")

from bot_session.frameworks.telegram import SessionApplication, SessionContext, install
from bot_session.testing import botapi
from bot_session.testing.botapi import message
from bot_session.testing.integrations import KEYED, KEYLESS
from telegram import Update
from telegram.ext import (
    Application,
    ApplicationBuilder,
    ApplicationHandlerStop,
    CallbackContext,
    ContextTypes,
    MessageHandler,
    TypeHandler,
    filters,
)


@dataclass
class Pizza:
    count: int = 0


GROUP = botapi.supergroup(-100, is_forum=True)


class Bot:
    """An application, and what its error handlers were told."""

    def __init__(self, application):
        self.application = application
        self.errors = []
        application.add_error_handler(self._note)

    async def _note(self, _, context):
        self.errors.append(context.error)

    def on(self, callback, *, group=0, block=True):
        self.application.add_handler(TypeHandler(object, callback, block=block), group)
        return callback

    def update(self, update):
        return Update.de_json({"update_id": 1, **update}, self.application.bot)

    async def feed(self, update=None):
        await self.application.process_update(self.update(update or message()))


@pytest.fixture
def sessions(storage):
    return Sessions(storage, initial=Pizza)


@pytest.fixture
async def make(storage, sessions, offline):
    running = []

    async def make(kinds=None, *, concurrent=False, **options):
        builder = install(offline(Application.builder()).concurrent_updates(concurrent), kinds or sessions, **options)
        bot = Bot(builder.build())
        await bot.application.initialize()
        running.append(bot.application)
        return bot

    yield make
    for application in running:
        if application.running:
            await application.stop()
        await application.shutdown()


@pytest.fixture
async def bot(make):
    return await make()


async def eat(_, context):
    count = context.session.data.count
    await asyncio.sleep(0)
    context.session.data.count = count + 1


class TestTheSession:
    async def test_a_handler_gets_that_of_its_chat(self, bot, sessions):
        bot.on(eat)
        await bot.feed()
        await bot.feed()
        await bot.feed(message(chat=GROUP))

        assert [Pizza(2), Pizza(1)] == [await sessions.read("7"), await sessions.read("-100")]
        assert [] == bot.errors

    async def test_all_groups_of_handlers_get_the_same(self, bot, storage, sessions):
        bot.on(eat, group=0)
        bot.on(eat, group=1)
        await bot.feed()

        assert Pizza(2) == await sessions.read("7")
        assert 1 == storage.calls.count(("write", "7"))

    async def test_assigning_replaces_the_data_and_none_deletes_it(self, bot, sessions):
        wanted = [Pizza(5), None]

        @bot.on
        async def assign(_, context):
            context.session = wanted.pop(0)

        await bot.feed()

        assert Pizza(5) == await sessions.read("7")

        await bot.feed()

        assert not await sessions.has("7")

    async def test_del_clears_it(self, bot, storage, sessions):
        await storage.store("7", '{"count":3}')

        @bot.on
        async def forget(_, context):
            del context.session
            assert Pizza(0) == context.session.data

        await bot.feed()

        assert [] == bot.errors
        assert not await sessions.has("7")

    async def test_lazily_an_untouched_one_costs_nothing(self, make, storage):
        bot = await make(lazy=True)

        @bot.on
        async def look(update, context):
            assert isinstance(context.session, LazySession)
            if update.message.text == "look":
                (await context.session.get()).count += 1

        await bot.feed()

        assert [] == storage.calls

        await bot.feed(message("look"))

        assert [("read", "7"), ("write", "7")] == storage.calls
        assert [] == bot.errors

    async def test_several_kinds(self, make, storage):
        kinds = MultiSessions(
            user=Sessions(storage, initial=Pizza, key=by_user, prefix="u:"),
            chat=Sessions(storage, initial=dict, key=by_chat, prefix="c:"),
        )
        bot = await make(kinds)

        @bot.on
        async def change(_, context):
            context.session.user.data.count += 1
            context.session = {"chat": {"last": "pizza"}}

        await bot.feed(message(chat=GROUP))

        assert ['{"count":1}', '{"last":"pizza"}'] == [await storage.stored("u:7"), await storage.stored("c:-100")]

        bot.on(lambda _, context: _deleting(context), group=1)
        await bot.feed(message(chat=GROUP))

        assert [None, None] == [await storage.stored("u:7"), await storage.stored("c:-100")]
        assert [] == bot.errors

    async def test_a_context_class_of_ones_own(self, make, sessions):
        class Context(SessionContext):
            async def eat(self):
                self.session.data.count += 1

        class Kept(dict):
            pass

        bot = await make(context_types=ContextTypes(context=Context, user_data=Kept))

        @bot.on
        async def handler(_, context):
            assert Kept is type(context.user_data)
            await context.eat()

        await bot.feed()

        assert Pizza(1) == await sessions.read("7")

    async def test_a_context_class_without_sessions_is_refused(self, sessions, offline):
        with pytest.raises(ConfigurationError, match="SessionContext"):
            install(offline(Application.builder()), sessions, context_types=ContextTypes(context=CallbackContext))

    async def test_an_unhandled_update_writes_nothing(self, bot, storage):
        await bot.feed()

        assert [("read", "7")] == storage.calls


async def _deleting(context):
    context.session = None


class TestKeys:
    @pytest.mark.parametrize(("key", "update", "expected"), KEYED)
    async def test_every_type_of_update_has_the_key_of_its_chat_or_user(self, make, key, update, expected):
        bot, seen = await make(key=key), []

        @bot.on
        async def look(_, context):
            seen.append(context.session.key)

        await bot.feed(update)

        assert [expected] == seen

    @pytest.mark.parametrize("update", KEYLESS)
    async def test_an_update_without_a_chat_is_handled_and_its_session_raises_when_touched(self, bot, storage, update):
        seen = []

        @bot.on
        async def look(_, context):
            seen.append(context.session)
            context.session.data.count += 1

        await bot.feed(update)

        assert [KeylessSession] == [type(session) for session in seen]
        assert [SessionKeyError] == [type(error) for error in bot.errors]
        assert [] == storage.calls

    async def test_what_is_no_update_of_telegram_has_none_either(self, bot):
        @bot.on
        async def touch(_, context):
            del context.session

        await bot.application.process_update("a payment, from a queue of ours")

        assert [SessionKeyError] == [type(error) for error in bot.errors]


class TestFailures:
    async def test_what_a_handler_changed_before_it_raised_is_not_saved(self, bot, storage, sessions):
        @bot.on
        async def fail(_, context):
            context.session.data.count = 99
            raise ZeroDivisionError

        await bot.feed()

        assert [("read", "7")] == storage.calls
        assert [ZeroDivisionError] == [type(error) for error in bot.errors]
        assert 0 == len(sessions.desk.locks)

    async def test_nor_is_what_another_group_changed(self, bot, storage):
        bot.on(eat, group=0)

        @lambda callback: bot.on(callback, group=1)
        async def fail(_, context):
            raise ZeroDivisionError

        bot.on(eat, group=2)
        await bot.feed()

        assert [("read", "7")] == storage.calls
        assert [ZeroDivisionError, SessionClosedError] == [type(error) for error in bot.errors]

    async def test_an_error_handler_finds_it_closed_and_may_open_it_again(self, bot, sessions):
        @bot.on
        async def fail(_, context):
            context.session.data.count = 99
            raise ZeroDivisionError

        async def remember(_, context):
            with pytest.raises(SessionClosedError):
                context.session.data.count = 99
            async with context.application.sessions.open("7") as session:
                session.data.count += 1

        bot.application.add_error_handler(remember)
        await bot.feed()

        assert Pizza(1) == await sessions.read("7")

    async def test_stopping_further_handlers_is_control_flow_and_saved(self, bot, sessions):
        @bot.on
        async def stop(_, context):
            context.session.data.count += 1
            raise ApplicationHandlerStop

        bot.on(eat, group=1)
        await bot.feed()

        assert Pizza(1) == await sessions.read("7")
        assert [] == bot.errors

    async def test_an_outage_goes_to_the_error_handlers_and_the_handler_does_not_run(self, bot, storage, sessions):
        bot.on(eat)
        storage.down = True
        await bot.feed()

        assert [UnavailableError] == [type(error) for error in bot.errors]

        storage.down = False
        await bot.feed()

        assert Pizza(1) == await sessions.read("7")

    async def test_so_does_an_outage_while_saving(self, bot, storage, sessions):
        @bot.on
        async def eat_in_an_outage(_, context):
            context.session.data.count += 1
            storage.down = True

        await bot.feed()

        assert [UnavailableError] == [type(error) for error in bot.errors]
        assert 0 == len(sessions.desk.locks)

    async def test_updates_are_still_fetched_afterwards(self, bot, storage, sessions):
        bot.on(eat)
        storage.down = True
        await bot.application.start()
        await bot.application.update_queue.put(bot.update(message()))
        await bot.application.update_queue.join()
        storage.down = False
        await bot.application.update_queue.put(bot.update(message()))
        await bot.application.update_queue.join()

        assert Pizza(1) == await sessions.read("7")
        assert [UnavailableError] == [type(error) for error in bot.errors]

    async def test_a_cancelled_handler_saves_nothing_and_lets_the_next_one_in(self, bot, sessions):
        entered = asyncio.Event()

        @bot.on
        async def wait(update, context):
            context.session.data.count += 1
            if update.message.text == "wait":
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(bot.feed(message("wait")))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bot.feed()

        assert Pizza(1) == await sessions.read("7")

    async def test_an_application_that_was_not_initialized_still_says_so(self, sessions, offline):
        application = install(offline(Application.builder()), sessions).build()

        with pytest.raises(RuntimeError, match="not initialized"):
            await application.process_update(None)


class TestBesideAnUpdate:
    """What runs beside an update must not touch a session that is being saved; it opens one by hand."""

    async def test_a_handler_that_does_not_block_has_no_session(self, bot, sessions):
        await bot.application.start()
        bot.on(eat, block=False)

        @lambda callback: bot.on(callback, group=1, block=False)
        async def by_hand(_, context):
            async with context.application.sessions.open("7") as session:
                session.data.count += 10

        await bot.feed()
        await bot.application.stop()

        assert [SessionClosedError] == [type(error) for error in bot.errors]
        assert "sessions.open(key)" in str(bot.errors[0])
        assert Pizza(10) == await sessions.read("7")

    async def test_nor_while_the_update_is_still_handled(self, bot, storage):
        seen, done = [], asyncio.Event()

        @lambda callback: bot.on(callback, block=False)
        async def beside(_, context):
            try:
                seen.append(context.session)
            finally:
                done.set()

        @lambda callback: bot.on(callback, group=1)
        async def handler(_, context):
            await done.wait()

        await bot.application.start()
        await bot.feed()

        assert [] == seen

    async def test_nor_has_a_job_even_if_a_handler_scheduled_it(self, make, sessions):
        bot, done = await make(), asyncio.Event()
        await bot.application.start()

        async def job(context):
            async with context.application.sessions.open("7") as session:
                session.data.count += 10
            done.set()
            context.session.data.count += 1

        @bot.on
        async def schedule(_, context):
            context.job_queue.run_once(job, 0, chat_id=7)
            context.session.data.count += 1

        await bot.feed()
        await done.wait()
        await bot.application.stop()

        assert [SessionClosedError] == [type(error) for error in bot.errors]
        assert Pizza(11) == await sessions.read("7")

    async def test_nor_has_a_job_while_the_update_that_scheduled_it_is_still_handled(self, make):
        bot, done = await make(), asyncio.Event()
        await bot.application.start()

        async def job(context):
            done.set()
            _ = context.session

        @bot.on
        async def schedule(_, context):
            context.job_queue.run_once(job, 0)
            await done.wait()

        await bot.feed()
        await bot.application.stop()

        assert [SessionClosedError] == [type(error) for error in bot.errors]

    async def test_a_task_that_outlives_its_handler_finds_it_closed(self, bot):
        tasks, late = [], asyncio.Event()

        @bot.on
        async def start(_, context):
            async def later():
                await late.wait()
                context.session.data.count += 1

            tasks.append(asyncio.create_task(later()))

        await bot.feed()
        late.set()

        with pytest.raises(SessionClosedError):
            await tasks[0]

    async def test_the_same_session_opened_by_hand_within_a_handler_is_the_same(self, bot, sessions):
        @bot.on
        async def handler(_, context):
            async with sessions.open("7") as session:
                assert context.session is session
                session.data.count += 1

        await bot.feed()

        assert [] == bot.errors
        assert Pizza(1) == await sessions.read("7")


class TestConcurrency:
    async def test_updates_of_one_chat_at_once_all_count_and_others_do_not_wait(self, make, sessions):
        bot, others, seen = await make(concurrent=True), asyncio.Event(), []

        @bot.on
        async def slow(update, context):
            seen.append(update.effective_chat.id)
            if update.effective_chat.id == 8:
                others.set()
            await others.wait()
            count = context.session.data.count
            await asyncio.sleep(0)
            context.session.data.count = count + 1

        await bot.application.start()
        for update in [message()] * 25 + [message(user=botapi.BOB)]:
            await bot.application.update_queue.put(bot.update(update))
        await bot.application.update_queue.join()

        assert [7, 8] == seen[:2]
        assert [Pizza(25), Pizza(1)] == [await sessions.read("7"), await sessions.read("8")]
        assert 0 == len(sessions.desk.locks)

    async def test_updates_of_one_chat_are_handled_in_order(self, make):
        bot, seen = await make(concurrent=True), []

        @bot.on
        async def note(update, context):
            await asyncio.sleep(0.001 if update.message.text == "0" else 0)
            seen.append(update.message.text)

        await bot.application.start()
        for number in range(10):
            await bot.application.update_queue.put(bot.update(message(str(number))))
        await bot.application.update_queue.join()

        assert list("0123456789") == seen


class TestLife:
    async def test_stop_waits_for_handlers_and_saves(self, make, sessions):
        bot, entered, leave = await make(concurrent=True), asyncio.Event(), asyncio.Event()

        @bot.on
        async def slow(_, context):
            entered.set()
            await leave.wait()
            context.session.data.count += 1

        await bot.application.start()
        await bot.application.update_queue.put(bot.update(message()))
        await entered.wait()
        stopping = asyncio.create_task(bot.application.stop())
        await asyncio.sleep(0.01)

        assert not stopping.done()

        leave.set()
        await stopping

        assert Pizza(1) == await sessions.read("7")

    @pytest.mark.parametrize(("close", "state"), [(True, "closed"), (False, "open")])
    async def test_the_storage_is_closed_at_shutdown_unless_it_is_not_to_be(self, make, storage, close, state):
        bot = await make(close_storage=close)
        await bot.application.shutdown()

        assert state == storage.inner._state

    async def test_a_shutdown_that_is_refused_since_the_application_runs_closes_nothing(self, bot, sessions):
        await bot.application.start()
        with pytest.raises(RuntimeError, match="still running"):
            await bot.application.shutdown()
        bot.on(eat)
        await bot.feed()

        assert Pizza(1) == await sessions.read("7")

    async def test_an_application_may_begin_again_as_serverless_ones_do(self, bot, sessions):
        bot.on(eat)
        for _ in range(2):
            await bot.application.shutdown()
            async with bot.application:
                await bot.feed()

        await sessions.storage.open()
        assert Pizza(2) == await sessions.read("7")

    def test_it_is_application_class_that_does_it(self, sessions, offline):
        application = install(offline(Application.builder()), sessions).build()

        assert isinstance(application, SessionApplication)
        assert isinstance(install(ApplicationBuilder(), sessions), ApplicationBuilder)


class TestSupergroup:
    """A group that becomes a supergroup gets another chat id; Telegram says so in both chats."""

    said = (
        botapi.migrate_to(-1005, chat=botapi.group(-5)),
        botapi.migrate_from(-5, chat=botapi.supergroup(-1005)),
    )

    @pytest.mark.parametrize("order", [0, 1])
    async def test_its_session_comes_along(self, bot, storage, sessions, order):
        await storage.store("-5", '{"count":3}', ttl=1000)
        for update in (self.said, self.said[::-1])[order]:
            await bot.feed(update)

        assert Pizza(3) == await sessions.read("-1005")
        assert not await sessions.has("-5")
        assert 1000 == pytest.approx((await storage.read("-1005")).ttl, abs=5)

    async def test_a_session_that_has_begun_in_the_supergroup_stays(self, bot, storage, sessions, caplog):
        await storage.store("-5", '{"count":3}')
        await storage.store("-1005", '{"count":1}')
        await bot.feed(self.said[0])

        assert [Pizza(3), Pizza(1)] == [await sessions.read("-5"), await sessions.read("-1005")]
        assert "session -5 stays" in caplog.text


async def test_filters_run_as_ever(bot, sessions):
    bot.application.add_handler(MessageHandler(filters.TEXT & ~filters.COMMAND, eat))
    await bot.feed(message("/start"))
    await bot.feed(message("pizza"))

    assert Pizza(1) == await sessions.read("7")
