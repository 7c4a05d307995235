"""What the contract cannot know: the layout, other programs' keys, broken servers, Sentinel, TLS, URLs."""

from __future__ import annotations

import asyncio
import json
import re
import traceback
from functools import partial

import pytest
from bot_session import open_storage
from bot_session.errors import ConfigurationError, ConflictError, SchemaError, StorageError, UnavailableError
from bot_session.storage import ABSENT, ANY, Write
from bot_session.testing.proxy import Proxy
from bot_session.testing.servers.base import free_port
from bot_session_storage_redis import RedisStorage
from bot_session_storage_redis._links import Single
from bot_session_storage_redis._listing import REMEMBERED, Seen
from bot_session_storage_redis._plain import Plain
from redis import Redis as SyncRedis
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster


@pytest.fixture
async def raw(redis_server):
    """A client beside the storage, on a database of this file's own."""
    async with Redis.from_url(redis_server.url.removesuffix("/0") + "/2") as raw:
        await raw.flushdb()
        yield raw


@pytest.fixture
async def storage(raw, redis_server):
    async with RedisStorage(redis_server.url.removesuffix("/0") + "/2", timeout=2.0) as storage:
        yield storage


# ---------------------------------------------------------------------- grammY and GramIO


async def test_reads_what_grammy_wrote(storage, raw):
    await raw.set("42", '{"count":1}', ex=60)
    record = await storage.read("42")

    assert record.value == '{"count":1}'
    assert 59 < record.ttl <= 60


async def test_writes_the_bytes_that_grammy_writes(storage, raw):
    await storage.write("42", '{"count":1}')

    assert await raw.type("42") == b"string"
    assert await raw.get("42") == b'{"count":1}'
    assert await raw.pttl("42") == -1


async def test_gramio_s_key_prefix_is_a_prefix(raw, redis_server):
    await raw.set("@custom/prefix:123", '{"count":1}', ex=60)
    url = redis_server.url.removesuffix("/0") + "/2?prefix=@custom/prefix:"
    async with open_storage(url.replace("@", "%40")) as storage:
        assert (await storage.read("123")).value == '{"count":1}'


async def test_a_ttl_below_a_second_is_kept_in_milliseconds_rounded_up(storage, raw):
    await storage.write("k", "1", ttl=0.0001)
    await storage.write("l", "1", ttl=0.5004)

    assert 499 <= await raw.pttl("l") <= 501


# ---------------------------------------------------------------------- one document, without a script


async def test_one_document_needs_no_script(storage, raw):
    await raw.config_resetstat()
    version = await storage.write("k", "1", match=ABSENT, ttl=60)
    version = await storage.write("k", "2", match=version)
    record = await storage.read("k")

    assert ("2", version, None) == (record.value, record.version, record.ttl)
    assert not [command for command in await raw.info("commandstats") if "eval" in command]


async def test_a_server_that_knows_no_ifeq_is_asked_once(storage, raw, monkeypatch):
    monkeypatch.setattr("bot_session_storage_redis._plain.IFEQ", b"IFOLD")
    version = await storage.write("k", "1", match=ABSENT)
    await raw.config_resetstat()
    for value in "234":
        version = await storage.write("k", value, match=version)
    with pytest.raises(ConflictError):
        await storage.write("k", "5", match="1")

    assert await raw.get("k") == b"4"
    asked = (await raw.info("commandstats"))["cmdstat_set"]
    assert (3 + 1, 1) == (asked["calls"], asked["failed_calls"])  # those of the script are counted, too


async def test_an_answer_that_is_an_error_leaves_none_for_the_next_command(redis_server, raw):
    await raw.hset("theirs", "field", "value")
    await raw.set("k", "1")
    await raw.execute_command("ACL", "SETUSER", "half", "on", ">hunter2", "~*", "+@all", "-pttl")
    url = redis_server.url.removesuffix("/0") + "/2"
    try:
        async with RedisStorage(url, max_connections=1) as storage:
            for _ in range(3):
                with pytest.raises(SchemaError, match="no string"):
                    await storage.read("theirs")
                assert "1" == (await storage.read("k")).value
                assert await storage.read("l") is None
        async with RedisStorage(url.replace("redis://", "redis://half:hunter2@"), max_connections=1) as storage:
            for _ in range(3):
                with pytest.raises(SchemaError, match="refuses the user"):
                    await storage.read("k")
                assert await storage.has("k")
    finally:
        await raw.execute_command("ACL", "DELUSER", "half")


