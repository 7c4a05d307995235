from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import aiosqlite
import pytest
from bot_session import open_storage
from bot_session.errors import (
    ClosedError,
    ConfigurationError,
    ConflictError,
    SchemaError,
    StorageError,
    UnavailableError,
    UnsupportedError,
)
from bot_session.storage import ABSENT, PRESENT, Write
from bot_session_storage_sqlite import SQLiteStorage

GRAMIO = "CREATE TABLE gramio_storage (key TEXT PRIMARY KEY, value JSONB NOT NULL, expires_at BIGINT)"
D1 = 'CREATE TABLE "GrammySessions" (key TEXT PRIMARY KEY, value TEXT)'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bot.db"


def execute(path, statement, values=()):
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


# ---------------------------------------------------------------------- the layout


async def test_the_layout_is_three_plain_columns(path):
    async with SQLiteStorage(path, clock=Clock(1000.0)) as storage:
        await storage.write("42", '{"count":1}')
        await storage.write("43", "true", ttl=0.5)

    assert execute(path, "SELECT * FROM sessions ORDER BY key") == [("42", '{"count":1}', None), ("43", "true", 1000.5)]


async def test_the_printed_ddl_makes_what_open_makes(path, tmp_path):
    async with SQLiteStorage(path) as storage:
        with closing(sqlite3.connect(tmp_path / "by_hand.db")) as connection:
            connection.executescript(storage.ddl())
    schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"

    assert execute(tmp_path / "by_hand.db", schema) == execute(path, schema)
    async with SQLiteStorage(tmp_path / "by_hand.db", create=False) as storage:
        assert await storage.read("42") is None


async def test_purge_finds_expired_rows_by_index(path):
    clock = Clock(1000.0)
    async with SQLiteStorage(path, clock=clock) as storage:
        await storage.write_many([Write(f"{i}", "0", 1.0) for i in range(1_234)] + [Write("stays", "0")])
        clock.now = 1001.0
        purged = await storage.purge()
        plan = execute(path, "EXPLAIN QUERY PLAN SELECT key FROM sessions AS t WHERE t.expires_at <= 1001")

    assert purged == 1_234
    assert execute(path, "SELECT key FROM sessions") == [("stays",)]
    assert "USING INDEX sessions_expires_at" in plan[0][3]


@pytest.mark.parametrize("name", ["order", "my-sessions", 'My"Sessions', "sessions; DROP TABLE x", "{key}", "a.b", "é"])
async def test_any_name_is_quoted(path, name):
    options = {"table": name, "key_column": name + "k", "value_column": name + "v", "expires_column": name + "e"}
    async with SQLiteStorage(path, **options) as storage:
        await storage.write("42", "1", ttl=60.0, match=ABSENT)
        version = await storage.write("42", "2", ttl=60.0, match=PRESENT)
        await storage.write("42", "3", match=version)
        await storage.touch("42", 60.0)
        entries = [(key, record.value) async for key, record in storage.read_all_entries()]
        await storage.purge()

        assert entries == [("42", "3")]
    assert (name,) in execute(path, "SELECT name FROM sqlite_schema")


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
async def test_a_new_database_is_private_and_an_old_one_keeps_its_rights(path, tmp_path):
    old = tmp_path / "old.db"
    execute(old, "CREATE TABLE other (x)")
    old.chmod(0o644)
    async with SQLiteStorage(path) as storage, SQLiteStorage(old) as other:
        await storage.write("42", "1")
        await other.write("42", "1")
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}

    assert {name: mode for name, mode in modes.items() if name.startswith("bot")} == {
        "bot.db": 0o600,
        "bot.db-wal": 0o600,
        "bot.db-shm": 0o600,
    }
    assert modes["old.db"] == 0o644


