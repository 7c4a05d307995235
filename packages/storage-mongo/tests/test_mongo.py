"""What is MongoDB's own: grammY's documents, BSON's types, indexes, servers that stop."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import traceback
import uuid
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bot_session import (
    ABSENT,
    ConfigurationError,
    ConflictError,
    SchemaError,
    StorageError,
    UnavailableError,
    ValueTooLargeError,
    Version,
    Write,
)
from bot_session_storage_mongo import MongoStorage
from bot_session_storage_mongo._commands import is_held
from bot_session_storage_mongo._documents import from_version, to_bson, to_json, to_version
from bson.datetime_ms import DatetimeMS
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import ConnectionFailure, InvalidOperation
from pymongo.monitoring import CommandListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from bot_session.testing.servers import Server
    from pymongo.database import Database

# PyMongo leaves a socket to the garbage collector for a connection that is refused.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*<socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("sockets_collected"),
]

_numbers = itertools.count(1)


@pytest.fixture
def database(mongo_server: Server) -> Iterator[Database[dict[str, Any]]]:
    """A database for this test alone, by a client that is not the storage's."""
    with MongoClient[dict[str, Any]](mongo_server.url) as client:
        name = f"mongo-{next(_numbers)}"
        yield client[name]
        client.drop_database(name)


@pytest.fixture
async def storage(mongo_server: Server, database: Database[dict[str, Any]]) -> AsyncIterator[MongoStorage]:
    async with MongoStorage(mongo_server.url, database=database.name) as storage:
        yield storage


async def value(storage: MongoStorage, key: str) -> str | None:
    record = await storage.read(key)
    return None if record is None else record.value


# ---------------------------------------------------------------------- grammY


async def test_what_grammy_wrote_is_read_and_kept_up_in_place(storage, database) -> None:
    grammy = database.sessions.insert_one(
        {"key": "42", "value": {"count": 1, "chat": -1001234567890.0}, "note": "mine"}
    )
    record = await storage.read("42")
    assert record.value == '{"count":1,"chat":-1001234567890}'

    await storage.write("42", '{"count":2,"chat":-1001234567890}', ttl=60.0, match=record.version)
    await storage.write("42", '{"count":3}')

    assert [{"_id": grammy.inserted_id, "key": "42", "value": {"count": 3}, "note": "mine"}] == list(
        database.sessions.find()
    )


async def test_a_write_of_grammys_in_between_is_a_conflict(storage, database) -> None:
    version = await storage.write("42", '{"items":[1]}')
    database.sessions.update_one({"key": "42"}, {"$set": {"key": "42", "value": {"items": [1, 2]}}}, upsert=True)
    with pytest.raises(ConflictError):
        await storage.write("42", '{"items":[]}', match=version)

    assert await value(storage, "42") == '{"items":[1,2]}'


async def test_grammy_replaces_what_was_stored_as_text(storage, database) -> None:
    await storage.write("42", '{"$set":1}')
    database.sessions.update_one({"key": "42"}, {"$set": {"key": "42", "value": {"count": 1}}}, upsert=True)

    assert await value(storage, "42") == '{"count":1}'


async def test_a_document_without_a_value_is_no_session_however_it_is_asked_for(storage, database) -> None:
    database.sessions.insert_one({"key": "42", "note": "mine"})

    assert (None, {}, False) == (await storage.read("42"), await storage.read_many(["42"]), await storage.has("42"))
    assert [] == [key async for key in storage.read_all_keys()]
    await storage.write("42", "1", match=ABSENT)
    assert await value(storage, "42") == "1"


def test_what_ends_in_this_millisecond_has_ended() -> None:
    document = {"key": "42", "value": 1, "expires_at": DatetimeMS(5)}

    assert (False, True) == (is_held(document | {"now": DatetimeMS(5)}), is_held(document | {"now": DatetimeMS(4)}))


@pytest.mark.parametrize(("stored", "other"), [
    ([1, 2], 1),  # a filter would find the item in the array
    (None, {}),
    ("a", "A"),
    (dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "2024-01-01T00:00:00.000Z"),
])  # fmt: skip
async def test_a_version_is_compared_exactly(storage, database, stored, other) -> None:
    database.sessions.insert_one({"key": "k", "value": stored})
    with pytest.raises(ConflictError):
        await storage.write("k", "0", match=to_version(other))
    record = await storage.read("k")
    await storage.write("k", '"mine"', match=record.version)

    assert await value(storage, "k") == '"mine"'


