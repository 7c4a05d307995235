"""aiogram's finite state machine over our storages, and what its own storages kept, brought along."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from bot_session import (
    ConfigurationError,
    DecodeError,
    EncodeError,
    LockTimeoutError,
    MemoryStorage,
    Sessions,
    UnavailableError,
    open_storage,
)

pytest.importorskip("aiogram")

from aiogram import Bot, Dispatcher
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import BaseStorage, DefaultKeyBuilder, KeyBuilder, StorageKey
from bot_session.frameworks.aiogram import (
    SessionEventIsolation,
    SessionFSMStorage,
    SessionMiddleware,
    import_mongo_fsm,
    import_redis_fsm,
)
from bot_session.frameworks.aiogram.fsm import DataNotDictLikeError
from bot_session.testing.botapi import message

KEY = StorageKey(bot_id=42, chat_id=-100, user_id=7)
STATE, DATA = "fsm:-100:7:state", "fsm:-100:7:data"


class Order(StatesGroup):
    size = State()


@pytest.fixture
def fsm(storage):
    return SessionFSMStorage(storage)


class TestStates:
    async def test_there_is_none_before_it_is_set_and_after_it_is_set_to_none(self, fsm, storage):
        assert None is await fsm.get_state(KEY)

        await fsm.set_state(KEY, "waiting")

        assert "waiting" == await fsm.get_state(KEY)

        await fsm.set_state(KEY, None)

        assert None is await fsm.get_state(KEY)
        assert None is await storage.stored(STATE)

    @pytest.mark.parametrize(
        ("state", "expected"),
        [(Order.size, "Order:size"), (State("free"), "@:free"), (State(state="*"), "*"), (State(), None), ("", "")],
    )
    async def test_a_state_is_known_by_its_name(self, fsm, state, expected):
        await fsm.set_state(KEY, state)

        assert expected == await fsm.get_state(KEY)

    async def test_setting_one_costs_one_write_and_no_reading(self, fsm, storage):
        await fsm.set_state(KEY, "waiting")

        assert [("write", STATE)] == storage.calls

    async def test_data_does_not_notice(self, fsm):
        await fsm.set_state(KEY, "waiting")
        await fsm.set_data(KEY, {"size": 30})
        await fsm.set_state(KEY, None)

        assert {"size": 30} == await fsm.get_data(KEY)


class TestData:
    async def test_there_is_none_before_it_is_set_and_after_it_is_set_to_nothing(self, fsm, storage):
        assert {} == await fsm.get_data(KEY)

        await fsm.set_data(KEY, {"size": 30, "nested": {"list": [1, None]}})

        assert {"size": 30, "nested": {"list": [1, None]}} == await fsm.get_data(KEY)

        await fsm.set_data(KEY, {})

        assert {} == await fsm.get_data(KEY)
        assert None is await storage.stored(DATA)

    async def test_the_state_does_not_notice(self, fsm):
        await fsm.set_state(KEY, "waiting")
        await fsm.set_data(KEY, {"size": 30})
        await fsm.set_data(KEY, {})

        assert "waiting" == await fsm.get_state(KEY)

    async def test_updating_adds_and_replaces_and_returns_what_is_kept(self, fsm, storage):
        assert {} == await fsm.update_data(KEY, {})
        assert None is await storage.stored(DATA)
        assert {"size": 30} == await fsm.update_data(KEY, {"size": 30})
        assert {"size": 30} == await fsm.update_data(KEY, {})
        assert {"size": 40, "crust": "thin"} == await fsm.update_data(KEY, {"size": 40, "crust": "thin"})
        assert {"size": 40, "crust": "thin"} == await fsm.get_data(KEY)

    @pytest.mark.skipif(not hasattr(BaseStorage, "get_value"), reason="aiogram cannot, before 3.15")
    async def test_one_value_may_be_asked_for(self, fsm):
        await fsm.set_data(KEY, {"size": 30})

        assert 30 == await fsm.get_value(KEY, "size")
        assert None is await fsm.get_value(KEY, "crust")
        assert "thin" == await fsm.get_value(KEY, "crust", "thin")

    async def test_what_a_handler_does_to_it_afterwards_is_not_kept(self, fsm):
        data = {"list": [1]}
        await fsm.set_data(KEY, data)
        data["list"].append(2)
        (await fsm.get_data(KEY))["list"].append(3)

        assert {"list": [1]} == await fsm.get_data(KEY)

    @pytest.mark.parametrize("data", [[1], "text", 5, None, {1, 2}])
    async def test_data_that_is_no_dict_is_refused(self, fsm, data):
        for keep in (fsm.set_data, fsm.update_data):
            with pytest.raises(DataNotDictLikeError):
                await keep(KEY, data)

    @pytest.mark.parametrize("value", [datetime(2024, 1, 1, tzinfo=UTC), (1, 2), {1: "a"}, {"$set": b"x"}, {1, 2}])
    async def test_data_comes_back_as_it_was_as_from_aiograms_memory(self, fsm, value):
        await fsm.set_data(KEY, {"value": value})
        assert {"value": value} == await fsm.get_data(KEY)

        await fsm.update_data(KEY, {"size": 30})
        assert {"value": value, "size": 30} == await fsm.get_data(KEY)

    async def test_a_document_that_is_no_dict_is_an_error_and_stays(self, fsm, storage):
        await storage.store(DATA, "[1]")
        for operation in (fsm.get_data(KEY), fsm.update_data(KEY, {"size": 30})):
            with pytest.raises(DecodeError, match=DATA):
                await operation

        assert "[1]" == await storage.stored(DATA)

    @pytest.mark.parametrize("value", [float("nan"), object(), Order.size])
    async def test_data_that_would_not_come_back_as_it_is_is_refused(self, fsm, storage, value):
        await fsm.set_data(KEY, {"size": 30})
        for keep in (fsm.set_data, fsm.update_data):
            with pytest.raises(EncodeError, match=DATA):
                await keep(KEY, {"value": value})

        assert '{"size":30}' == await storage.stored(DATA)

    async def test_fifty_updates_at_once_over_two_connections_are_all_there(self, tmp_path):
        async with open_storage(f"sqlite:{tmp_path}/bot.db") as one, open_storage(f"sqlite:{tmp_path}/bot.db") as two:
            stores = [SessionFSMStorage(one), SessionFSMStorage(two)]
            await asyncio.gather(*(stores[n % 2].update_data(KEY, {str(n): n}) for n in range(50)))

            assert {str(n): n for n in range(50)} == await stores[0].get_data(KEY)

    async def test_an_outage_is_no_empty_data(self, fsm, storage):
        await fsm.set_data(KEY, {"size": 30})
        storage.down = True
        for operation in (fsm.get_data(KEY), fsm.get_state(KEY), fsm.update_data(KEY, {"a": 1})):
            with pytest.raises(UnavailableError):
                await operation


class TestLife:
    async def test_state_and_data_expire_each_after_its_own_time(self):
        now = 0.0
        fsm = SessionFSMStorage(MemoryStorage(clock=lambda: now), state_ttl=10, data_ttl=timedelta(minutes=1))
        await fsm.set_state(KEY, "waiting")
        await fsm.update_data(KEY, {"size": 30})
        now = 30.0

        assert (None, {"size": 30}) == (await fsm.get_state(KEY), await fsm.get_data(KEY))
        now = 61.0
        assert {} == await fsm.get_data(KEY)

    async def test_keys_are_those_of_the_key_builder(self, storage):
        builder = DefaultKeyBuilder(prefix="f", with_bot_id=True, with_business_connection_id=True, with_destiny=True)
        fsm = SessionFSMStorage(storage, key_builder=builder, prefix="bot:")
        key = StorageKey(42, -100, 7, thread_id=3, business_connection_id="b", destiny="d")
        await fsm.set_state(key, "waiting")
        await fsm.set_data(key, {"size": 30})

        assert ["bot:f:42:b:-100:3:7:d:data", "bot:f:42:b:-100:3:7:d:state"] == sorted(storage.inner._entries)

    async def test_the_storage_is_closed_only_if_told(self, storage):
        fsm, closing = SessionFSMStorage(storage), SessionFSMStorage(storage, close_storage=True)
        await fsm.set_state(KEY, "waiting")
        await fsm.close()

        assert "waiting" == await fsm.get_state(KEY)

        await closing.close()
        assert "closed" == storage.inner._state

    async def test_a_conversation_through_the_dispatcher(self, storage, fsm):
        dispatcher = Dispatcher(storage=fsm, events_isolation=SessionEventIsolation())

        @dispatcher.message(Order.size)
        async def sized(event, state):
            data = await state.update_data(size=int(event.text))
            await state.clear()
            return data

        @dispatcher.message()
        async def begin(event, state):
            await state.set_state(Order.size)
            await state.update_data(kind=event.text)

        bot = Bot("42:TEST")
        await dispatcher.feed_raw_update(bot, {"update_id": 1, **message("calzone")})

        assert '"Order:size"' == await storage.stored("fsm:7:7:state")
        answer = await dispatcher.feed_raw_update(bot, {"update_id": 2, **message("30")})
        assert {"kind": "calzone", "size": 30} == answer
        assert {} == storage.inner._entries


class Dawdling(SessionFSMStorage):
    """Answers the first question later than the others, as a network may."""

    def __init__(self, storage):
        super().__init__(storage)
        self.turns = 50

    async def get_state(self, key):
        turns, self.turns = self.turns, 0
        for _ in range(turns):
            await asyncio.sleep(0)
        return await super().get_state(key)


class TestIsolation:
    @pytest.fixture
    def isolation(self):
        return SessionEventIsolation()

    async def in_what_order(self, storage, **options):
        dispatcher = Dispatcher(storage=Dawdling(storage), **options)
        order = []

        @dispatcher.message()
        async def handle(event, session):
            order.append(event.text)

        SessionMiddleware(Sessions(storage, initial=dict)).setup(dispatcher)
        bot = Bot("42:TEST")
        updates = [{"update_id": n, **message(str(n))} for n in range(5)]
        await asyncio.gather(*(dispatcher.feed_raw_update(bot, update) for update in updates))
        return order

    async def test_updates_are_handled_in_order_however_late_the_state_comes(self, storage, isolation):
        assert ["0", "1", "2", "3", "4"] == await self.in_what_order(storage, events_isolation=isolation)
        assert 0 == len(isolation.locks)

    async def test_without_it_they_are_not(self, storage):
        assert ["1", "2", "3", "4", "0"] == await self.in_what_order(storage)

    async def test_conversations_do_not_wait_for_each_other(self, isolation):
        others = [
            StorageKey(43, -100, 7),
            StorageKey(42, -100, 8),
            StorageKey(42, -100, 7, thread_id=1),
            StorageKey(42, -100, 7, business_connection_id="b"),
            StorageKey(42, -100, 7, destiny="d"),
        ]
        async with isolation.lock(KEY):
            for other in others:
                async with isolation.lock(other):
                    assert 2 == len(isolation.locks)

    async def test_waiting_has_an_end_if_told(self):
        isolation = SessionEventIsolation(lock_timeout=0.01)
        async with isolation.lock(KEY):
            with pytest.raises(LockTimeoutError):
                async with isolation.lock(KEY):
                    pass
        await isolation.close()


class TestImport:
    async def test_from_aiograms_redis_storage(self, redis_server, storage):
        redis_storage = pytest.importorskip("aiogram.fsm.storage.redis").RedisStorage
        builder = DefaultKeyBuilder(prefix=f"f*{uuid.uuid4().hex}", with_bot_id=True)
        old = redis_storage.from_url(redis_server.url, key_builder=builder, data_ttl=1000)
        other = redis_storage.from_url(redis_server.url, key_builder=DefaultKeyBuilder(prefix=f"f{builder.prefix[2:]}"))
        keys = [StorageKey(42, chat, 7) for chat in range(1, 4)]
        for key in keys:
            await old.set_state(key, Order.size)
            await old.set_data(key, {"chat": key.chat_id, "date": "ü"})
            await other.set_state(key, "somebody else's")
        target = SessionFSMStorage(storage, key_builder=builder)
        await target.set_state(keys[0], "newer")

        assert 5 == await import_redis_fsm(old.redis, target)
        assert 0 == await import_redis_fsm(old.redis, target)
        assert ["newer", "Order:size", "Order:size"] == [await target.get_state(key) for key in keys]
        assert [{"chat": chat, "date": "ü"} for chat in (1, 2, 3)] == [await target.get_data(key) for key in keys]
        assert 6 == len(storage.inner._entries)
        assert 990 < (await storage.inner.read(builder.build(keys[0], "data"))).ttl <= 1000
        assert None is (await storage.inner.read(builder.build(keys[1], "state"))).ttl
        await old.close()
        await other.close()

    @pytest.mark.parametrize("client", ["pymongo", "motor"])
    async def test_from_aiograms_mongo_storages(self, mongo_server, storage, client):
        name, module = ("PyMongoStorage", "pymongo") if client == "pymongo" else ("MongoStorage", "mongo")
        bson = pytest.importorskip("bson")
        mongo_storage = getattr(pytest.importorskip(f"aiogram.fsm.storage.{module}"), name)
        old = mongo_storage.from_url(mongo_server.url, collection_name=uuid.uuid4().hex)
        keys = [StorageKey(42, chat, 7) for chat in range(1, 4)]
        for key in keys:
            await old.set_data(key, {"chat": key.chat_id, "big": 2**40, "list": [{"a": 1.5, "yes": True}]})
        await old.set_state(keys[0], Order.size)
        target = SessionFSMStorage(storage)

        assert 4 == await import_mongo_fsm(old._collection, target)
        assert 0 == await import_mongo_fsm(old._collection, target)
        assert ["Order:size", None, None] == [await target.get_state(key) for key in keys]
        assert [await old.get_data(key) for key in keys] == [await target.get_data(key) for key in keys]
        assert '{"chat":1,"big":1099511627776,"list":[{"a":1.5,"yes":true}]}' == await storage.stored("fsm:1:7:data")
        await target.set_data(keys[0], {})
        await old.set_data(keys[0], {"when": datetime(2024, 1, 1)})  # noqa: DTZ001 - as BSON has it
        assert 1 == await import_mongo_fsm(old._collection, target)
        assert await old.get_data(keys[0]) == await target.get_data(keys[0])

        await target.set_data(keys[0], {})
        await old.set_data(keys[0], {"id": bson.ObjectId()})
        with pytest.raises(EncodeError, match="fsm:1:7:data"):
            await import_mongo_fsm(old._collection, target)
        closing = old.close()
        if closing is not None:
            await closing

    async def test_keys_that_cannot_be_recognised_are_refused(self, storage):
        class Own(KeyBuilder):
            def build(self, key, part=None):
                return f"{key}{part}"

        target = SessionFSMStorage(storage, key_builder=Own())
        with pytest.raises(ConfigurationError, match="Own"):
            await import_redis_fsm(None, target)
        with pytest.raises(ConfigurationError, match="Own"):
            await import_mongo_fsm(None, target)