# ---------------------------------------------------------------------- tables of others


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ('{"count":1}', '{"count":1}'),
        ("0", "0"),
        ("false", "false"),
        ('""', '""'),
        ("null", "null"),
        ("42", "42"),
        ("1.0", "1"),
        ("0.1", "0.1"),
        ("12345678901234567890", "12345678901234567168"),
        ("1e21", "1e+21"),
    ],
)
async def test_what_gramio_wrote_is_read_and_can_be_replaced(path, theirs, ours):
    execute(path, GRAMIO)
    execute(path, "INSERT INTO gramio_storage VALUES ('123', ?, NULL)", (theirs,))
    async with SQLiteStorage(path, table="gramio_storage") as storage:
        record = await storage.read("123")
        exists = await storage.has("123")
        await storage.write("123", '{"ours":1}', match=record.version)

    assert (ours, True) == (record.value, exists)
    assert execute(path, "SELECT value, typeof(value) FROM gramio_storage") == [('{"ours":1}', "text")]


@pytest.mark.parametrize("document", ["42", " 42", "-1", "1.5", "1e5", "-0.0", "9223372036854775807", "0.1", "1e300"])
async def test_a_number_in_gramios_table_stays_the_same_number(path, document):
    execute(path, GRAMIO)
    async with SQLiteStorage(path, table="gramio_storage") as storage:
        version = await storage.write("123", document)
        record = await storage.read("123")
        await storage.write("123", document, match=version)
        await storage.write("123", "[]", match=record.version if float(record.value) == 42 else version)

    assert float(document) == float(record.value)


@pytest.mark.parametrize("document", ["12345678901234567890", "-9223372036854775809", "1e999", "9" * 5_000])
async def test_a_number_that_gramios_table_would_change_is_refused(path, document):
    execute(path, GRAMIO)
    async with SQLiteStorage(path, table="gramio_storage") as storage:
        with pytest.raises(UnsupportedError, match="would change this number"):
            await storage.write("123", document)

        assert await storage.read("123") is None
        await storage.write("123", f"[{document}]")


async def test_gramios_deadlines_are_whole_seconds_rounded_up(path):
    execute(path, GRAMIO)
    clock = Clock(1000.25)
    async with SQLiteStorage(path, table="gramio_storage", clock=clock) as storage:
        await storage.write("123", "[]", ttl=1.0)
        stored = execute(path, "SELECT expires_at, typeof(expires_at) FROM gramio_storage")
        clock.now = 1001.999
        before = await storage.has("123")
        clock.now = 1002.0
        after = await storage.has("123")

        assert storage.capabilities.ttl_resolution == 1.0
    assert stored == [(1002, "integer")]
    assert (before, after) == (True, False)


async def test_grammys_d1_table_works_until_a_ttl_is_asked_for(path):
    execute(path, D1)
    execute(path, "INSERT INTO GrammySessions VALUES ('42', '{\"count\":1}'), ('null', NULL)")
    async with SQLiteStorage(path, table="GrammySessions") as storage:
        record = await storage.read("42")
        await storage.write("42", '{"count":2}', match=record.version)
        await storage.write("null", "1", match=ABSENT)
        with pytest.raises(SchemaError) as caught:
            await storage.write("42", "3", ttl=60.0)

        assert await storage.touch("42", None)
        assert await storage.purge() == 0
    statement = 'ALTER TABLE "GrammySessions" ADD COLUMN "expires_at" REAL;'
    assert statement in str(caught.value)
    assert "stop all that use it" in str(caught.value)
    assert execute(path, "SELECT * FROM GrammySessions ORDER BY key") == [("42", '{"count":2}'), ("null", "1")]

    execute(path, statement)
    async with SQLiteStorage(path, table="GrammySessions") as storage:
        await storage.write("42", "3", ttl=60.0)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("key TEXT COLLATE NOCASE PRIMARY KEY", "is compared as NOCASE"),
        ("key TEXT COLLATE RTRIM UNIQUE", "is compared as RTRIM"),
        ("key INTEGER PRIMARY KEY", "takes text for numbers"),
        ("key NUMERIC PRIMARY KEY", "takes text for numbers"),
        ("key STRING PRIMARY KEY", "takes text for numbers"),
        ("key TEXT", 'CREATE UNIQUE INDEX "sessions_key" ON "sessions" \\("key"\\);'),
        ("key TEXT, x TEXT, UNIQUE (key, x)", "could hold a key twice"),
    ],
)
async def test_a_key_column_that_does_not_keep_keys_apart_is_refused(path, column, message):
    execute(path, f"CREATE TABLE sessions (value TEXT, expires_at REAL, {column})")
    with pytest.raises(SchemaError, match=message):
        await SQLiteStorage(path).open()