async def test_the_version_of_another_storage_is_a_conflict(storage) -> None:
    await storage.write("k", "1")
    for version in ("1", "é", "\ud800", ""):
        with pytest.raises(ConflictError):
            await storage.delete("k", match=Version(version))


async def test_a_collection_that_ignores_case_keeps_keys_and_documents_apart(mongo_server, database) -> None:
    database.create_collection("sessions", collation={"locale": "en", "strength": 2})
    async with MongoStorage(mongo_server.url, database=database.name) as storage:
        version = await storage.write("k", '"a"')
        await storage.write("K", '"b"', match=ABSENT)
        database.sessions.update_one({"key": "k"}, {"$set": {"value": "A"}}, collation={"locale": "simple"})
        with pytest.raises(ConflictError):
            await storage.write("k", '"c"', match=version)

        assert (await value(storage, "k"), await value(storage, "K")) == ('"A"', '"b"')


async def test_typeorms_text_is_read_and_written(mongo_server, database) -> None:
    database.session.insert_one({"key": "42", "value": '{"count":1}'})
    async with MongoStorage(mongo_server.url, database=database.name, collection="session", values="text") as storage:
        record = await storage.read("42")
        await storage.write("42", '{"count":2,"half":"\ud800"}', match=record.version)

    assert record.value == '{"count":1}'
    assert database.session.find_one({}, {"_id": 0}) == {"key": "42", "value": '{"count":2,"half":"\\ud800"}'}


# ---------------------------------------------------------------------- BSON


@pytest.mark.parametrize("document", [
    "null", '""', "[]", '{"a":[1,-5,2147483648,9223372036854775807]}', "[1.0,-0.0,0.1,1e+16,5e-324]",
    '{"z":1,"a":{"":2,"a.b":3}}', '"a\\u0000b"', '{"_id":1}',
])  # fmt: skip
def test_what_bson_can_hold_is_native(document) -> None:
    stored = to_bson(document)

    assert not isinstance(stored, bson.Code)
    assert to_json(bson.decode(bson.encode({"v": stored}))["v"]) == document


@pytest.mark.parametrize("document", [
    "10000000000.0", "9223372036854775808", '"\\ud800"', '{"a\\u0000b":1}', '{"a":[{"$set":1}]}', "[" * 90 + "]" * 90,
    "[" * 5000 + "]" * 5000, "NaN", "1e400", "no JSON", "[" + "1," * 1_000_000 + "1]",
])  # fmt: skip
def test_what_bson_would_change_is_stored_as_text(document) -> None:
    stored = to_bson(document)

    assert isinstance(stored, bson.Code)
    assert to_json(bson.decode(bson.encode({"v": stored}))["v"]) == document


@pytest.mark.parametrize(("stored", "document"), [
    (dt.datetime(2024, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC), '"2024-01-02T03:04:05.678Z"'),
    (bson.ObjectId("5f43b2a0c0ffee0000000000"), '"5f43b2a0c0ffee0000000000"'),
    (bson.Decimal128("1.10"), '"1.10"'),
    (b"\x00\xff", '"AP8="'),
    (bson.Binary.from_uuid(uuid.UUID(int=1)), '"00000000-0000-0000-0000-000000000001"'),
    (-1001234567890.0, "-1001234567890"),
    (1.5, "1.5"),
])  # fmt: skip
async def test_what_others_stored_is_readable(storage, database, stored, document) -> None:
    database.sessions.insert_one({"key": "k", "value": {"a": [stored]}})
    record = await storage.read("k")
    await storage.write("k", "1", match=record.version)

    assert record.value == f'{{"a":[{document}]}}'


@pytest.mark.parametrize("stored", [float("nan"), bson.Regex("a"), bson.Timestamp(1, 1), bson.Binary(b"no UUID", 4)])
async def test_what_json_has_no_form_for_is_an_error_and_stays(storage, database, stored) -> None:
    database.sessions.insert_one({"key": "k", "value": {"a": stored}})
    for call in (storage.read("k"), storage.read_many(["k"])):
        with pytest.raises(StorageError, match="JSON has no form"):
            await call

    assert await storage.has("k")
    assert database.sessions.count_documents({}) == 1