@pytest.mark.parametrize("there", [True, False])
async def test_what_is_gone_before_its_time_to_live_is_told_was_not_there(storage, raw, there):
    class Interrupted(Single):
        async def send_together(self, *commands):
            answers = []
            for command in commands:
                answers += await super().send_together(command)
                await (raw.delete("k") if there else raw.set("k", "2"))
            return answers

    if there:
        await raw.set("k", "1")
    storage._plain = Plain(Interrupted(raw, 1, 1.0))

    assert await storage.read("k") is None


# ---------------------------------------------------------------------- other programs' keys


@pytest.mark.parametrize("method", ["read", "write", "delete", "touch", "has", "read_many"])
async def test_a_key_of_another_type_is_refused_and_stays(storage, raw, method):
    await raw.hset("k", "field", "value")
    calls = {
        "write": lambda: storage.write("k", "1"),
        "touch": lambda: storage.touch("k", 60.0),
        "read_many": lambda: storage.read_many(["l", "k"]),
    }
    with pytest.raises(SchemaError):
        await calls.get(method, lambda: getattr(storage, method)("k"))()

    assert await raw.hgetall("k") == {b"field": b"value"}
    assert await raw.pttl("k") == -1


async def test_in_a_batch_a_key_of_another_type_is_refused_alone(storage, raw):
    await raw.hset("k", "field", "value")
    results = await storage.write_many([Write("k", "1"), Write("l", "1"), Write("k", None)])

    assert ["k", "k"] == [result.key for result in results if isinstance(result, SchemaError)]
    assert await raw.hgetall("k") == {b"field": b"value"}
    assert await raw.get("l") == b"1"


@pytest.mark.parametrize("foreign", ["a list", b"\xff no text"])
async def test_what_is_written_before_something_else_could_not_be_read_is_told(storage, raw, foreign):
    await (raw.rpush("theirs", foreign) if isinstance(foreign, str) else raw.set("theirs", foreign))
    results, found = await storage.write_then_read(
        [[Write("k", "1")], [Write("k", "2", match=ABSENT)]], ["k", "theirs"]
    )

    assert ["1", ConflictError] == [results[0], type(results[1])]
    assert found is None
    assert await raw.get("k") == b"1"


async def test_bytes_that_are_no_text_are_refused(storage, raw):
    await raw.set("k", b"\xff")
    with pytest.raises(SchemaError) as caught:
        await storage.read("k")

    assert isinstance(caught.value.__cause__, UnicodeDecodeError)


async def test_a_hundred_thousand_other_keys_do_not_hide_ours(storage, raw):
    for start in range(0, 100_000, 10_000):
        await raw.mset({f"other:{i}": "1" for i in range(start, start + 10_000)})
    await storage.write_many([Write(f"ours:{i}", "1") for i in range(50)])
    found = [key async for key in storage.read_all_keys("ours:")]

    assert sorted(f"ours:{i}" for i in range(50)) == sorted(found)


# ---------------------------------------------------------------------- many at a time


async def test_a_listing_remembers_few_keys_and_gives_none_twice_though_the_server_s_table_shrinks(
    storage, raw, monkeypatch
):
    monkeypatch.setattr("bot_session_storage_redis._listing.REMEMBERED", 500)
    ours, others = ([f"{whose}:{n}" for n in range(count)] for whose, count in (("ours", 5_000), ("others", 200_000)))
    for some in (ours, others):
        await raw.mset(dict.fromkeys(some, "1"))
    listed = []
    async for key in storage.read_all_keys("ours:", batch_size=500):
        listed.append(key)
        if others and len(listed) % 50 == 0:
            await raw.unlink(*others[-10_000:])
            del others[-10_000:]

    assert sorted(ours) == sorted(listed)


def test_what_a_listing_remembers_does_not_grow_with_the_database():
    seen, page = Seen(), [b"%d" % n for n in range(1_000)]
    for start in range(0, 300_000, 1_000):
        seen.fresh(b"%d" % (start + n) for n in range(1_000))

    assert len(seen._keys) + len(seen._before) <= 2 * REMEMBERED
    assert page == seen.fresh(page)
    assert [] == seen.fresh(page)