async def test_a_second_unique_index_that_confuses_keys_is_refused(path):
    execute(path, "CREATE TABLE sessions (key TEXT PRIMARY KEY, value TEXT)")
    execute(path, "CREATE UNIQUE INDEX theirs ON sessions (key COLLATE NOCASE)")
    with pytest.raises(SchemaError, match="is compared as NOCASE"):
        await SQLiteStorage(path).open()


@pytest.mark.parametrize(
    "columns",
    [
        "key PRIMARY KEY, value",
        "Key VARCHAR(255) UNIQUE, value TEXT",
        "key BLOB PRIMARY KEY, value TEXT",
        "key TEXT, value TEXT, PRIMARY KEY (key)",
    ],
)
async def test_a_key_column_that_keeps_text_as_it_is_will_do(path, columns):
    execute(path, f"CREATE TABLE sessions ({columns})")
    keys = ["007", "7", "Foo", "foo", "foo "]
    async with SQLiteStorage(path) as storage:
        await storage.write_many([Write(key, f'"{key}"') for key in keys])
        found = {key: record.value async for key, record in storage.read_all_entries()}

    assert found == {key: f'"{key}"' for key in keys}


async def test_a_version_is_compared_exactly_whatever_the_column_makes_of_case(path):
    execute(path, "CREATE TABLE sessions (key TEXT PRIMARY KEY, value TEXT COLLATE NOCASE, expires_at REAL)")
    async with SQLiteStorage(path) as storage:
        version = await storage.write("42", '"a"')
        await storage.write("42", '"A"')
        with pytest.raises(ConflictError):
            await storage.write("42", '"b"', match=version)
        with pytest.raises(ConflictError):
            await storage.delete("42", match=version)


@pytest.mark.parametrize("declared", ["TEXT", "VARCHAR(20)"])
async def test_a_column_of_text_for_deadlines_is_refused(path, declared):
    execute(path, f"CREATE TABLE sessions (key TEXT PRIMARY KEY, value TEXT, expires_at {declared})")
    with pytest.raises(SchemaError, match="deadlines are numbers"):
        await SQLiteStorage(path).open()
    async with SQLiteStorage(path, expires_column=None) as storage:
        await storage.write("42", "1")


@pytest.mark.parametrize("declared", ["DATETIME", "TIMESTAMP", "REAL", "BLOB"])
async def test_a_deadline_that_is_text_is_an_error_and_can_be_overwritten(path, declared):
    execute(path, f"CREATE TABLE sessions (key TEXT PRIMARY KEY, value TEXT, expires_at {declared})")
    execute(path, "INSERT INTO sessions VALUES ('42', '1', '2020-01-01 00:00:00')")
    async with SQLiteStorage(path) as storage:
        absent = storage.write("42", "2", match=ABSENT)
        for call in (storage.read("42"), storage.has("42"), storage.read_many(["42"]), absent):
            with pytest.raises(SchemaError, match=r"'expires_at' of the table 'sessions' holds a str.*unixepoch"):
                await call
        with pytest.raises(SchemaError, match="seconds since 1970"):
            [key async for key in storage.read_all_keys()]
        await storage.write("42", "2", ttl=60.0)

        assert 59.0 < (await storage.read("42")).ttl <= 60.0


