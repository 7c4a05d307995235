"""BotSessionPersistence: user_data, chat_data, bot_data, callback data and conversations in a storage of ours."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from bot_session import (
    ConflictError,
    DecodeError,
    EncodeError,
    MemoryStorage,
    Sessions,
    UnavailableError,
    ValueTooLargeError,
)
from bot_session.testing import botapi
from bot_session.testing.botapi import message
from bot_session.testing.watched import WatchedStorage

pytest.importorskip("telegram")

from bot_session.frameworks.telegram import BotSessionPersistence, install, persist
from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.ext import (
    Application,
    ContextTypes,
    ConversationHandler,
    MessageHandler,
    PersistenceInput,
    TypeHandler,
    filters,
)


class Batched(WatchedStorage):
    """Can be down for batches too, and can cut a connection after the write has arrived."""

    cut = False

    async def write_many(self, writes):
        await self._asked("write_many", " ".join(sorted(write.key for write in writes)))
        results = await self.inner.write_many(writes)
        if self.cut:
            raise UnavailableError("cut", outcome_unknown=True)
        return self._did(results)

    async def documents(self):
        await self.inner.open()
        return {key: record.value async for key, record in self.inner.read_all_entries()}


@pytest.fixture
def storage():
    return Batched()


class Bot:
    def __init__(self, application):
        self.application = application
        self.errors = []
        application.add_error_handler(self._note)

    async def _note(self, _, context):
        self.errors.append(context.error)

    def on(self, callback):
        self.application.add_handler(TypeHandler(object, callback))
        return callback

    async def feed(self, update=None):
        update = Update.de_json({"update_id": 1, **(update or message())}, self.application.bot)
        await self.application.process_update(update)


@pytest.fixture
def run(storage, offline):
    """A function that runs a bot until the end of its block: what another one finds is what was stored."""

    @asynccontextmanager
    async def run(*handlers, make=persist, kill=False, context_types=None, builder=None, **options):
        builder = offline(builder or Application.builder())
        if context_types:
            builder = builder.context_types(context_types)
        persistence = BotSessionPersistence(storage, context_types=context_types, **options)
        bot = Bot(make(builder, persistence).build())
        bot.application.add_handlers(handlers)
        await storage.inner.open()
        await bot.application.initialize()
        yield bot
        if not kill:
            await bot.application.shutdown()

    return run


def plain(builder, persistence):
    """An application that knows nothing of us."""
    return builder.persistence(persistence)


async def remember(_, context):
    context.user_data["count"] = context.user_data.get("count", 0) + 1
    context.chat_data[7] = {"seen": (1, 2)}
    context.bot_data.setdefault("users", set()).add(7)


class TestRemembering:
    @pytest.mark.parametrize("make", [persist, plain])
    async def test_all_data_is_there_at_the_next_start(self, run, storage, make):
        for _ in range(2):
            async with run(make=make) as bot:
                bot.on(remember)
                await bot.feed()
        async with run(make=make) as bot:
            assert {7: {"count": 2}} == dict(bot.application.user_data)
            assert {7: {7: {"seen": (1, 2)}}} == dict(bot.application.chat_data)
            assert {"users": {7}} == bot.application.bot_data
        assert [] == bot.errors
        assert {
            "ptb:bot_data:": '{"users":{"$set":[7]}}',
            "ptb:chat_data:7": '{"$dict":[[7,{"seen":{"$tuple":[1,2]}}]]}',
            "ptb:user_data:7": '{"count":2}',
        } == await storage.documents()

    async def test_only_what_was_asked_for_is_kept(self, run, storage):
        async with run(store_data=PersistenceInput(user_data=True, chat_data=False, bot_data=False)) as bot:
            bot.on(remember)
            await bot.feed()

        assert {"ptb:user_data:7": '{"count":1}'} == await storage.documents()

    async def test_it_stands_beside_sessions(self, run, storage):
        sessions = Sessions(storage, initial=dict)

        async def both(_, context):
            context.session.data["count"] = context.user_data["count"] = 1

        async with run(make=lambda builder, ours: install(builder.persistence(ours), sessions)) as bot:
            bot.on(both)
            await bot.feed()

        assert [] == bot.errors
        assert {"7": '{"count":1}', "ptb:user_data:7": '{"count":1}'} == await storage.documents()

    async def test_what_it_cannot_keep_does_not_keep_a_session_from_being_saved(self, run, storage):
        sessions = Sessions(storage, initial=dict)

        async def both(_, context):
            context.session.data["count"] = 1
            context.user_data["count"] = object()

        async with run(make=lambda builder, ours: install(builder.persistence(ours), sessions)) as bot:
            bot.on(both)
            await bot.feed()

        assert [EncodeError] == [type(error) for error in bot.errors]
        assert {"7": '{"count":1}'} == await storage.documents()

    async def test_data_may_have_types_of_its_own(self, run):
        @dataclass
        class Profile:
            name: str = ""

        types = ContextTypes(user_data=Profile)

        async def name(_, context):
            context.user_data.name = "Ada"

        async with run(context_types=types) as bot:
            bot.on(name)
            await bot.feed()
            await bot.feed(message(user=botapi.BOB))
        async with run(context_types=types) as bot:
            assert {7: Profile("Ada"), 8: Profile("Ada")} == dict(bot.application.user_data)

    async def test_what_nobody_put_anything_in_is_not_stored_and_what_was_emptied_goes(self, run, storage):
        async def empty(_, context):
            context.user_data.clear()

        await storage.store("ptb:user_data:7", '{"count":1}')
        async with run() as bot:
            bot.on(empty)
            await bot.feed()
            await bot.feed(message(user=botapi.BOB))

        assert {} == await storage.documents()

    async def test_unchanged_data_is_not_written(self, run, storage):
        async with run() as bot:
            bot.on(remember)
            await bot.feed()
            storage.calls.clear()
            bot.application.handlers.clear()
            bot.on(lambda _, context: asyncio.sleep(0, context.user_data["count"]))
            await bot.feed()

            assert [] == storage.calls

    async def test_keyboards_with_objects_in_their_buttons(self, run):
        builder = Application.builder().arbitrary_callback_data(True)
        async with run(builder=builder) as bot:
            keyboard = InlineKeyboardMarkup([[InlineKeyboardButton("eat", callback_data={"slice": (1, 2)})]])
            shown = bot.application.bot.callback_data_cache.process_keyboard(keyboard)
            await bot.feed()
        async with run(builder=Application.builder().arbitrary_callback_data(True)) as bot:
            pressed = botapi.callback_query(shown.inline_keyboard[0][0].callback_data)
            seen = []

            async def look(update, _):
                seen.append(update.callback_query.data)

            bot.on(look)
            update = Update.de_json({"update_id": 1, **pressed}, bot.application.bot)
            bot.application.bot.callback_data_cache.process_callback_query(update.callback_query)
            await bot.application.process_update(update)

        assert [{"slice": (1, 2)}] == seen


def conversation(name="order"):
    async def begin(_, __):
        return "size"

    async def end(update, _):
        return ConversationHandler.END if update.message.text == "end" else None

    return ConversationHandler(
        [MessageHandler(filters.Text(["begin"]), begin)],
        {"size": [MessageHandler(filters.TEXT, end)]},
        [],
        name=name,
        persistent=True,
    )


class TestConversations:
    @pytest.mark.parametrize("make", [persist, plain])
    async def test_they_go_on_after_a_restart(self, run, storage, make):
        async with run(conversation(), make=make) as bot:
            await bot.feed(message("begin"))

        assert {'ptb:conversation:["order",7,7]': '"size"'} == await storage.documents()

        async with run(conversation(), make=make) as bot:
            await bot.feed(message("end"))

        assert [] == bot.errors
        assert {} == await storage.documents()

    async def test_they_survive_being_killed(self, run, storage):
        async with run(conversation(), kill=True) as bot:
            await bot.feed(message("begin"))

        assert {'ptb:conversation:["order",7,7]': '"size"'} == await storage.documents()

    async def test_one_whose_name_begins_another_ones_is_kept_apart(self, run, storage):
        async with run(conversation("a"), conversation('a",7')) as bot:
            await bot.feed(message("begin"))
            persistence = bot.application.persistence
            assert {(7, 7): "size"} == await persistence.get_conversations("a")
            assert {} == await persistence.get_conversations('a",7')

    async def test_a_handler_that_still_runs_leaves_the_state_as_it_was(self, run, storage):
        leave = asyncio.Event()

        async def slow(_, __):
            await leave.wait()
            return "size"

        handler = ConversationHandler(
            [MessageHandler(filters.TEXT, slow, block=False)], {"size": []}, [], name="order", persistent=True
        )
        async with run(handler) as bot:
            await bot.application.start()
            await bot.feed()
            assert {} == await storage.documents()
            leave.set()
            await bot.application.stop()
            await bot.application.update_persistence()
            assert {'ptb:conversation:["order",7,7]': '"size"'} == await storage.documents()


class TestWhatLosesDataElsewhere:
    """Each was seen to lose data with python-telegram-bot's own updating of a persistence."""

    async def test_being_killed(self, run, storage):
        async with run(kill=True) as bot:
            bot.on(remember)
            await bot.feed()

            assert '{"count":1}' == await storage.stored("ptb:user_data:7")

    async def test_an_outage_is_told_and_the_write_is_tried_again(self, run, storage):
        async with run() as bot:
            bot.on(remember)
            storage.down = True
            await bot.feed()

            assert [UnavailableError] == [type(error) for error in bot.errors]

            storage.down = False
            await bot.feed(message(user=botapi.BOB))

            assert '{"count":1}' == await storage.stored("ptb:user_data:7")
            assert '{"count":1}' == await storage.stored("ptb:user_data:8")

    async def test_an_outage_until_the_shutdown_is_an_error_there(self, run, storage):
        async with run(kill=True) as bot:
            bot.on(remember)
            storage.down = True
            await bot.feed()
            with pytest.raises(UnavailableError):
                await bot.application.shutdown()

    async def test_that_error_leaves_no_storage_open(self, run, storage):
        sessions = Sessions(MemoryStorage(), initial=dict)
        async with run(make=lambda builder, ours: install(builder.persistence(ours), sessions), kill=True) as bot:
            bot.on(remember)
            storage.down = True
            await bot.feed()
            with pytest.raises(UnavailableError):
                await bot.application.shutdown()

        assert ["closed", "closed"] == [storage.inner._state, sessions.storage._state]

    @pytest.mark.parametrize("times", [1, 2])
    @pytest.mark.parametrize("then", [botapi.BOB, botapi.ADA])
    async def test_a_connection_that_is_cut_after_the_write_arrived(self, run, storage, times, then):
        async with run() as bot:
            bot.on(remember)
            storage.cut = True
            for _ in range(times):
                await bot.feed()
            storage.cut = False
            await bot.feed(message(user=then))
            await bot.feed()

        assert times == len(bot.errors)
        assert {UnavailableError} == {type(error) for error in bot.errors}
        expected = times + 1 + (then is botapi.ADA)
        assert f'{{"count":{expected}}}' == (await storage.documents())["ptb:user_data:7"]

    async def test_a_change_that_was_cut_off_and_taken_back(self, run, storage):
        async def note(update, context):
            context.user_data["text"] = update.message.text

        async with run() as bot:
            bot.on(note)
            await bot.feed(message("first"))
            storage.cut = True
            await bot.feed(message("second"))
            storage.cut = False
            await bot.feed(message("first"))

        assert '{"text":"first"}' == (await storage.documents())["ptb:user_data:7"]

    async def test_a_value_that_cannot_be_kept_or_copied_keeps_nobody_elses_from_being_saved(self, run, storage):
        async def keep(update, context):
            context.bot_data["generator"] = (n for n in range(3))  # cannot even be copied
            context.user_data["count"] = 1
            if update.effective_user.id == 8:
                context.user_data["when"] = object()

        async with run() as bot:
            bot.on(keep)
            await bot.feed(message(user=botapi.BOB))
            await bot.feed()

        assert {"ptb:user_data:7": '{"count":1}'} == {
            key: value for key, value in (await storage.documents()).items() if key.startswith("ptb:user")
        }
        assert {EncodeError} == {type(error) for error in bot.errors}
        assert "session 'ptb:bot_data:': data['generator'] is a generator" in str(bot.errors[0])

    async def test_dropping_data_and_beginning_anew_at_once(self, run, storage):
        async def begin_anew(_, context):
            context.application.drop_user_data(7)
            context.application.user_data[7]["count"] = 100

        async def drop(_, context):
            context.application.drop_user_data(7)

        async with run() as bot:
            bot.on(remember)
            await bot.feed()
            bot.application.handlers.clear()
            bot.on(begin_anew)
            await bot.feed()

            assert '{"count":100}' == await storage.stored("ptb:user_data:7")

            bot.application.handlers.clear()
            bot.on(drop)
            await bot.feed()

            assert None is await storage.stored("ptb:user_data:7")

    async def test_data_of_somebody_else(self, run, storage):
        async def give(_, context):
            context.application.user_data[8]["gift"] = "pizza"

        async with run(kill=True) as bot:
            bot.on(give)
            await bot.feed()

        assert '{"gift":"pizza"}' == await storage.stored("ptb:user_data:8")

    async def test_data_of_somebody_else_that_is_changed_after_another_updates_save(self, run, storage):
        late = asyncio.Event()

        async def give(update, context):
            theirs = context.application.user_data[8]
            if update.message.text == "late":
                await late.wait()
                theirs["gift"] = "pizza"

        async with run(kill=True) as bot:
            bot.on(give)
            slow = asyncio.create_task(bot.feed(message("late")))
            await asyncio.sleep(0)
            await bot.feed(message("now"))
            late.set()
            await slow

        assert '{"gift":"pizza"}' == await storage.stored("ptb:user_data:8")

    async def test_data_of_somebody_else_that_is_changed_in_a_thread(self, run, storage):
        def give(application):
            application.user_data[8]["gift"] = "pizza"

        async with run() as bot:
            bot.on(lambda _, context: asyncio.to_thread(give, context.application))
            await bot.feed()

        assert [] == bot.errors
        assert {"ptb:user_data:8": '{"gift":"pizza"}'} == await storage.documents()

    async def test_data_that_a_job_changed(self, run, storage):
        async def job(context):
            context.user_data["count"] = 1

        async with run(update_interval=0.01) as bot:
            await bot.application.start()
            bot.application.job_queue.run_once(job, 0, user_id=7)
            await storage.until_stored("ptb:user_data:7", '{"count":1}')
            await bot.application.stop()

    @pytest.mark.parametrize("beside", ["task", "asyncio's task", "handler", "job", "job of a handler"])
    async def test_data_of_somebody_else_that_is_changed_late_by_what_runs_beside_updates(self, run, storage, beside):
        looked, late = asyncio.Event(), asyncio.Event()

        async def give(*_):
            theirs = bot.application.user_data[8]
            looked.set()
            await late.wait()
            theirs["gift"] = "pizza"

        async def schedule(_, context):
            context.job_queue.run_once(give, 0)

        async with run() as bot:
            application = bot.application
            await application.start()
            if beside == "job":
                application.job_queue.run_once(give, 0)
            elif beside == "job of a handler":
                bot.on(schedule)
            elif beside == "handler":
                application.add_handler(TypeHandler(object, give, block=False))
            else:
                task = asyncio.create_task(give()) if beside == "asyncio's task" else application.create_task(give())
            await bot.feed()
            await looked.wait()
            await application.update_persistence()
            late.set()
            if "task" in beside:
                await task
            await application.stop()

        assert [] == bot.errors
        assert {"ptb:user_data:8": '{"gift":"pizza"}'} == await storage.documents()

    async def test_data_that_a_task_was_given_by_a_handler(self, run, storage):
        late = asyncio.Event()

        async def give(theirs):
            await late.wait()
            theirs["gift"] = "pizza"

        async def begin(_, context):
            context.application.create_task(give(context.application.user_data[8]))

        async with run() as bot:
            bot.on(begin)
            await bot.application.start()
            await bot.feed()
            late.set()
            await bot.application.stop()

        assert {"ptb:user_data:8": '{"gift":"pizza"}'} == await storage.documents()

    async def test_a_document_that_another_process_changed_is_not_overwritten(self, run, storage):
        async with run() as bot:
            bot.on(remember)
            await bot.feed()
            await storage.store("ptb:user_data:7", '{"theirs":1}')
            await bot.feed()

        assert [ConflictError] == [type(error) for error in bot.errors]
        assert '{"theirs":1}' == (await storage.documents())["ptb:user_data:7"]

    async def test_a_document_that_is_too_large_keeps_nobody_elses_from_being_saved(self, run, storage, monkeypatch):
        from dataclasses import replace

        monkeypatch.setattr(storage.inner, "capabilities", replace(storage.inner.capabilities, max_value_bytes=100))

        async def grow(_, context):
            context.chat_data["text"] = "x" * 1000
            context.user_data["count"] = 1

        async with run() as bot:
            bot.on(grow)
            await bot.feed()

        assert [ValueTooLargeError] == [type(error) for error in bot.errors]
        assert {"ptb:user_data:7": '{"count":1}'} == await storage.documents()

    async def test_a_document_that_cannot_be_read_stops_the_start_and_stays(self, run, storage):
        await storage.store("ptb:user_data:7", "{")
        with pytest.raises(DecodeError, match="ptb:user_data:7"):
            async with run():
                pass

        assert "{" == await storage.stored("ptb:user_data:7")

    async def test_what_a_handler_changed_before_it_raised_is_in_the_storage_as_in_memory(self, run, storage):
        async def fail(_, context):
            context.user_data["count"] = 1
            raise ZeroDivisionError

        async with run() as bot:
            bot.on(fail)
            await bot.feed()

            assert {"count": 1} == bot.application.user_data[7]

        assert [ZeroDivisionError] == [type(error) for error in bot.errors]
        assert {"ptb:user_data:7": '{"count":1}'} == await storage.documents()

    @pytest.mark.parametrize("make", [persist, plain])
    async def test_reading_again_before_a_handler_takes_nothing_back(self, run, storage, make):
        """python-telegram-bot asks a persistence to refresh the data of every update, long before it was saved."""
        async with run(make=make, update_interval=1000) as bot:
            bot.on(remember)
            for _ in range(3):
                await bot.feed()

        assert '{"count":3}' == (await storage.documents())["ptb:user_data:7"]