async def test_a_thousand_in_flight_share_a_few_connections(raw, redis_server):
    async with RedisStorage(redis_server.url, max_connections=5) as storage:
        versions = await asyncio.gather(*(storage.write(f"many:{i}", str(i)) for i in range(1_000)))
        assert [str(i) for i in range(1_000)] == versions
        assert await storage.delete_many(f"many:{i}" for i in range(1_000)) == 1_000


async def test_an_injected_pool_that_raises_when_it_is_empty_does_not(redis_server):
    async with Redis.from_url(redis_server.url, max_connections=3) as client:
        storage = RedisStorage(client)
        found = await asyncio.gather(*(storage.read(f"none:{i}") for i in range(200)))

        assert found == [None] * 200


@pytest.mark.parametrize("kind", [ConnectionPool, BlockingConnectionPool])
async def test_a_connection_that_others_hold_is_waited_for(redis_server, kind):
    async with Redis.from_pool(kind.from_url(redis_server.url, max_connections=1)) as client:
        storage = RedisStorage(client, timeout=5.0)
        held = await client.connection_pool.get_connection()
        reading = asyncio.create_task(storage.read("none"))
        await asyncio.wait([reading], timeout=0.05)
        await client.connection_pool.release(held)

        assert await reading is None


@pytest.mark.parametrize("kind", [ConnectionPool, BlockingConnectionPool])
async def test_a_connection_that_others_keep_is_not_waited_for_longer_than_the_timeout(redis_server, kind):
    async with Redis.from_pool(kind.from_url(redis_server.url, max_connections=1)) as client:
        storage = RedisStorage(client, timeout=0.2)
        await storage.open()
        held = await client.connection_pool.get_connection()
        async with asyncio.timeout(2):
            with pytest.raises(UnavailableError) as caught:
                await storage.write("k", "1")
        await client.connection_pool.release(held)

        assert not caught.value.outcome_unknown
        assert await storage.read("k") is None


async def test_two_storages_share_a_pool_of_few_connections(redis_server):
    async with Redis.from_url(redis_server.url, max_connections=2) as client:
        storages = RedisStorage(client), RedisStorage(client)
        found = await asyncio.gather(*(storage.read(f"none:{i}") for i in range(100) for storage in storages))

        assert found == [None] * 200


async def test_sixteen_open_at_once(redis_server):
    storages = [RedisStorage(redis_server.url) for _ in range(16)]
    await asyncio.gather(*(storage.open() for storage in storages))
    results = await asyncio.gather(
        *(storage.write("race", str(i), match=ABSENT) for i, storage in enumerate(storages)), return_exceptions=True
    )
    winners = [result for result in results if not isinstance(result, ConflictError)]

    assert [(await storages[0].read("race")).value] == winners
    await storages[0].delete("race")
    await asyncio.gather(*(storage.close() for storage in storages))


# ---------------------------------------------------------------------- closing


@pytest.mark.parametrize("what", ["write", "conflict", "batch"])
async def test_what_takes_two_commands_comes_to_its_end_when_the_storage_is_closed(storage, raw, what):
    writes = [Write(f"many:{n}", "2") for n in range(2_500)]
    calls = {
        "write": lambda: storage.write("k", "2"),
        "conflict": lambda: storage.write("k", "2", match=ABSENT),
        "batch": lambda: storage.write_many(writes),
    }
    await raw.set("k", "1")
    await storage.open()
    await raw.script_flush()  # scripts are sent in a second command
    call = asyncio.create_task(calls[what]())
    await asyncio.sleep(0)  # it begins
    async with asyncio.timeout(1.5):  # less than that of the storage
        await storage.close()
        [outcome] = await asyncio.gather(call, return_exceptions=True)

    assert {"write": "2", "conflict": outcome, "batch": ["2"] * 2_500}[what] == outcome
    assert (what == "conflict") == isinstance(outcome, ConflictError)
    assert [] == connected(storage)


