"""MongoDB found through the DNS, MongoDB as a replica set, and what its members say while they change roles."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest
from bot_session import ABSENT, SchemaError, StorageError, UnavailableError, ValueTooLargeError, Write, open_storage
from bot_session_storage_mongo import MongoStorage
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.uri_parser import parse_uri

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from bot_session.testing.servers import Server

# PyMongo leaves a socket to the garbage collector when it is cancelled while it connects.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*<socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("sockets_collected"),
]


# ---------------------------------------------------------------------- mongodb+srv:


class DNS(asyncio.DatagramProtocol):
    """
    A name server for the zone ``bot.test``.

    Attributes:
        records: Name and type → what they resolve to, as a zone file spells it; others do not exist.
        asked: The names and types that were asked for.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], str] = {}
        self.asked: set[tuple[str, str]] = set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        asked = question.name.to_text(omit_final_dot=True), kind
        self.asked.add(asked)
        if asked in self.records:
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, self.records[asked]))
        elif not any(name == asked[0] for name, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(answer.to_wire(), address)


@pytest.fixture
async def name_server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DNS]:
    """A name server on 127.0.0.1, whom the driver's resolver and the system's ask."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(DNS, local_addr=("127.0.0.1", 0))
    for module in (dns.resolver, dns.asyncresolver):
        resolver = module.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], transport.get_extra_info("sockname")[1]
        monkeypatch.setattr(module, "default_resolver", resolver)
    dns.resolver.override_system_resolver()
    yield server
    dns.resolver.restore_system_resolver()
    transport.close()


async def test_the_dns_gives_the_hosts_and_the_options(mongo_replica_set: str, name_server: DNS) -> None:
    address = parse_uri(mongo_replica_set)
    [(_, port)], name = address["nodelist"], address["options"]["replicaSet"]
    name_server.records = {
        ("_mongodb._tcp.cluster.bot.test", "SRV"): f"0 0 {port} node.bot.test.",
        ("cluster.bot.test", "TXT"): f'"replicaSet={name}"',
        ("node.bot.test", "A"): "127.0.0.1",
    }
    async with open_storage("mongodb+srv://cluster.bot.test/found_by_srv?tls=false&collection=s") as storage:
        await storage.write("42", '{"count":1}')
        options = storage._collection._client.options
        with MongoClient[dict[str, Any]](mongo_replica_set) as client:
            found = client.found_by_srv.s.find_one({}, {"_id": 0})
            client.drop_database("found_by_srv")

    assert found == {"key": "42", "value": {"count": 1}}
    assert options.replica_set_name == name
    assert name_server.asked >= name_server.records.keys()


async def test_a_name_that_the_dns_does_not_give_is_an_outage(name_server: DNS) -> None:
    storage = open_storage("mongodb+srv://user:secret@nowhere.bot.test/?tls=false")
    for _ in range(2):
        with pytest.raises(UnavailableError) as caught:
            await storage.read("42")

        assert "secret" not in str(caught.value)
    assert name_server.asked == {("_mongodb._tcp.nowhere.bot.test", "SRV")}


# ---------------------------------------------------------------------- what a server says that cannot now, or will not


COMMANDS = ["find", "aggregate", "update", "delete", "bulkWrite"]


@pytest.fixture
def fail(mongo_server: Server) -> Iterator[Callable[..., None]]:
    """A function that has the server itself refuse commands: with a code, or by hanging up."""
    with MongoClient[dict[str, Any]](mongo_server.url) as client:

        def configure(mode: object, **data: Any) -> None:
            client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)

        def fail(mode: object = "alwaysOn", commands: Sequence[str] = COMMANDS, **how: Any) -> None:
            configure(mode, failCommands=commands, **how)

        try:
            configure("off")
        except OperationFailure as error:
            pytest.skip(f"the server has no test commands: {error.details['errmsg']}")
        yield fail
        configure("off")


@pytest.fixture
def collection(mongo_server: Server) -> Iterator[str]:
    yield "topologies"
    with MongoClient[dict[str, Any]](mongo_server.url) as client:
        client.bot_session.drop_collection("topologies")


@pytest.fixture
async def storage(mongo_replica_set: str, collection: str) -> AsyncIterator[MongoStorage]:
    """A storage whose driver goes and looks as soon as a primary denies that it is one."""
    # A server that steps down tells its clients to look; one that only says so does not.
    async with MongoStorage(f"{mongo_replica_set}&serverMonitoringMode=poll", collection=collection) as storage:
        yield storage


@pytest.mark.parametrize(("code", "kind", "outcome_unknown"), [
    (10107, UnavailableError, False),  # NotWritablePrimary: the primary has stepped down
    (13435, UnavailableError, False),  # NotPrimaryNoSecondaryOk
    (11602, UnavailableError, False),  # InterruptedDueToReplStateChange
    (91, UnavailableError, False),  # ShutdownInProgress
    (50, UnavailableError, True),  # MaxTimeMSExpired
    (112, UnavailableError, False),  # WriteConflict
    (14031, UnavailableError, False),  # OutOfDiskSpace
    (13, SchemaError, None),  # Unauthorized
    (18, SchemaError, None),  # AuthenticationFailed
    (10334, ValueTooLargeError, None),  # BSONObjectTooLarge
    (2, StorageError, None),  # BadValue
])  # fmt: skip
async def test_what_a_server_refuses_has_the_right_class(
    mongo_server: Server,
    collection: str,
    fail: Callable[..., None],
    code: int,
    kind: type[StorageError],
    outcome_unknown: bool | None,
) -> None:
    url = mongo_server.url_with("retryReads=false&retryWrites=false&serverMonitoringMode=poll")
    async with MongoStorage(url, collection=collection) as storage:
        fail(errorCode=code)
        with pytest.raises(StorageError) as reading:
            await storage.read("k")
        with pytest.raises(StorageError) as writing:
            await storage.write("k", "1")

    assert kind is type(reading.value) is type(writing.value)
    assert code == reading.value.__cause__.details["code"] == writing.value.__cause__.details["code"]
    assert getattr(writing.value, "outcome_unknown", None) == outcome_unknown
    assert not getattr(reading.value, "outcome_unknown", False)


async def test_a_primary_that_steps_down_once_goes_unnoticed(storage: MongoStorage, fail: Callable[..., None]) -> None:
    fail({"times": 1}, errorCode=10107, errorLabels=["RetryableWriteError"])
    await storage.write("k", "2")
    fail({"times": 1}, closeConnection=True)
    record = await storage.read("k")

    assert record is not None
    assert record.value == "2"


async def test_a_write_that_is_cut_off_again_and_again_has_an_unknown_outcome(
    storage: MongoStorage, fail: Callable[..., None]
) -> None:
    storage._collection._timeout = 1.0
    fail(closeConnection=True)
    with pytest.raises(UnavailableError) as caught:
        await storage.write("k", "2")

    assert caught.value.outcome_unknown


async def test_a_majority_that_does_not_confirm_in_time_leaves_the_outcome_unknown(
    storage: MongoStorage, fail: Callable[..., None]
) -> None:
    fail(writeConcernError={"code": 64, "errmsg": "waiting for replication timed out"})
    for call in (storage.write("k", "2"), storage.write_many([Write("k", "3"), Write("l", None)])):
        with pytest.raises(UnavailableError) as caught:
            await call
        assert caught.value.outcome_unknown


# A driver makes two commands of what is longer than 48 MB.
LONG = [Write(f"k{i}", '"' + "x" * 1_000_000 + '"', match=ABSENT) for i in range(60)]


async def test_a_long_batch_that_breaks_off_has_an_unknown_outcome(
    storage: MongoStorage, fail: Callable[..., None]
) -> None:
    storage._collection._timeout = 30.0
    fail({"skip": 1}, errorCode=112)
    with pytest.raises(UnavailableError) as caught:
        await storage.write_many(LONG)
    fail("off")

    assert caught.value.outcome_unknown
    assert await storage.has("k0")
    assert not await storage.has("k59")


async def test_of_a_long_batch_that_is_refused_from_somewhere_on_each_write_has_its_own_result(
    storage: MongoStorage, fail: Callable[..., None]
) -> None:
    storage._collection._timeout = 30.0
    fail({"skip": 1}, errorCode=13)
    results = await storage.write_many(LONG)
    fail("off")
    found = await storage.read_many([write.key for write in LONG])

    assert {str, SchemaError} == {type(result) for result in results}
    assert [write.key in found for write in LONG] == [isinstance(result, str) for result in results]


async def test_before_mongodb_8_one_unknown_outcome_is_that_of_the_batch(
    mongo_replica_set: str, storage: MongoStorage, collection: str, fail: Callable[..., None]
) -> None:
    await storage.check()  # It has made the indexes, which nobody would confirm to the other.
    # A second member, to confirm what is written, there is none.
    url = f"{mongo_replica_set}&w=2&wtimeoutMS=100"
    async with MongoStorage(url, collection=collection, create=False) as unconfirmed:
        unconfirmed._collection.tells_apart = False
        fail(commands=["delete"], errorCode=112)
        for writes, unknown in (
            ([Write("k", None), Write("l", "1")], True),
            ([Write("k", None), Write("l", None)], False),
        ):
            with pytest.raises(UnavailableError, match="cannot now") as caught:
                await unconfirmed.write_many(writes)

            assert unknown == caught.value.outcome_unknown


async def test_a_deletion_of_many_that_breaks_off_has_an_unknown_outcome(
    storage: MongoStorage, fail: Callable[..., None]
) -> None:
    keys = [f"k{i}" for i in range(150)]
    await storage.write_many([Write(key, "1") for key in keys])
    fail({"skip": 1}, errorCode=112)
    with pytest.raises(UnavailableError) as caught:
        await storage.delete_many(keys)

    assert caught.value.outcome_unknown