class TestSeveralProcesses:
    """What memory is the truth of can be in one memory only; two of them are two processes here."""

    @staticmethod
    async def count(_, context):
        context.user_data["count"] = context.user_data.get("count", 0) + 1

    async def test_users_may_be_divided_among_them(self, run, storage):
        async with run(close_storage=False) as one, run(close_storage=False) as two:
            for bot, user in ((one, botapi.ADA), (two, botapi.BOB)):
                bot.on(self.count)
                await bot.feed(message(user=user))
                await bot.feed(message(user=user))

        assert [] == one.errors + two.errors
        assert {"ptb:user_data:7": '{"count":2}', "ptb:user_data:8": '{"count":2}'} == await storage.documents()

    async def test_one_that_does_not_know_of_a_change_overwrites_nothing_and_is_told_until_it_starts_again(
        self, run, storage
    ):
        async with run(close_storage=False) as one, run(close_storage=False) as two:
            for bot in (one, two, two, one):
                bot.application.handlers.clear()
                bot.on(self.count)
                await bot.feed()

        assert [[], [ConflictError, ConflictError]] == [[type(each) for each in bot.errors] for bot in (one, two)]
        async with run() as two:
            assert {"count": 2} == two.application.user_data[7]


class TestLooking:
    """application.user_data is what it was to those who look at it."""

    async def test_looking_makes_nobody(self, run):
        async with run() as bot:
            data = bot.application.user_data

            assert [False, None, 5, 0, []] == [7 in data, data.get(7), data.get(7, 5), len(data), list(data)]
            data[7]["a"] = 1
            assert {7: {"a": 1}} == dict(data.items())
            with pytest.raises(TypeError):
                data[8] = {}


async def test_a_storage_that_is_not_to_be_closed_is_not():
    for close, state in ((True, "closed"), (False, "open")):
        storage = MemoryStorage()
        persistence = BotSessionPersistence(storage, close_storage=close)
        await persistence.get_bot_data()
        await persistence.flush()

        assert state == storage._state
