"""Faults between sessions and real servers: connections that are cut and delayed at random under load."""

import asyncio
import os
import random
import types
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from bot_session import (
    ConflictError,
    DecodeError,
    MigrationError,
    SchemaError,
    Sessions,
    UnavailableError,
    open_storage,
)
from bot_session.migrations import seal_envelope
from bot_session.testing.proxy import Proxy
from redis.asyncio import Redis

SECONDS = float(os.environ.get("BOT_SESSION_TEST_FAULT_SECONDS", "4"))
"""How long each server is troubled; the environment may ask for more."""

# PyMongo leaves a socket to the garbage collector when it is cut off while it connects.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*<socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("sockets_collected"),
    pytest.mark.timeout(SECONDS + 120),
]


@dataclass
class Diary:
    entries: list[int] = field(default_factory=list)


@pytest.fixture(params=["redis", "mongo", "postgres", "supabase"])
async def line(request, make_url, open_url):
    """A proxy before a server, and the URL that leads through it."""
    direct = make_url(request.param)
    await open_url(direct)
    parts = urlsplit(direct)
    async with Proxy(parts.hostname, parts.port) as proxy:
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        through = parts._replace(netloc=f"{login}127.0.0.1:{proxy.port}")
        yield proxy, urlunsplit(through._replace(query=f"{through.query}&timeout=2"))


async def trouble(proxy, until):
    """Cut, delay and refuse at random."""
    chance = random.Random(7)
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        await asyncio.sleep(chance.uniform(0, 0.2))
        match chance.randrange(4):
            case 0 | 1:
                await proxy.cut()
            case 2:
                proxy.delay = chance.uniform(0, 0.05)
            case 3:
                proxy.refusing = True
                await asyncio.sleep(chance.uniform(0, 0.1))
        proxy.refusing, proxy.delay = False, 0


@pytest.mark.parametrize("lock", ["process", "shared"])
async def test_nothing_acknowledged_is_lost_nothing_begins_anew_and_nobody_hangs(line, lock):
    proxy, url = line
    acknowledged = {str(key): [] for key in range(8)}
    failures = []
    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Diary, lock=lock, lease_ttl=0.5)
        for key in acknowledged:
            await sessions.update(key, lambda diary: diary.entries.append(0))
        until = asyncio.get_running_loop().time() + SECONDS

        async def write(worker):
            number = worker * 1_000_000
            while asyncio.get_running_loop().time() < until:
                number += 1
                key = random.choice(list(acknowledged))
                try:
                    async with sessions.open(key) as session:
                        assert not session.is_new
                        assert 0 == session.data.entries[0]
                        session.data.entries.append(number)
                except (UnavailableError, ConflictError) as error:
                    failures.append(error)
                else:
                    acknowledged[key].append(number)

        async with asyncio.timeout(SECONDS + 60):
            await asyncio.gather(trouble(proxy, until), *(write(worker) for worker in range(1, 17)))
        found = {key: (await sessions.read(key)).entries for key in acknowledged}

        assert 0 == len(sessions.desk.locks)
    for key, numbers in acknowledged.items():
        assert [] == [number for number in numbers if number not in set(found[key])]
        assert len(found[key]) == len(set(found[key]))
    assert sum(map(len, acknowledged.values())) > 2 * SECONDS, "hardly anything was written"
    assert failures, "the faults were never felt"


async def test_an_outage_is_told_in_time_and_is_over_when_it_is_over(line):
    proxy, url = line
    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Diary)
        await sessions.update("42", lambda diary: diary.entries.append(1))
        proxy.refusing = True
        await proxy.cut()
        async with asyncio.timeout(15):
            with pytest.raises(UnavailableError) as caught:
                async with sessions.open("42"):
                    pytest.fail("the body ran")

        assert caught.value.__cause__ is not None

        proxy.refusing = False
        async with asyncio.timeout(15), sessions.open("42") as session:
            assert [1] == session.data.entries


async def test_a_slow_server_is_given_up_within_the_timeout(line):
    proxy, url = line
    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Diary)
        await sessions.update("42", lambda diary: diary.entries.append(1))
        proxy.delay = 30
        started = asyncio.get_running_loop().time()
        with pytest.raises(UnavailableError):
            async with sessions.open("42"):
                pytest.fail("the body ran")

        assert asyncio.get_running_loop().time() - started < 8

        proxy.delay = 0
        await proxy.cut()
        async with asyncio.timeout(15), sessions.open("42") as session:
            assert [1] == session.data.entries


# ---------------------------------------------------------------------- cancelling


@types.coroutine
def cancelled_at(number, work):
    """Await ``work`` in a task that is cancelled the given time that it waits for anything; say whether it came so far."""
    step, argument = work.send, None
    waits = 0
    while True:
        try:
            waited_for = step(argument)
        except StopIteration:
            return waits >= number
        waits += 1
        if waits == number:
            asyncio.current_task().cancel()
        try:
            step, argument = work.send, (yield waited_for)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the work
            step, argument = work.throw, error