async def test_closing_that_is_cancelled_comes_to_its_end_and_then_it_can_be_opened_and_closed_again(redis_server, raw):
    storage = RedisStorage(redis_server.url, max_connections=5)
    await storage.open()
    await raw.execute_command("CLIENT", "PAUSE", 300, "ALL")
    reading, closing = asyncio.create_task(storage.read("none")), asyncio.create_task(storage.close())
    await asyncio.wait([closing], timeout=0.05)  # long enough to begin; the server answers after its pause
    closing.cancel()
    await asyncio.wait([closing])

    assert closing.cancelled()
    assert await reading is None
    assert [] == connected(storage)
    async with asyncio.timeout(5):
        await storage.open()
        assert [None] * 20 == await asyncio.gather(*(storage.read(f"none:{n}") for n in range(20)))
        await storage.close()


def connected(storage):
    """The connections of the storage's client that are open."""
    pool = storage._link._pool
    return [connection for connection in pool._available_connections if connection.is_connected]


# ---------------------------------------------------------------------- faults


class BetweenAnswers(Proxy):
    """Cuts the connection between an answer and the number that comes with it, if it is told to."""

    cutting = False

    async def _pump(self, source, target):
        while data := await source.read(65_536):
            first, number, _ = data.partition(b"\r\n:")
            if self.cutting and number:
                target.write(first + b"\r\n")
                break
            target.write(data)
        target.close()


async def test_a_connection_that_is_cut_between_the_answers_of_a_read_leaves_none_for_the_next(raw, redis_server):
    await raw.mset({"k": '"1"', "l": '"2"'})
    port = int(re.search(r":(\d+)/", redis_server.url)[1])
    async with (
        BetweenAnswers("127.0.0.1", port) as proxy,
        RedisStorage(f"redis://127.0.0.1:{proxy.port}/2", max_connections=1) as storage,
    ):
        proxy.cutting = True
        with pytest.raises(UnavailableError) as caught:
            await storage.read("k")
        proxy.cutting = False

        assert not caught.value.outcome_unknown
        assert '"2"' == (await storage.read("l")).value


async def test_a_write_that_is_cut_off_has_an_unknown_outcome_and_is_not_repeated(storage, raw):
    await storage.write("k", "old")
    await raw.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
    writing = asyncio.create_task(storage.write("k", "new", match="old"))
    try:
        async with asyncio.timeout(5):
            while not await is_held_back(raw):
                pass
        await raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(UnavailableError) as caught:
            await writing
    finally:
        await raw.execute_command("CLIENT", "UNPAUSE")

    assert caught.value.outcome_unknown
    assert caught.value.__cause__ is not None
    assert await raw.get("k") == b"old"


@pytest.mark.parametrize("first", ["refused", "cut off"])
async def test_a_batch_of_several_calls_is_in_doubt_if_one_of_them_was_cut_off(redis_cluster, first):
    async with RedisCluster.from_url(redis_cluster.url.replace("+cluster", "")) as raw:
        keys = {raw.get_node_from_key(key).name: key for key in map(str, range(100))}
        (full, refused), (held, cut), *_ = ((raw.get_node(node_name=name), key) for name, key in keys.items())
        async with RedisStorage(redis_cluster.url, timeout=2.0) as storage:
            await storage.write_many([Write(refused, "old"), Write(cut, "old")])
            await full.execute_command("CONFIG", "SET", "maxmemory", "1")
            await held.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
            order = [refused, cut] if first == "refused" else [cut, refused]
            writing = asyncio.create_task(storage.write_many([Write(key, "new") for key in order]))
            try:
                async with asyncio.timeout(5):
                    while not await is_held_back(held):
                        pass
                await held.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                with pytest.raises(UnavailableError) as caught:
                    await writing
            finally:
                await full.execute_command("CONFIG", "SET", "maxmemory", "0")
                await held.execute_command("CLIENT", "UNPAUSE")

    assert caught.value.outcome_unknown


async def is_held_back(raw):
    """Whether the server has a script that it will not run yet."""
    return re.search(rb" flags=\w*b", await raw.execute_command("CLIENT", "LIST"))


async def test_a_refused_connection_is_a_known_outcome(redis_aof_server):
    async with Redis.from_url(redis_aof_server.url) as client, RedisStorage(client) as storage:
        await asyncio.to_thread(redis_aof_server.kill)
        await client.connection_pool.disconnect()
        try:
            with pytest.raises(UnavailableError) as caught:
                await storage.write("k", "1")
        finally:
            await asyncio.to_thread(redis_aof_server.start)

    assert not caught.value.outcome_unknown
    assert caught.value.__cause__ is not None