async def test_a_database_in_another_encoding_is_refused(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(SchemaError, match="UTF-16le, sessions need UTF-8"):
        await SQLiteStorage(path).open()


# ---------------------------------------------------------------------- several processes


COUNTER = """
import asyncio, sys
from bot_session.errors import ConflictError
from bot_session.storage import ABSENT
from bot_session_storage_sqlite import SQLiteStorage

async def main():
    async with SQLiteStorage(sys.argv[1], timeout=30.0) as storage:
        for _ in range(int(sys.argv[2])):
            while True:
                record = await storage.read("counter")
                value, match = ("1", ABSENT) if record is None else (str(int(record.value) + 1), record.version)
                try:
                    await storage.write("counter", value, match=match)
                except ConflictError:
                    continue
                break

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""


@pytest.mark.parametrize(("processes", "times"), [(16, 1), (4, 50)])
def test_processes_that_open_a_new_database_together_lose_no_update(path, processes, times):
    command = [sys.executable, "-c", COUNTER, path, str(times)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    ready = [child.stdout.readline() for child in children]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=60)

    assert ready == ["ready\n"] * processes
    assert [0] * processes == [child.returncode for child in children]
    assert execute(path, "SELECT * FROM sessions") == [("counter", str(processes * times), None)]


async def test_instances_that_open_a_new_database_together_all_can(path):
    storages = [SQLiteStorage(path) for _ in range(16)]
    await asyncio.gather(*(storage.write(str(i), "1") for i, storage in enumerate(storages)))
    await asyncio.gather(*(storage.close() for storage in storages))

    assert execute(path, "SELECT count(*) FROM sessions") == [(16,)]


WRITER = """
import asyncio, sys
from bot_session.storage import Write
from bot_session_storage_sqlite import SQLiteStorage

async def main():
    async with SQLiteStorage(sys.argv[1]) as storage:
        for i in range(10_000_000):
            await storage.write_many([Write(f"a{i}", "1"), Write(f"b{i}", "1")])
            sys.stdout.write(f"{i}\\n")
            sys.stdout.flush()

asyncio.run(main())
"""


async def test_what_was_written_survives_a_killed_process_and_batches_are_whole(path):
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, path, stdout=asyncio.subprocess.PIPE, limit=2**24
    )
    for _ in range(200):
        await child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    rest = (await child.communicate())[0].decode().split("\n")[:-1]
    reported = 200 + len(rest)
    async with SQLiteStorage(path) as storage:
        firsts, seconds = [[key[1:] async for key in storage.read_all_keys(letter)] for letter in "ab"]

    assert child.returncode == -signal.SIGKILL
    assert firsts == seconds
    assert reported <= len(firsts) <= reported + 1
    assert execute(path, "PRAGMA integrity_check") == [("ok",)]


async def test_own_connections_sync_every_commit(path):
    async with SQLiteStorage(path) as storage:
        (mode,) = await (await storage._database.connection.execute("PRAGMA journal_mode")).fetchone()
        (synchronous,) = await (await storage._database.connection.execute("PRAGMA synchronous")).fetchone()

    assert (mode, synchronous) == ("wal", 2)


def test_a_program_that_forgets_to_close_ends(path):
    program = f"""
import asyncio
from bot_session_storage_sqlite import SQLiteStorage
storage = SQLiteStorage({str(path)!r})
asyncio.run(storage.write("42", "1"))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)

    assert execute(path, "SELECT key FROM sessions") == [("42",)]


# ---------------------------------------------------------------------- faults


async def test_a_locked_database_is_unavailable_after_the_timeout_and_can_be_read(path):
    async with SQLiteStorage(path, timeout=0.1) as storage:
        await storage.write("42", "1")
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(UnavailableError, match="locked") as caught:
                await storage.write("42", "2")
            record = await storage.read("42")
        await storage.write("42", "3", match=record.version)

    assert caught.value.retryable
    assert not caught.value.outcome_unknown
    assert (caught.value.operation, caught.value.key) == ("write", "42")


async def test_all_that_wait_for_another_programs_lock_give_up_together_and_reads_pass(path):
    async with SQLiteStorage(path, timeout=0.5) as storage:
        await storage.write("42", "1")
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            start = time.monotonic()
            writes = [asyncio.create_task(storage.write(f"{i}", "2")) for i in range(8)]
            await asyncio.sleep(0.05)
            record = await storage.read("42")
            waiting = [not write.done() for write in writes]
            results = await asyncio.gather(*writes, return_exceptions=True)
            elapsed = time.monotonic() - start

    assert record.value == "1"
    assert [True] * 8 == waiting
    assert [UnavailableError] * 8 == [type(result) for result in results]
    assert 0.5 <= elapsed < 2.0