@pytest.mark.parametrize("lock", ["process", "shared"])
async def test_an_update_that_is_cancelled_at_any_await_leaves_everything_usable(shared_url, lock):
    async with open_storage(shared_url) as storage:
        sessions = Sessions(storage, initial=Diary, lock=lock, lease_ttl=0.5)
        await sessions.update("42", lambda diary: diary.entries.append(0))
        acknowledged = [0]

        async def update(number):
            async with sessions.open("42") as session:
                session.data.entries.append(number)
            acknowledged.append(number)

        number, came_so_far = 0, True
        while came_so_far:
            number += 1
            task = asyncio.create_task(cancelled_at(number, update(number)))
            (came_so_far,) = await asyncio.gather(task, return_exceptions=True)

            # Python 3.11's wait_for, in a driver, may lose a cancellation: then the update went on to its end.
            assert isinstance(came_so_far, (bool, asyncio.CancelledError))
            assert 0 == len(sessions.desk.locks)

            async with asyncio.timeout(15):
                # What was cancelled may still arrive, in between: an update is repeated then.
                await sessions.update("42", lambda diary, number=number: diary.entries.append(-number))
            acknowledged.append(-number)
        found = (await sessions.read("42")).entries

        assert number > 2, "an update waits for reading and for writing"
        assert acknowledged == [entry for entry in found if entry in set(acknowledged)]
        assert len(found) == len(set(found))


# ---------------------------------------------------------------------- documents


@pytest.mark.parametrize("lock", ["process", "shared"])
@pytest.mark.parametrize(
    ("document", "kind"),
    [('"no diary"', DecodeError), (seal_envelope('{"entries":[1]}', Decimal(9)), MigrationError)],
    ids=["broken", "newer"],
)
async def test_a_document_that_the_code_does_not_understand_is_an_error_and_stays(shared_url, document, kind, lock):
    async with open_storage(shared_url) as storage:
        sessions = Sessions(storage, initial=Diary, lock=lock, migrations={1: lambda data: data})
        await storage.write("42", document)
        before = await storage.read("42")
        with pytest.raises(kind) as caught:
            async with sessions.open("42"):
                pytest.fail("the body ran")
        with pytest.raises(kind):
            await sessions.update("42", lambda diary: diary.entries.append(2))

        assert "42" == caught.value.key
        assert before == await storage.read("42")
        assert ["42"] == [key async for key in storage.read_all_keys()]

        await sessions.delete("42")
        await sessions.update("42", lambda diary: diary.entries.append(3))

        assert [3] == (await sessions.read("42")).entries


# ---------------------------------------------------------------------- refusing


@asynccontextmanager
async def redis_that(url, refuse, relent):
    async with Redis.from_url(url.partition("?")[0]) as server:
        await server.execute_command(*refuse)
        try:
            yield
        finally:
            await server.execute_command(*relent)


@asynccontextmanager
async def postgres_that(url, refuse, relent):
    address, _, table = url.partition("?table=")
    server = await asyncpg.connect(address)
    try:
        await server.execute(refuse.format(table))
        try:
            yield
        finally:
            await server.execute(relent.format(table))
    finally:
        await server.close()


@asynccontextmanager
async def postgres_read_only(url, setting, value):
    """Make all of it read-only, for the connections that there are too."""

    async def set_to(value):
        await server.execute(f"ALTER SYSTEM SET {setting} = {value}")
        await server.execute("SELECT pg_reload_conf()")
        now = None
        while now != value:  # A new connection sees it when the old ones have been told.
            probe = await asyncpg.connect(url.partition("?")[0])
            now = await probe.fetchval(f"SHOW {setting}")
            await probe.close()

    server = await asyncpg.connect(url.partition("?")[0])
    try:
        await set_to(value)
        try:
            yield
        finally:
            await server.execute("SET default_transaction_read_only = off")
            await set_to("off")
    finally:
        await server.close()


RAISING = """
CREATE FUNCTION {{0}}_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{state}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON {{0}} FOR EACH ROW EXECUTE FUNCTION {{0}}_refuse()"""
NO_MORE = "DROP FUNCTION {0}_refuse CASCADE"
REFUSALS = {
    "Redis, a read-only replica": (
        "redis", redis_that, ("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"), UnavailableError,
    ),
    "Redis, out of memory": (
        "redis", redis_that, ("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0), UnavailableError,
    ),
    "Redis, a user without the right to write": (
        "redis", redis_that, ("ACL", "SETUSER", "default", "-set"), ("ACL", "SETUSER", "default", "+@all"), SchemaError,
    ),
    "PostgreSQL, read-only": (
        "postgres", postgres_read_only, "default_transaction_read_only", "on", UnavailableError,
    ),
    "PostgreSQL, disk full": (
        "postgres", postgres_that, RAISING.format(state="53100"), NO_MORE, UnavailableError,
    ),
    "PostgreSQL, a user without the right to write": (
        "postgres", postgres_that, RAISING.format(state="42501"), NO_MORE, SchemaError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("lock", ["process", "shared"])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_server_that_refuses_to_write_is_an_error_until_it_takes_it_again(make_url, refusal, lock):
    name, server_that, refuse, relent, kind = REFUSALS[refusal]
    url = make_url(name)
    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Diary, lock=lock, on_conflict="raise")
        await sessions.update("42", lambda diary: diary.entries.append(1))
        async with server_that(url, refuse, relent):
            async with asyncio.timeout(8):
                with pytest.raises(kind) as caught:
                    await sessions.update("42", lambda diary: diary.entries.append(2))

            assert caught.value.__cause__ is not None
            assert not getattr(caught.value, "outcome_unknown", False)
            assert [1] == (await sessions.read("42")).entries
        async with asyncio.timeout(8), sessions.open("42") as session:
            session.data.entries.append(3)

        assert [1, 3] == (await sessions.read("42")).entries
        assert 0 == len(sessions.desk.locks)