def test_a_version_tells_a_date_from_its_text() -> None:
    date = bson.DatetimeMS(1_700_000_000_000)

    assert from_version(to_version(date)) == date
    assert to_version(date) != to_version("2023-11-14T22:13:20.000Z")


async def test_two_of_the_largest_documents_fit_into_a_comparison(storage) -> None:
    largest = storage.capabilities.max_value_bytes - 2
    version = await storage.write("k", '"' + "x" * largest + '"')
    await storage.write("k", '"' + "y" * largest + '"', match=version)
    with pytest.raises(ValueTooLargeError):
        await storage.write("k", '"' + "z" * (largest + 1) + '"')

    assert (await value(storage, "k"))[:2] == '"y'


# ---------------------------------------------------------------------- indexes


def indexes(database) -> dict[str, Any]:
    return {name: index for name, index in database.sessions.index_information().items() if name != "_id_"}


async def test_opening_creates_both_indexes(storage, database) -> None:
    found = indexes(database)

    assert found["key_1"]["unique"]
    assert found["expires_at_1"]["expireAfterSeconds"] == 0


async def test_duplicates_that_grammy_left_are_an_error_that_says_what_to_do(mongo_server, database) -> None:
    database.sessions.insert_many([{"key": "42", "value": 1}, {"key": "42", "value": 2}])
    storage = MongoStorage(mongo_server.url, database=database.name)
    with pytest.raises(SchemaError, match="delete all but one"):
        await storage.read("42")
    database.sessions.delete_one({"value": 2})

    assert await value(storage, "42") == "1"
    await storage.close()


async def test_without_create_a_missing_index_is_named(mongo_server, database) -> None:
    storage = MongoStorage(mongo_server.url, database=database.name, create=False)
    statement = storage.ddl().splitlines()[0]
    with pytest.raises(SchemaError) as caught:
        await storage.open()
    assert statement in str(caught.value)
    assert indexes(database) == {}

    database.sessions.create_index("key", unique=True, name="by_hand")
    database.sessions.create_index("expires_at", expireAfterSeconds=0)
    async with storage:
        assert await storage.has("k") is False


async def test_a_unique_index_of_others_is_an_error_and_no_conflict(storage, database) -> None:
    database.sessions.create_index("value.user", unique=True, sparse=True)
    await storage.write("a", '{"user":1}')
    for call in (storage.write("b", '{"user":1}'), storage.write("b", '{"user":1}', match=ABSENT)):
        with pytest.raises(SchemaError, match="unique index"):
            await call
    refused, version = await storage.write_many([Write("b", '{"user":1}'), Write("c", "1")])

    assert isinstance(refused, SchemaError)
    assert "unique index" in str(refused)
    assert (await storage.read("c")).version == version


# ---------------------------------------------------------------------- set-up and faults


def test_the_database_is_the_options_the_urls_or_ours() -> None:
    names = [
        repr(MongoStorage("mongodb://u:secret@h1,h2/bot?w=1", database="other")),
        repr(MongoStorage("mongodb://u:secret@h1,h2/my%2Dbot?w=1")),
        repr(MongoStorage("mongodb+srv://u:secret@h/", collection="s")),
    ]

    assert [
        "<MongoStorage other.sessions>", "<MongoStorage my-bot.sessions>", "<MongoStorage bot_session.s>",
    ] == names  # fmt: skip


@pytest.mark.parametrize("url", ["mongodb://", "mongodb://h/?w0rd=1", "mongodb://h/?retryWrites=perhaps"])
def test_a_wrong_url_is_a_configuration_error(url) -> None:
    with pytest.raises(ConfigurationError):
        MongoStorage(url)


@pytest.mark.parametrize("url", [
    "mongodb+srv://bot:hunter2/hunter2@h/db", "mongodb+srv://bot:hunter2\u2100@h/db", "mongodb://bot:hunter2\u2100@h/db",
    "mongodb://bot:hunter2@[h/db", "mongodb://bot:hunter2/hunter2@h/db", "mongodb://bot:hunter2?hunter2@h/db",
])  # fmt: skip
@pytest.mark.parametrize("database", [None, "bot"])
def test_a_wrong_url_is_refused_without_its_password(url, database) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MongoStorage(url, database=database)

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_a_database_that_cannot_be_is_an_error_of_ours(mongo_server) -> None:
    with pytest.raises(StorageError, match="InvalidName"):
        await MongoStorage(mongo_server.url, database="a b").open()