async def test_all_that_wait_for_another_programs_lock_write_when_it_is_gone(path):
    async with SQLiteStorage(path, timeout=30.0) as storage:
        await storage.open()
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            writes = [asyncio.create_task(storage.write(f"{i}", "1")) for i in range(8)]
            assert not (await asyncio.wait(writes, timeout=0.05))[0]
            writes[0].cancel()
            other.rollback()
        await asyncio.wait(writes)
        keys = {key async for key in storage.read_all_keys()}

    assert keys == {f"{i}" for i in range(1, 8)}


async def test_a_full_disk_is_unavailable_and_writes_nothing(path):
    async with SQLiteStorage(path) as storage:
        await storage.write("42", "1")
        await (await storage._database.connection.execute("PRAGMA max_page_count = 10")).fetchone()
        with pytest.raises(UnavailableError, match="full"):
            await storage.write_many([Write("42", "2"), Write("43", '"' + "x" * 100_000 + '"')])

        assert (await storage.read("42")).value == "1"
        await storage.write("42", "3")


LIMITED = """
import asyncio, resource, sys
from bot_session.errors import UnavailableError
from bot_session_storage_sqlite import SQLiteStorage

async def main():
    async with SQLiteStorage(sys.argv[1]) as storage:
        await storage.write("42", "1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            await storage.write("42", '"' + "x" * 200_000 + '"')
        except UnavailableError as error:
            print(error.outcome_unknown, (await storage.read("42")).value)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await storage.write("42", "3")

asyncio.run(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_commit_that_fails_has_an_unknown_outcome_and_leaves_the_storage_usable(path):
    done = subprocess.run([sys.executable, "-c", LIMITED, path], check=True, timeout=30, capture_output=True, text=True)

    assert done.stdout == "True 1\n"
    assert execute(path, "SELECT value FROM sessions") == [("3",)]


async def test_a_read_only_database_can_be_read(path):
    async with SQLiteStorage(path) as storage:
        await storage.write("42", "1")
    async with (
        aiosqlite.connect(f"{path.as_uri()}?mode=ro", uri=True) as connection,
        SQLiteStorage(connection) as storage,
    ):
        with pytest.raises(SchemaError, match="readonly"):
            await storage.write("42", "2")

        assert (await storage.read("42")).value == "1"


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (lambda path: path.write_bytes(b"no database " * 1_000), {}, "not a database"),
        (lambda path: path.mkdir(), {}, "unable to open"),
        (lambda path: None, {"create": False}, "unable to open"),
        (lambda path: execute(path, D1), {"create": False}, 'CREATE TABLE IF NOT EXISTS "sessions"'),
        (lambda path: execute(path, "CREATE TABLE sessions (id TEXT, value TEXT)"), {}, "no column 'key' but 'id'"),
    ],
)
async def test_what_cannot_be_opened_says_why(path, prepare, options, message):
    prepare(path)
    storage = SQLiteStorage(path, **options)
    with pytest.raises(SchemaError, match=message):
        await storage.open()
    with pytest.raises(SchemaError, match=message):
        await storage.read("42")


async def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SchemaError, match=r"missing.*folder of the database must exist"):
        await SQLiteStorage(tmp_path / "missing" / "bot.db").open()


async def test_a_damaged_database_is_an_error_and_never_a_miss(path):
    async with SQLiteStorage(path) as storage:
        await storage.write_many([Write(f"{i}", '"' + "x" * 500 + '"') for i in range(500)])
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    async with SQLiteStorage(path) as storage:
        with pytest.raises(StorageError, match="malformed") as caught:
            await storage.read("42")

    assert not caught.value.retryable


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE sessions",
        "ALTER TABLE sessions RENAME COLUMN value TO v",
        "ALTER TABLE sessions RENAME COLUMN key TO k",
    ],
)
async def test_a_table_that_goes_missing_is_an_error_that_names_the_statement(path, statement):
    async with SQLiteStorage(path) as storage:
        await storage.write("42", "1")
        execute(path, statement)
        for call in (storage.read("42"), storage.has("42"), storage.write("42", "2"), storage.read_many(["42"])):
            with pytest.raises(SchemaError, match='CREATE TABLE IF NOT EXISTS "sessions"'):
                await call


async def test_a_file_that_is_not_in_its_place_any_more_is_unavailable_and_never_a_miss(path, tmp_path):
    async with SQLiteStorage(path) as storage:
        await storage.write("42", "1")
        path.rename(tmp_path / "moved.db")
        for call in (storage.read("43"), storage.has("42"), storage.write("42", "2"), storage.read_many(["42"])):
            with pytest.raises(UnavailableError, match="moved, deleted or replaced") as caught:
                await call
            assert isinstance(caught.value.__cause__, FileNotFoundError)
        (tmp_path / "moved.db").rename(path)
        record = await storage.read("42")
        path.unlink()
        path.touch()
        with pytest.raises(UnavailableError, match=r"there is another file now\): close the storage"):
            await storage.read("42")

    assert record.value == "1"


async def test_a_storage_keeps_its_file_when_the_current_folder_changes(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    storage = SQLiteStorage("bot.db")
    await storage.write("42", "1")
    await storage.close()
    monkeypatch.chdir("elsewhere")
    async with storage:
        record = await storage.read("42")

    assert record.value == "1"


async def test_bytes_in_the_table_are_an_error_and_never_a_miss(path):
    async with SQLiteStorage(path) as storage:
        execute(path, "INSERT INTO sessions VALUES ('42', X'7B7D', NULL)")
        with pytest.raises(SchemaError, match="CAST"):
            await storage.read("42")


async def test_half_a_character_is_refused(path):
    async with SQLiteStorage(path) as storage:
        with pytest.raises(UnsupportedError):
            await storage.write("42", '"\ud800"')


# ---------------------------------------------------------------------- other event loops, other processes


class Gate:
    """A clock that keeps the connection's thread until it is opened."""

    def __init__(self):
        self.reached, self.open = threading.Event(), threading.Event()
        self.open.set()

    def __call__(self):
        self.reached.set()
        self.open.wait(30)
        return time.time()