async def test_the_answer_to_a_cancelled_greeting_is_not_taken_for_another(raw, redis_server):
    await raw.set("k", "1")
    async with Redis.from_url(redis_server.url.removesuffix("/0") + "/2", max_connections=1) as client:
        storage = RedisStorage(client)
        await storage.open()
        await client.connection_pool.disconnect()
        await raw.execute_command("CLIENT", "PAUSE", 300, "ALL")
        reading = asyncio.create_task(storage.read("k"))
        await asyncio.wait([reading], timeout=0.05)  # long enough to greet; the server answers after its pause
        reading.cancel()
        await asyncio.wait([reading])

        assert (await storage.read("k")).value == "1"


async def test_a_replica_refuses_writes_with_a_known_outcome(storage, raw):
    await raw.execute_command("REPLICAOF", "127.0.0.1", 1)
    try:
        with pytest.raises(UnavailableError) as caught:
            await storage.write("k", "1")
    finally:
        await raw.execute_command("REPLICAOF", "NO", "ONE")

    assert not caught.value.outcome_unknown


async def test_a_server_without_memory_refuses_writes_with_a_known_outcome(storage, raw):
    version = await storage.write("old", "1")
    await raw.config_set("maxmemory", "1")
    try:
        refusals = []
        for key, match in [("k", ANY), ("k", ABSENT), ("old", version)]:
            with pytest.raises(UnavailableError) as caught:
                await storage.write(key, "2", match=match)
            refusals.append(caught.value.outcome_unknown)
    finally:
        await raw.config_set("maxmemory", "0")

    assert [False, False, False] == refusals
    assert [b"1", None] == await raw.mget("old", "k")
    await raw.config_resetstat()
    await storage.write("old", "2", match=version)
    assert "cmdstat_evalsha" not in await raw.info("commandstats")  # it is not taken for an older server


async def test_a_user_without_rights_is_told_so(raw, redis_server):
    await raw.execute_command("ACL", "SETUSER", "bot", "on", ">hunter2", "~*", "+ping")
    url = redis_server.url.replace("redis://", "redis://bot:hunter2@")
    try:
        async with RedisStorage(url) as storage:
            with pytest.raises(SchemaError) as caught:
                await storage.read("k")
        with pytest.raises(SchemaError):
            await RedisStorage(url.replace("hunter2", "wrong")).open()
    finally:
        await raw.execute_command("ACL", "DELUSER", "bot")

    assert "hunter2" not in f"{caught.value} {storage!r}"


async def test_an_error_quotes_no_document_though_the_server_that_refuses_a_command_does(storage, raw):
    class Renamed(Single):
        async def send(self, key, *command):
            return await super().send(key, b"RENAMED", *command[1:])

    storage._link, storage._plain = Renamed(raw, 1, 1.0), None
    document = json.dumps({"pin": "0000"})  # which the source does not quote, for the traceback quotes the source
    with pytest.raises(StorageError, match="unknown command 'RENAMED'") as caught:
        await storage.write("k", document)

    assert document not in "".join(traceback.format_exception(caught.value))


async def test_an_error_quotes_no_password_of_the_sentinels():
    storage = RedisStorage(
        f"redis+sentinel://bot:hunter2@127.0.0.1:{free_port()}/bot-session/0",
        sentinel_username="watcher",
        sentinel_password="hunter3",
    )
    with pytest.raises(UnavailableError, match="No master found for 'bot-session'") as caught:
        await storage.open()

    told = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in ("hunter2", "hunter3", "watcher", "Redis(") if secret in told]  # nor the client


async def test_scripts_that_the_server_forgot_are_sent_again(storage, raw):
    await storage.write("k", "1")
    await raw.script_flush()
    await storage.write("k", "2")

    assert await raw.get("k") == b"2"


async def test_a_server_that_hangs_is_an_error_within_the_timeout(redis_server, raw):
    async with RedisStorage(redis_server.url, timeout=0.3) as storage:
        await raw.execute_command("CLIENT", "PAUSE", 10_000, "ALL")
        try:
            with pytest.raises(UnavailableError) as caught:
                await storage.read("k")
        finally:
            # Only a client that is not paused could undo it; a restart would lose the other tests' data.
            redis_server.restart()

    assert isinstance(caught.value.__cause__, TimeoutError)