async def test_a_client_that_blocks_or_does_not_listen_is_refused(mongo_server) -> None:
    with MongoClient(mongo_server.url) as blocking, pytest.raises(ConfigurationError, match="AsyncMongoClient"):
        MongoStorage(blocking.bot.sessions)
    async with AsyncMongoClient(mongo_server.url, w=0) as deaf:
        with pytest.raises(ConfigurationError, match="write concern"):
            MongoStorage(deaf.bot.sessions)


class Commands(CommandListener):
    """The names of the commands that a client sends."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event) -> None: ...

    def failed(self, event) -> None: ...


async def test_the_servers_clock_is_asked_for_once_something_expires(mongo_server, database) -> None:
    sent = Commands()
    async with (
        AsyncMongoClient(mongo_server.url, event_listeners=[sent]) as client,
        MongoStorage(client[database.name].sessions) as storage,
    ):
        await storage.write_many([Write("for ever", "1"), Write("for a while", "2", ttl=60.0)])
        sent.names.clear()
        await storage.read("for ever")
        await storage.read("missing")
        plain = list(sent.names)
        record, *_ = await asyncio.gather(storage.read("for a while"), *(storage.read("for ever") for _ in range(10)))
        sent.names.clear()
        await storage.read_many(["for ever", "for a while"])
        timed = list(sent.names)

    assert (["find", "find"], ["aggregate"]) == (plain, timed)
    assert 59.0 < record.ttl <= 60.0


async def test_what_was_written_survives_a_killed_server(mongo_server, database) -> None:
    url = mongo_server.url_with("journal=true")
    async with MongoStorage(url, database=database.name, timeout=2.0) as storage:
        await storage.write("k", "1")
        mongo_server.kill()
        try:
            for call in (storage.read("k"), storage.write("k", "2"), storage.read_many(["k", "l"])):
                with pytest.raises(UnavailableError) as caught:
                    await call
                assert isinstance(caught.value.__cause__, ConnectionFailure)
        finally:
            mongo_server.start()

        assert await value(storage, "k") == "1"


async def test_keys_of_many_megabytes_travel_in_several_commands(storage) -> None:
    keys = [f"{i}" + "x" * 2**20 for i in range(20)]

    assert await storage.read_many(keys) == {}
    assert await storage.delete_many(keys) == 0


# ---------------------------------------------------------------------- closing

MANY = [f"k{i}" for i in range(400)]


@pytest.mark.parametrize("method", ["write_many", "read_many", "delete_many"])
async def test_closing_waits_for_all_commands_of_an_operation(storage, method) -> None:
    writes = [Write(key, "1") for key in MANY]
    await storage.write_many(writes)
    under_way = asyncio.create_task(getattr(storage, method)(writes if method == "write_many" else MANY))
    await asyncio.sleep(0)
    await storage.close()
    result = await under_way

    assert len(MANY) == (result if method == "delete_many" else len(result))
    assert method != "write_many" or all(isinstance(each, str) for each in result)


async def test_a_closing_that_is_cancelled_goes_on(storage) -> None:
    client = storage._collection._client
    writing = asyncio.create_task(storage.write_many([Write(key, "1") for key in MANY]))
    await asyncio.sleep(0)
    closing = asyncio.create_task(storage.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert all(isinstance(result, str) for result in await writing)
    await storage.open()
    with pytest.raises(InvalidOperation):
        await client.admin.command("ping")
    assert len(MANY) == len(await storage.read_many(MANY))


async def test_before_mongodb_8_a_batch_has_the_same_results(storage) -> None:
    storage._collection.tells_apart = False
    version = await storage.write("a", "1")
    batch = [
        Write("a", "2", match=version), Write("a", None, match=version), Write("b", "1", match=ABSENT),
        Write("b", "2", match=ABSENT), Write("c", None), Write("a", None),
    ]  # fmt: skip
    results = await storage.write_many(batch)

    assert [str, ConflictError, str, ConflictError, bool, bool] == [type(result) for result in results]
    assert [False, True] == results[4:]
    assert await storage.read_many(["a", "c"]) == {}
    assert await value(storage, "b") == "1"