async def leave_a_write_behind(storage, gate):
    """What asyncio.run ends while a write is under way."""
    await storage.write("42", "1")
    gate.reached.clear()
    gate.open.clear()
    leaving = asyncio.create_task(storage.write("43", "2"))
    await asyncio.to_thread(gate.reached.wait, 30)
    assert not leaving.done()


async def in_time(call):
    async with asyncio.timeout(10):
        return await call


ended_thread = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
whenever_it_ends = pytest.mark.parametrize("delay", [0.0, 0.3], ids=["ended before", "ends meanwhile"])


@ended_thread
@whenever_it_ends
@pytest.mark.parametrize("database", ["bot.db", ":memory:"])
def test_a_storage_outlives_an_event_loop_that_was_closed_while_it_wrote(tmp_path, monkeypatch, database, delay):
    monkeypatch.chdir(tmp_path)
    gate = Gate()
    storage = SQLiteStorage(database, clock=gate)

    async def go_on():
        records = await asyncio.gather(*(in_time(storage.read("42")) for _ in range(8)))
        await in_time(storage.write("44", "3"))
        keys = {key async for key in storage.read_all_keys()}
        await in_time(storage.close())
        return {record.value for record in records}, keys

    asyncio.run(leave_a_write_behind(storage, gate))
    timer = threading.Timer(delay, gate.open.set)
    timer.start()
    if not delay:
        timer.join()
        time.sleep(0.1)
    values, keys = asyncio.run(go_on())

    assert values == {"1"}
    assert keys == {"42", "43", "44"}


@ended_thread
@whenever_it_ends
def test_what_was_left_by_an_event_loop_is_closed_for_good(path, delay):
    gate = Gate()
    storage = SQLiteStorage(path, clock=gate)
    asyncio.run(leave_a_write_behind(storage, gate))
    threading.Timer(delay, gate.open.set).start()
    asyncio.run(in_time(storage.close()))

    assert [path] == list(path.parent.iterdir())  # The last connection takes -wal and -shm with it.
    assert execute(path, "SELECT key FROM sessions ORDER BY key") == [("42",), ("43",)]