async def test_what_was_written_survives_a_killed_server_that_syncs_always(redis_aof_server):
    async with RedisStorage(redis_aof_server.url, timeout=2.0) as storage:
        await storage.write("k", "1", ttl=60.0)
        await asyncio.to_thread(redis_aof_server.kill)
        with pytest.raises(UnavailableError):
            await storage.read("k")
        await asyncio.to_thread(redis_aof_server.start)

        assert (await storage.read("k")).value == "1"


async def test_a_listing_during_which_the_server_was_restarted_raises_since_its_cursor_means_nothing_now(
    redis_aof_server,
):
    async with RedisStorage(redis_aof_server.url, timeout=2.0) as storage:
        await storage.write_many([Write(f"listed:{n}", "1") for n in range(1_000)])
        listing = storage.read_all_keys("listed:", batch_size=10)
        await anext(listing)
        await asyncio.to_thread(redis_aof_server.restart)
        await at_last(lambda: storage.has("listed:1"))
        with pytest.raises(UnavailableError, match="begin anew"):
            [key async for key in listing]

        assert 1_000 == await storage.delete_many([key async for key in storage.read_all_keys("listed:")])


async def test_a_listing_during_which_nodes_of_the_cluster_were_restarted_raises(redis_cluster):
    async with RedisStorage(redis_cluster.url, max_connections=1) as storage:
        keys = [f"listed:{n}" for n in range(300)]
        await storage.write_many([Write(key, "1") for key in keys])
        listing = storage.read_all_keys("listed:", batch_size=10)
        await anext(listing)
        await asyncio.to_thread(redis_cluster.restart)
        for key in keys[:50]:  # some of every node
            await at_last(partial(storage.has, key))
        with pytest.raises(UnavailableError, match="begin anew"):
            [key async for key in listing]


async def at_last(operation):
    """Do it until it works: connections that were cut are noticed when they are used."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await operation()
            except UnavailableError:
                continue


# ---------------------------------------------------------------------- Sentinel, TLS, URLs


async def test_a_failover_of_sentinel_s_is_followed_but_by_no_listing_that_has_begun(redis_sentinel):
    async with RedisStorage(redis_sentinel.url, timeout=1.0) as storage:
        await storage.write("before", "1")
        await storage.write_many([Write(f"listed:{n}", "1") for n in range(100)])
        listing = storage.read_all_keys(batch_size=10)
        await anext(listing)
        first = storage._link._pool.master_address
        with SyncRedis(port=int(re.search(r":(\d+)/", redis_sentinel.url)[1])) as sentinel:
            sentinel.sentinel_failover("bot-session")
        async with asyncio.timeout(30):
            while first == storage._link._pool.master_address:
                await at_last(lambda: storage.write("during", "1"))
        assert (await storage.read("before")).value == "1"
        with pytest.raises(UnavailableError, match="begin anew"):
            [key async for key in listing]


async def test_tls(redis_tls_server):
    async with open_storage(f"{redis_tls_server.url}?ssl_ca_certs={redis_tls_server.certificate}") as storage:
        await storage.write("tls", "1")
        assert (await storage.read("tls")).value == "1"
        await storage.delete("tls")


async def test_a_certificate_that_nobody_trusts_is_an_error(redis_tls_server):
    with pytest.raises(UnavailableError):
        await RedisStorage(redis_tls_server.url).open()


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "redis://localhost?nonsense=1",
        "redis://localhost?db=secret",
        "redis+sentinel://localhost",
        "redis+cluster://localhost/1?timeout=secret&db=2",
        "redis://localhost?encoding=secret",
        "redis+cluster://localhost?encoding=secret",
    ],
)
def test_a_wrong_url_is_refused_at_once_without_its_values(url):
    with pytest.raises(ConfigurationError) as caught:
        RedisStorage(url)

    assert "secret" not in str(caught.value)


def test_a_client_of_another_kind_is_refused():
    with pytest.raises(ConfigurationError, match=r"redis\.asyncio"):
        RedisStorage(SyncRedis())


def test_the_repr_has_no_password():
    storage = RedisStorage("redis://user:hunter2@example.org:6380/3")

    assert repr(storage) == "<RedisStorage example.org:6380/3>"