@ended_thread
def test_a_given_connection_that_an_event_loop_has_left_is_closed(path):
    gate = Gate()
    connection = aiosqlite.connect(path, check_same_thread=False)
    storage = SQLiteStorage(connection, clock=gate)

    async def begin():
        await connection
        await leave_a_write_behind(storage, gate)

    async def go_on():
        for call in (storage.read("42"), storage.write("42", "2"), SQLiteStorage(connection).read("42")):
            with pytest.raises(ClosedError, match="make another connection"):
                await in_time(call)
        await in_time(storage.close())

    asyncio.run(begin())
    threading.Timer(0.1, gate.open.set).start()
    asyncio.run(go_on())
    connection._connection.close()
    connection._connection = None


FORKED = """
import asyncio, os, sys
from bot_session.errors import ClosedError
from bot_session_storage_sqlite import SQLiteStorage

async def use(storage):
    try:
        async with asyncio.timeout(10):
            await storage.read("42")
    except ClosedError as error:
        print("after the fork" in str(error), flush=True)

storage = SQLiteStorage(sys.argv[1])
loop = asyncio.new_event_loop()
loop.run_until_complete(storage.write("42", "1"))
child = os.fork()
if not child:
    loop.run_until_complete(use(storage))
    asyncio.run(use(storage))
    asyncio.run(storage.close())
    asyncio.run(storage.__aenter__()) if sys.argv[2] == "again" else None
    os._exit(0)
status = os.waitpid(child, 0)[1]
print(loop.run_until_complete(storage.read("42")).value, os.waitstatus_to_exitcode(status), flush=True)
loop.run_until_complete(storage.close())
loop.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(("more", "status"), [("close", 0), ("again", 1)])
def test_a_child_process_is_told_to_open_its_own_storage(path, more, status):
    command = [sys.executable, "-W", "ignore", "-c", FORKED, path, more]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)

    assert done.stdout == f"True\nTrue\n1 {status}\n"


# ---------------------------------------------------------------------- a connection of the user's


@pytest.mark.parametrize("isolation_level", [None, "DEFERRED", "EXCLUSIVE"])
async def test_a_given_connection_keeps_its_settings(path, isolation_level):
    async with aiosqlite.connect(path, isolation_level=isolation_level) as connection:
        connection.row_factory = lambda cursor, row: {cursor.description[0][0]: row[0]}
        connection.text_factory = bytes
        async with SQLiteStorage(connection) as storage:
            await storage.write("42", "1", ttl=60.0)
            record = await storage.read("42")
            with pytest.raises(ConflictError):
                await storage.write("42", "2", match=ABSENT)
        row = await (await connection.execute("SELECT key FROM sessions")).fetchone()

        assert record.value == "1"
        assert row["key"] == b"42"
        assert isolation_level == connection.isolation_level
        assert not connection.in_transaction


async def test_writes_wait_for_the_end_of_the_users_transaction(path):
    async with aiosqlite.connect(path) as connection, SQLiteStorage(connection) as storage:
        await connection.execute("CREATE TABLE theirs (x)")
        await connection.execute("INSERT INTO theirs VALUES (1)")
        writing = asyncio.create_task(storage.write("42", "1"))
        assert not (await asyncio.wait([writing], timeout=0.05))[0]
        assert await storage.read("42") is None
        await connection.rollback()
        await writing

    assert execute(path, "SELECT key FROM sessions") == [("42",)]
    assert execute(path, "SELECT * FROM theirs") == []


async def test_a_transaction_of_the_user_that_does_not_end_is_unavailable(path):
    async with aiosqlite.connect(path) as connection, SQLiteStorage(connection, timeout=0.05) as storage:
        await connection.execute("BEGIN")
        with pytest.raises(UnavailableError, match="transaction that is not ours"):
            await storage.write("42", "1")


async def test_those_behind_others_on_a_given_connection_do_not_wait_as_long_again(path):
    execute(path, "PRAGMA journal_mode = WAL")
    async with aiosqlite.connect(path, timeout=0.3) as connection, SQLiteStorage(connection, timeout=0.2) as storage:
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            start = time.monotonic()
            writes = [storage.write(f"{i}", "1") for i in range(10)]
            results = await asyncio.gather(*writes, return_exceptions=True)
            elapsed = time.monotonic() - start
        await storage.write("42", "1")

    assert [UnavailableError] * 10 == [type(result) for result in results]
    assert 0.3 <= elapsed < 1.5


async def test_a_given_connection_may_convert_declared_types(path):
    execute(path, "CREATE TABLE sessions (key TEXT PRIMARY KEY, value date, expires_at timestamp)")
    detect = sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES
    async with aiosqlite.connect(path, detect_types=detect) as connection, SQLiteStorage(connection) as storage:
        await storage.write("42", '"a"', ttl=60.0)
        record = await storage.read("42")
        many = await storage.read_many(["42"])
        entries = [entry async for entry in storage.read_all_entries()]

        assert await storage.has("42")
    assert record.value == '"a"'
    assert 59.0 < record.ttl <= 60.0
    assert [key for key, _ in entries] == list(many) == ["42"]


async def test_a_wrong_value_is_not_taken_for_a_closed_connection(path):
    class Broken(Clock):
        def __call__(self):
            raise ValueError("no time")

    with pytest.raises(StorageError, match="no time") as caught:
        await SQLiteStorage(path, clock=Broken(0.0)).read("42")

    assert not isinstance(caught.value, ClosedError)


async def test_a_connection_that_its_owner_closed_is_closed(path):
    async with aiosqlite.connect(path) as connection:
        storage = SQLiteStorage(connection)
        await storage.write("42", "1")
    with pytest.raises(ClosedError):
        await storage.read("42")
    with pytest.raises(ClosedError, match="never awaited"):
        await SQLiteStorage(aiosqlite.connect(path)).read("42")


@pytest.mark.parametrize("database", [":memory:", ""])
async def test_a_database_in_memory_is_neither_shared_nor_durable(database):
    async with aiosqlite.connect(database) as connection, SQLiteStorage(connection) as storage:
        able = storage.capabilities

    assert (able.shared, able.durable) == (False, False)
    assert SQLiteStorage.capabilities.durable
    assert not SQLiteStorage(":memory:").capabilities.shared


async def test_a_cancelled_write_holds_no_lock(path):
    async with SQLiteStorage(path) as storage, SQLiteStorage(path, timeout=1.0) as other:
        writes = [Write(f"{i}", "1") for i in range(1_000)]
        task = asyncio.create_task(storage.write_many(writes))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await other.write("42", "2")
        keys = [key async for key in other.read_all_keys()]

    assert len(keys) in {1, 1_000}


# ---------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:bot.db", "bot.db"),
        ("sqlite:data/b%20o%25t%3F.db", "data/b o%t?.db"),
        ("sqlite:{}/bot.db", "bot.db"),
        ("sqlite://{}/bot.db", "bot.db"),
    ],
)
async def test_a_url_names_the_file(tmp_path, monkeypatch, url, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    async with open_storage(url.format(tmp_path) + "?table=t&expires_column=&timeout=1") as storage:
        await storage.write("42", "1")

    assert execute(tmp_path / file, "SELECT * FROM t") == [("42", "1")]


async def test_a_url_names_the_memory():
    async with open_storage("sqlite::memory:") as storage:
        await storage.write("42", "1")

        assert not storage.capabilities.durable


@pytest.mark.parametrize("url", ["sqlite://bot.db", "sqlite:", "sqlite:a%00b", "sqlite:a#b", "sqlite:a?x=1"])
def test_a_wrong_url_is_refused(url):
    with pytest.raises(ConfigurationError):
        SQLiteStorage.from_url(url)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": float("inf")}, {"table": ""}, {"key_column": "a\0"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigurationError):
        SQLiteStorage("bot.db", **options)
