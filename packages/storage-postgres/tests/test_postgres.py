"""What is PostgreSQL's own: tables, columns, clients, poolers, faults."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from bot_session.errors import (
    ConfigurationError,
    ConflictError,
    InvalidKeyError,
    SchemaError,
    StorageError,
    UnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)
from bot_session.storage import ABSENT, PRESENT, Version, Write
from bot_session.testing.proxy import Proxy
from bot_session_storage_postgres import PostgresStorage
from bot_session_storage_postgres._sql import SEPARATOR

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bot_session.testing.servers import Server

GRAMMY = (
    'CREATE TABLE "sessions" ("key" VARCHAR NOT NULL, "value" TEXT)',
    'CREATE UNIQUE INDEX idx ON "sessions" ("key")',
)


@pytest.fixture
async def url(postgres_server: Server) -> AsyncIterator[str]:
    """A database for this test alone."""
    name = f"test_{uuid.uuid4().hex}"
    await run(postgres_server.url, f"CREATE DATABASE {name}")
    yield urlsplit(postgres_server.url)._replace(path=f"/{name}").geturl()
    await run(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)")


async def run(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements without the storage, and return all rows."""
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for statement in statements for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def until_one(connection: asyncpg.Connection, statement: str) -> None:
    """Run a statement until it returns a row: the server has no event to wait for."""
    async with asyncio.timeout(10.0):
        while not await connection.fetch(statement):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def value(storage: PostgresStorage, key: str) -> str | None:
    record = await storage.read(key)
    return None if record is None else record.value


# ---------------------------------------------------------------------- tables


async def test_it_creates_the_table_that_ddl_prints(url: str) -> None:
    async with PostgresStorage(url) as storage:
        await storage.write("k", "1")
        statements = storage.ddl()
    created = await run(url, CATALOG)
    await run(url, "DROP TABLE sessions")
    await run(url, *statements.split(";\n")[:-1])

    assert created == await run(url, CATALOG)
    assert [("expires_at", "timestamptz"), ("key", "varchar"), ("value", "text")] == [
        c for c in created if c[0] != "index"
    ]


CATALOG = """
SELECT a.attname::text, t.typname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE attrelid = 'sessions'::regclass AND attnum > 0
UNION ALL SELECT 'index', indexdef FROM pg_indexes WHERE tablename = 'sessions' ORDER BY 1, 2"""


@pytest.mark.parametrize("table", ["MySessions", "my-sessions", "order", 'a"b', "a;b", "a{b}", "op", "t", "ünï %s $1"])
async def test_any_name_is_a_table(url: str, table: str) -> None:
    async with PostgresStorage(
        url, table=table, key_column="select", value_column='v"', expires_column="{}"
    ) as storage:
        version = await storage.write("k", "1", ttl=60.0)
        await storage.write_many([Write("k", "2", match=version), Write("l", "3", match=ABSENT), Write("m", None)])
        await storage.touch("k", 600.0)
        keys = [key async for key in storage.read_all_keys()]
        await storage.purge()

        assert keys == ["k", "l"]
        assert await storage.delete_many(["k", "l"]) == 2
    tables = await run(url, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")

    assert [(table,)] == tables


async def test_a_dot_separates_schema_and_table_unless_a_schema_is_given(url: str) -> None:
    await run(url, 'CREATE SCHEMA "My Bot"')
    for options in ({"table": "My Bot.sess"}, {"table": "a.b", "schema": "My Bot"}):
        async with PostgresStorage(url, **options) as storage:
            await storage.write("k", "1")
    tables = await run(url, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'My Bot' ORDER BY 1")

    assert tables == [("a.b",), ("sess",)]


async def test_a_missing_schema_is_a_schema_error(url: str) -> None:
    with pytest.raises(SchemaError, match="nowhere"):
        await PostgresStorage(url, table="nowhere.sess").open()


@pytest.mark.parametrize("name", ["", "x" * 64, "a\0b"])
def test_a_name_that_postgres_would_cut_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        PostgresStorage("postgresql://host/db", table=name)


async def test_without_create_a_missing_table_is_a_schema_error_with_the_statements(url: str) -> None:
    storage = PostgresStorage(url, create=False)
    with pytest.raises(SchemaError) as caught:
        await storage.read("k")

    assert storage.ddl() in str(caught.value)
    assert await run(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []

    await run(url, *storage.ddl().split(";\n")[:-1])
    async with storage:
        await storage.write("k", "1")


async def test_who_may_not_create_can_use_what_is_there(url: str) -> None:
    role = f"bot_{uuid.uuid4().hex}"
    async with PostgresStorage(url) as storage:
        await storage.write("k", "1")
    await run(
        url,
        f"CREATE ROLE {role} LOGIN PASSWORD 'bot'",
        "REVOKE CREATE ON SCHEMA public FROM public",
    )
    await run(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO {role}")
    parts = urlsplit(url)
    as_bot = parts._replace(netloc=f"{role}:bot@{parts.hostname}:{parts.port}").geturl()
    try:
        async with PostgresStorage(as_bot) as storage:
            assert await value(storage, "k") == "1"
        with pytest.raises(SchemaError, match="permission denied"):
            await PostgresStorage(as_bot, table="others").open()
        await run(url, f"REVOKE SELECT ON sessions FROM {role}")
        async with PostgresStorage(as_bot) as storage:
            with pytest.raises(SchemaError, match="permission denied"):
                await storage.read("k")
    finally:
        await run(url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_sixteen_workers_set_up_at_once(url: str) -> None:
    for i in range(5):
        workers = [PostgresStorage(url, table=f"sessions{i}", pool_size=1) for _ in range(16)]
        try:
            await asyncio.gather(*(worker.open() for worker in workers))
        finally:
            await asyncio.gather(*(worker.close() for worker in workers))
    indexes = await run(url, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'")

    assert indexes == [(10,)]


@pytest.fixture
async def role(url: str) -> AsyncIterator[str]:
    """A role that may use the table, and nothing else."""
    role = f"bot_{uuid.uuid4().hex}"
    async with PostgresStorage(url) as storage:
        await storage.write("k", "1")
    await run(
        url, f"CREATE ROLE {role} LOGIN PASSWORD 'bot'", f"GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO {role}"
    )
    yield role
    await run(url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize(
    "policies",
    [
        [],
        ["TO public"],
        ["TO public USING (key = current_user)"],
        ["TO public USING (true) WITH CHECK (key = current_user)"],
        ["TO public WITH CHECK (true)"],
        ["TO pg_monitor USING (true)"],
        ["TO public USING (true)", "AS RESTRICTIVE TO public USING (key = current_user)"],
        ["FOR SELECT TO public USING (true)", "FOR INSERT TO public WITH CHECK (true)"],
        [f"FOR {command} TO public USING (true)" for command in ("SELECT", "UPDATE", "DELETE")]
        + ["FOR INSERT TO public"],
    ],
)
async def test_a_role_from_which_rows_are_hidden_cannot_open_it(url: str, role: str, policies: list[str]) -> None:
    await run(url, "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY")
    await run(url, *(f"CREATE POLICY p{i} ON sessions {policy}" for i, policy in enumerate(policies)))
    storage = PostgresStorage(with_user(url, f"{role}:bot"))
    with pytest.raises(SchemaError, match="row-level security") as caught:
        await storage.read("k")
    statement = f'CREATE POLICY bot_session ON "public"."sessions" TO "{role}" USING (true) WITH CHECK (true)'

    assert statement in str(caught.value)

    await run(url, statement, *(f"DROP POLICY p{i} ON sessions" for i, _ in enumerate(policies)))
    async with storage:
        assert await value(storage, "k") == "1"


@pytest.mark.parametrize(
    "policies",
    [
        ["TO public USING (true)"],
        ["TO public USING (key = current_user)", "TO public USING (true) WITH CHECK (true)"],
        [f"FOR {command} TO public USING (true)" for command in ("SELECT", "UPDATE", "DELETE")]
        + ["FOR INSERT TO public WITH CHECK (true)"],
        ["TO public USING (true)", "AS RESTRICTIVE TO pg_monitor USING (false)"],
    ],
)
async def test_a_role_that_policies_give_all_rows_can_use_them(url: str, role: str, policies: list[str]) -> None:
    await run(url, "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY")
    await run(url, *(f"CREATE POLICY p{i} ON sessions {policy}" for i, policy in enumerate(policies)))
    async with PostgresStorage(with_user(url, f"{role}:bot")) as storage:
        await storage.write("k", "2", match=PRESENT)
        await storage.write("l", "3", match=ABSENT)

        assert {"k", "l"} == {key async for key in storage.read_all_keys()}
        assert await storage.delete("k")


async def test_row_level_security_does_not_concern_who_is_above_it(url: str) -> None:
    async with PostgresStorage(url) as storage:
        await storage.write("k", "1")
    await run(url, "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY", "ALTER TABLE sessions FORCE ROW LEVEL SECURITY")
    async with PostgresStorage(url) as storage:
        assert await value(storage, "k") == "1"


# ---------------------------------------------------------------------- others' tables


async def test_a_table_of_grammy_is_used_in_place(url: str) -> None:
    await run(url, *GRAMMY, """INSERT INTO "sessions" VALUES ('42', '{"count":1}'), ('43', NULL)""")
    async with PostgresStorage(url) as storage:
        record = await storage.read("42")
        assert record is not None
        assert ('{"count":1}', None) == (record.value, record.ttl)
        await storage.write("42", '{"count":2}', match=record.version)
        results = await storage.write_many(
            [Write("44", "1", match=ABSENT), Write("42", "9", match=ABSENT), Write("9", None)]
        )
        empty = await storage.read("43")
        assert empty is not None
        await storage.write("43", "5", match=empty.version)

        assert empty.value == "null"
        assert isinstance(results[1], ConflictError)
        assert await storage.touch("42", None) is True
        assert await storage.touch("45", None) is False
        assert await storage.purge() == 0
    rows = await run(url, "SELECT * FROM sessions ORDER BY key")

    assert rows == [("42", '{"count":2}'), ("43", "5"), ("44", "1")]


async def test_without_a_column_for_it_a_ttl_is_a_schema_error_with_the_statement(url: str) -> None:
    await run(url, *GRAMMY)
    async with PostgresStorage(url) as storage:
        await storage.write("k", "1")
        for call in (
            storage.write("k", "2", ttl=60.0),
            storage.touch("k", 60.0),
            storage.write_many([Write("a", "1"), Write("k", "2", ttl=60.0)]),
        ):
            with pytest.raises(SchemaError) as caught:
                await call
        statement = 'ALTER TABLE "public"."sessions" ADD COLUMN "expires_at" timestamptz'

        assert statement in str(caught.value)
        assert await value(storage, "k") == "1"
        assert await value(storage, "a") is None
    await run(url, statement)
    async with storage:
        await storage.write("k", "2", ttl=60.0)


async def test_without_a_unique_index_it_names_the_statement(url: str) -> None:
    await run(url, "CREATE TABLE session (id serial PRIMARY KEY, key varchar NOT NULL, value text NOT NULL)")
    storage = PostgresStorage(url, table="session")
    statement = 'CREATE UNIQUE INDEX ON "public"."session" ("key")'
    with pytest.raises(SchemaError) as caught:
        await storage.open()

    assert statement in str(caught.value)

    await run(url, statement)
    async with storage:
        await storage.write("k", "1")


@pytest.mark.parametrize("index", ["(key, value)", "(key) WHERE key > 'a'", "(lower(key))"])
async def test_an_index_that_lets_a_key_in_twice_is_not_enough(url: str, index: str) -> None:
    await run(url, "CREATE TABLE sessions (key text, value text)", f"CREATE UNIQUE INDEX ON sessions {index}")
    with pytest.raises(SchemaError, match="UNIQUE"):
        await PostgresStorage(url).open()


async def test_a_table_of_prisma_is_used_in_place(url: str) -> None:
    await run(
        url, 'CREATE TABLE "Session" ("id" serial PRIMARY KEY, "key" text UNIQUE NOT NULL, "value" text NOT NULL)'
    )
    async with PostgresStorage(url, table="Session") as storage:
        await storage.write_many([Write("a", "1"), Write("b", "2", match=ABSENT)])
        await storage.write("a", "3")
    rows = await run(url, 'SELECT key, value FROM "Session" ORDER BY key')

    assert rows == [("a", "3"), ("b", "2")]


@pytest.mark.parametrize(
    "columns",
    [
        "key char(9) UNIQUE, value text",
        "key int UNIQUE, value text",
        "key text UNIQUE, value int",
        "key text UNIQUE, value bytea",
        "key text UNIQUE, value text, expires_at timestamp",
        "key text UNIQUE",
        "value text",
    ],
)
async def test_a_column_that_would_change_what_is_stored_is_refused(url: str, columns: str) -> None:
    await run(url, f"CREATE TABLE sessions ({columns})")
    with pytest.raises(SchemaError):
        await PostgresStorage(url).open()


async def test_what_a_column_has_no_room_for_is_refused_before_it_is_sent(url: str) -> None:
    await run(url, "CREATE TABLE sessions (key varchar(4) PRIMARY KEY, value varchar(6))")
    async with PostgresStorage(url) as storage:
        await storage.write("éééé", '"éééé"')
        with pytest.raises(InvalidKeyError):
            await storage.write("ééééé", "1")
        with pytest.raises(ValueTooLargeError):
            await storage.write_many([Write("a", "1"), Write("b", '"ééééé"')])

        assert [key async for key in storage.read_all_keys()] == ["éééé"]


async def test_what_separates_texts_in_a_batch_may_be_in_them(url: str) -> None:
    texts = ["", SEPARATOR, f"a{SEPARATOR}", f"{SEPARATOR}b", SEPARATOR * 3, "c", '{"a":"b"}', "\\N", "NULL", "{}"]
    async with PostgresStorage(url) as storage:
        for one in texts:
            for other in texts:
                if one != other:
                    await storage.write_many([Write(one, other), Write(other, one)])
                    assert {one: other, other: one} == {
                        key: record.value for key, record in (await storage.read_many([one, other])).items()
                    }
                    changed = [Write(one, "new", match=Version(other)), Write(other, None, match=Version(one))]
                    assert ["new", True] == await storage.write_many(changed)
        for one in texts:
            await storage.write(one, one)
            assert [one] == [record.value for record in (await storage.read_many([one])).values()]


@pytest.mark.parametrize("kind", ["json", "jsonb"])
async def test_json_columns_hold_documents_as_json(url: str, kind: str) -> None:
    await run(url, f"CREATE TABLE sessions (key text PRIMARY KEY, value {kind}, expires_at timestamptz)")

    async def decode(connection: asyncpg.Connection) -> None:
        await connection.set_type_codec(kind, schema="pg_catalog", encoder=json.dumps, decoder=json.loads)

    async with asyncpg.create_pool(url, init=decode, min_size=1, max_size=2) as pool, PostgresStorage(pool) as storage:
        written = await storage.write("k", '{"b":1.0,"a":[2]}', ttl=60.0)
        await run(url, """INSERT INTO sessions VALUES ('theirs', '{"count": 1}')""")
        record = await storage.read("k")
        assert record is not None
        assert written == record.version
        assert json.loads(record.value) == {"b": 1.0, "a": [2]}
        await run(url, """UPDATE sessions SET value = '{"b":1,"a":[2]}' WHERE key = 'k'""")
        with pytest.raises(ConflictError):
            await storage.write("k", "3", match=written)
        theirs = await storage.read("theirs")
        assert theirs is not None
        versions = await storage.write_many(
            [Write("theirs", '{"count":2}', match=theirs.version), Write("new", '{"x":3}')]
        )
        found = await storage.read_many(["theirs", "new"])

        assert versions == [found["theirs"].version, found["new"].version]


@pytest.mark.parametrize("document", ['"a\\u0000b"', '"\\ud800"', "no JSON", '"\ud800"', "1e999999"])
async def test_what_jsonb_cannot_hold_is_unsupported_and_nothing_is_lost(url: str, document: str) -> None:
    await run(url, "CREATE TABLE sessions (key text PRIMARY KEY, value jsonb)")
    async with PostgresStorage(url) as storage:
        await storage.write("k", "1")
        with pytest.raises(UnsupportedError) as caught:
            await storage.write("k", document)
        with pytest.raises(UnsupportedError):
            await storage.write_many([Write("a", "1"), Write("k", document)])

        assert not caught.value.retryable
        assert await value(storage, "k") == "1"
        assert await value(storage, "a") is None


async def test_what_a_trigger_drops_is_an_error_and_never_a_success(url: str) -> None:
    async with PostgresStorage(url) as storage:
        await storage.write("k", "1")
        await run(
            url,
            """CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql
               AS 'BEGIN IF NEW.key = ''k'' THEN RETURN NULL; END IF; RETURN NEW; END'""",
            "CREATE TRIGGER t BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION drop_row()",
        )
        with pytest.raises(SchemaError, match="trigger") as caught:
            await storage.write("k", "2")
        for same_kind in (True, False):
            result, *others = await storage.write_many([Write("k", "2"), Write("a", "1" if same_kind else None)])

            assert isinstance(result, SchemaError)
            assert [Version("1") if same_kind else True] == others
        assert caught.value.key == "k"
        assert await value(storage, "k") == "1"


@pytest.mark.parametrize("digits", range(7))
async def test_a_ttl_is_never_shorter_than_asked_however_coarse_the_column(url: str, digits: int) -> None:
    await run(url, f"CREATE TABLE sessions (key text PRIMARY KEY, value text, expires_at timestamptz({digits}))")
    async with PostgresStorage(url) as storage:
        for i in range(20):
            before = (await run(url, "SELECT extract(epoch FROM clock_timestamp())::float8"))[0][0]
            await storage.write(f"a{i}", "1", ttl=0.4)
            await storage.write_many([Write(f"b{i}", "1", ttl=0.4), Write(f"c{i}", "1"), Write(f"c{i}", "2", ttl=0.4)])
            await storage.write(f"d{i}", "1")
            await storage.touch(f"d{i}", 0.4)
            written = await run(
                url, f"SELECT extract(epoch FROM expires_at)::float8 FROM sessions WHERE key LIKE '_{i}' ORDER BY key"
            )
            after = (await run(url, "SELECT extract(epoch FROM clock_timestamp())::float8"))[0][0]

            assert 4 == len(written)
            assert all(before + 0.4 - 1e-6 <= expiry <= after + 0.4 + 10**-digits + 1e-6 for (expiry,) in written)


# ---------------------------------------------------------------------- clients


async def test_an_injected_connection_serves_many_tasks_and_stays_open(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        async with PostgresStorage(connection) as first, PostgresStorage(connection) as second:
            await asyncio.gather(*((first, second)[i % 2].write(f"k{i}", str(i)) for i in range(50)))

            assert await value(first, "k49") == "49"
        assert await connection.fetchval("SELECT count(*) FROM sessions") == 50
    finally:
        await connection.close()


async def test_inside_the_callers_transaction_everything_is_part_of_it(url: str) -> None:
    async with PostgresStorage(url) as outside:
        await outside.write("k", "1")
        async with asyncpg.create_pool(url, min_size=1) as pool, pool.acquire() as connection:
            storage = PostgresStorage(connection)
            transaction = connection.transaction()
            await transaction.start()
            await storage.write("k", "2", match=PRESENT)
            await storage.write_many([Write("a", "1"), Write("a", "2"), Write("b", "1", match=ABSENT)])

            inside = await storage.read_many(["k", "a", "b"])
            await transaction.rollback()

        assert {"k": "2", "a": "2", "b": "1"} == {key: record.value for key, record in inside.items()}
        assert [key async for key in outside.read_all_keys()] == ["k"]
        assert await value(outside, "k") == "1"


async def test_no_connection_stays_out_of_the_pool(url: str) -> None:
    async with asyncpg.create_pool(url, min_size=1, max_size=3) as pool, PostgresStorage(pool, timeout=1.0) as storage:
        await storage.write_many([Write(f"k{i}", "1") for i in range(10)])
        listing = storage.read_all_keys(batch_size=2)
        assert await anext(listing) == "k0"
        assert pool.get_idle_size() == pool.get_size()
        await listing.aclose()
        tasks = [asyncio.create_task(storage.write("k", str(i))) for i in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(UnsupportedError):
            await storage.write("k", "\0")

        assert pool.get_idle_size() == pool.get_size()


async def test_our_pool_is_no_larger_than_asked(url: str) -> None:
    async with PostgresStorage(f"{url}?application_name=ours", pool_size=2) as storage:
        await asyncio.gather(*(storage.write(f"k{i}", "1") for i in range(50)))
        connections = await run(
            url,
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ours' AND datname = current_database()",
        )

    assert connections == [(2,)]


async def test_a_released_connection_is_not_reset(url: str) -> None:
    async with PostgresStorage(f"{url}?application_name=ours", pool_size=1) as storage:
        await storage.write("k", "1")
        last = await run(
            url, "SELECT query FROM pg_stat_activity WHERE application_name = 'ours' AND datname = current_database()"
        )

    assert "INSERT" in last[0][0]


async def test_it_works_behind_pgbouncer_without_being_told(pgbouncer: Server) -> None:
    table = uuid.uuid4().hex
    storages = [PostgresStorage(pgbouncer.url, table=table) for _ in range(4)]
    try:
        await storages[0].write("n", "0")

        async def increment(storage: PostgresStorage) -> None:
            while (record := await storage.read("n")) is not None:
                result = (
                    await storage.write_many(
                        [
                            Write("n", str(int(record.value) + 1), match=record.version),
                            Write("m", "1"),
                            Write("m", "2", ttl=60.0),
                        ]
                    )
                )[0]
                if not isinstance(result, ConflictError):
                    return

        await asyncio.gather(*(increment(storages[i % 4]) for i in range(40)))

        assert await value(storages[1], "n") == "40"
        assert [key async for key in storages[2].read_all_keys(batch_size=1)] == ["m", "n"]
    finally:
        await asyncio.gather(*(storage.close() for storage in storages))
        await run(pgbouncer.url, f'DROP TABLE "{table}"')


async def test_statements_are_prepared_once_where_no_pooler_is_in_between(url: str) -> None:
    async with PostgresStorage(f"{url}?application_name=ours", pool_size=1) as storage:
        for _ in range(3):
            await storage.read("k")
        connection = await storage._client._pool.acquire()
        prepared = await connection.fetch("SELECT calls.statement FROM pg_prepared_statements AS calls")
        await storage._client._pool.release(connection)

    assert any("SELECT" in row[0] for row in prepared)


async def test_opened_in_one_loop_it_says_so_in_another_and_can_be_closed_there(url: str) -> None:
    storage = PostgresStorage(url)
    with pytest.warns(ResourceWarning):  # of what the first loop leaves open, whenever that is collected
        await asyncio.to_thread(lambda: asyncio.run(storage.write("k", "1")))
        for call in (storage.read("k"), storage.write("k", "2"), storage.write_many([Write("k", "2")])):
            with pytest.raises(UnsupportedError, match="another event loop"):
                await call
        await storage.close()
        async with storage:
            assert await value(storage, "k") == "1"
        gc.collect()


async def test_closed_from_another_thread_it_leaves_no_connection(url: str) -> None:
    storage = PostgresStorage(f"{url}?application_name=ours")
    await storage.write("k", "1")
    await asyncio.to_thread(lambda: asyncio.run(storage.close()))
    left = await run(url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ours'")

    assert left == [(0,)]


# ---------------------------------------------------------------------- many rows, many writers


async def test_listing_ours_among_many_others_is_complete(url: str) -> None:
    async with PostgresStorage(url) as storage:
        await storage.write_many([Write(f"our_{i:02}", "1") for i in range(50)])
        await run(
            url,
            "INSERT INTO sessions (key, value) SELECT 'our!' || i, '0' FROM generate_series(1, 50000) i",
            "INSERT INTO sessions (key, value) SELECT 'ours' || i, '0' FROM generate_series(1, 50000) i",
        )
        for batch_size in (7, 50, 500):
            keys = [key async for key in storage.read_all_keys("our_", batch_size=batch_size)]

            assert keys == [f"our_{i:02}" for i in range(50)]


@pytest.mark.parametrize("collation", ["C", "default", "und-x-icu"])
async def test_listing_pages_through_the_index_whatever_its_collation(url: str, collation: str) -> None:
    try:
        await run(url, f'CREATE TABLE sessions (key text COLLATE "{collation}" PRIMARY KEY, value text)')
    except asyncpg.UndefinedObjectError:
        pytest.skip("not applicable: this PostgreSQL is built without ICU")
    names = [f"{letter}{i}" for letter in ("a", "A", "ä", "b", "B", "-a") for i in range(5)] + [""]
    async with PostgresStorage(url) as storage:
        await storage.write_many([Write(name, "1") for name in names])
        await run(url, "INSERT INTO sessions SELECT 'x' || i, 0 FROM generate_series(1, 5000) i", "ANALYZE sessions")

        assert sorted(names) == sorted([key async for key in storage.read_all_keys(batch_size=3) if key[:1] != "x"])
        plan = await run(
            url, "EXPLAIN " + storage._sql.key_pages[1].replace("$1", "''").replace("$2", "'a'").replace("$3", "9")
        )

    assert any("Index" in row[0] for row in plan)
    assert not any("Sort" in row[0] for row in plan)


async def test_batches_in_opposite_order_do_not_end_in_a_deadlock(url: str) -> None:
    keys = [f"k{i}" for i in range(40)]
    async with PostgresStorage(url) as storage:
        await storage.write_many([Write(key, "0") for key in keys])

        async def batches(order: list[str], kind: Any) -> None:
            for _ in range(15):
                await storage.write_many(
                    [Write(key, "0", match=kind if i % 2 else PRESENT) for i, key in enumerate(order)]
                )

        before = await run(url, DEADLOCKS)
        await asyncio.gather(*(batches(keys[:: 1 if i % 2 else -1], PRESENT if i % 3 else ABSENT) for i in range(8)))
        await run(url, "SELECT pg_stat_force_next_flush()")

    assert before == await run(url, DEADLOCKS)


DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


async def test_what_the_server_rolls_back_for_others_is_done_again(url: str) -> None:
    database = urlsplit(url).path[1:]
    await run(url, f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'")
    async with PostgresStorage(url) as storage:
        await storage.write("n", "0")

        async def increment() -> None:
            while (record := await storage.read("n")) is not None:
                with contextlib.suppress(ConflictError):
                    await storage.write("n", str(int(record.value) + 1), match=record.version)
                    return

        await asyncio.gather(*(increment() for _ in range(30)))

        assert await value(storage, "n") == "30"


async def test_several_workers_purge_at_once_and_each_row_is_counted_once(url: str) -> None:
    async with PostgresStorage(url) as storage:
        await storage.write("live", "1", ttl=600.0)
        await run(url, "INSERT INTO sessions SELECT 'x' || i, '0', now() FROM generate_series(1, 5000) i")
        purged = await asyncio.gather(*(storage.purge() for _ in range(4)))

        assert sum(purged) == 5_000
        assert await run(url, "SELECT key FROM sessions") == [("live",)]


async def test_a_row_that_expires_never_has_no_ttl(url: str) -> None:
    async with PostgresStorage(url) as storage:
        await run(url, "INSERT INTO sessions VALUES ('k', '1', 'infinity')")
        record = await storage.read("k")

    assert record is not None
    assert record.ttl is None


# ---------------------------------------------------------------------- faults


async def test_a_read_only_server_is_unavailable_for_writes_and_nothing_happened(url: str) -> None:
    async with PostgresStorage(url) as storage:
        await storage.write("k", "1")
    database = urlsplit(url).path[1:]
    await run(url, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    async with PostgresStorage(url) as storage:
        for call in (
            storage.write("k", "2"),
            storage.write_many([Write("k", "2"), Write("k", None)]),
            storage.delete("k"),
        ):
            with pytest.raises(UnavailableError, match="read-only") as caught:
                await call
            assert not caught.value.outcome_unknown

        assert await value(storage, "k") == "1"


async def test_a_write_that_waits_too_long_is_unavailable_and_its_outcome_unknown(url: str) -> None:
    blocker = await asyncpg.connect(url)
    try:
        async with PostgresStorage(url, timeout=0.5) as storage:
            await storage.write("k", "1")
            transaction = blocker.transaction()
            await transaction.start()
            await blocker.execute("SELECT * FROM sessions FOR UPDATE")
            with pytest.raises(UnavailableError) as caught:
                await storage.write("k", "2")
            await transaction.rollback()

            assert caught.value.outcome_unknown
            assert isinstance(caught.value.__cause__, TimeoutError)
            assert await value(storage, "k") == "1"
    finally:
        await blocker.close()


async def test_a_connection_cut_during_a_write_leaves_its_outcome_unknown(url: str) -> None:
    blocker = await asyncpg.connect(url)
    try:
        async with PostgresStorage(f"{url}?application_name=ours") as storage:
            await storage.write("k", "1")
            transaction = blocker.transaction()
            await transaction.start()
            await blocker.execute("SELECT * FROM sessions FOR UPDATE")
            writing = asyncio.create_task(storage.write("k", "2"))
            await until_one(
                blocker,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'ours' AND datname = current_database() AND wait_event_type = 'Lock'",
            )
            with pytest.raises(UnavailableError) as caught:
                await writing
            await transaction.rollback()

            assert caught.value.outcome_unknown
            assert await value(storage, "k") == "1"
    finally:
        await blocker.close()


async def test_an_exhausted_pool_is_unavailable_and_nothing_was_sent(url: str) -> None:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        storage = PostgresStorage(pool, timeout=0.3)
        await storage.write("k", "1")
        async with pool.acquire():
            with pytest.raises(UnavailableError) as caught:
                await storage.write("k", "2")

        assert not caught.value.outcome_unknown
        assert await value(storage, "k") == "1"


async def test_a_closed_injected_pool_is_unavailable(url: str) -> None:
    pool = await asyncpg.create_pool(url, min_size=1)
    storage = PostgresStorage(pool)
    await storage.write("k", "1")
    await pool.close()
    with pytest.raises(UnavailableError, match="pool is clos"):
        await storage.read("k")


async def test_what_the_server_says_of_a_text_it_cannot_hold_is_kept_to_itself(url: str) -> None:
    await run(url, "CREATE TABLE sessions (key text PRIMARY KEY, value text)")
    async with PostgresStorage(url) as storage:
        await run(url, "ALTER TABLE sessions ALTER value TYPE varchar(9)")
        for call in (storage.write("k", '"geheim_geheim"'), storage.write_many([Write("k", '"geheim_geheim"')])):
            with pytest.raises(ValueTooLargeError, match=r"^PostgreSQL cannot hold this text") as caught:
                await call
            assert "geheim" not in str(caught.value)
            assert isinstance(caught.value.__cause__, asyncpg.StringDataRightTruncationError)
        await run(url, "ALTER TABLE sessions ADD CHECK (value::int > 0)")
        with pytest.raises(UnsupportedError) as caught:
            await storage.write("k", '"geheim"')

        assert "geheim" not in str(caught.value)


async def test_a_batch_is_sent_again_when_the_table_was_altered_meanwhile(url: str) -> None:
    twice = [Write("k", "1"), Write("k", "2")]
    async with PostgresStorage(url, pool_size=1, statement_cache=True) as storage:
        await storage.write_many(twice)
        await run(url, "ALTER TABLE sessions ALTER COLUMN key TYPE text")

        assert ["1", "2"] == await storage.write_many(twice)


@pytest.mark.parametrize("injected", [False, True])
@pytest.mark.parametrize("twice", [False, True])
async def test_an_operation_on_a_stalled_line_ends_in_time(url: str, twice: bool, injected: bool) -> None:
    parts, timeout = urlsplit(url), 1.0
    assert parts.hostname is not None
    assert parts.port is not None
    blocker = await asyncpg.connect(url)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(blocker.close)
        proxy = await stack.enter_async_context(Proxy(parts.hostname, parts.port))
        address = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}").geturl()
        pool = await stack.enter_async_context(asyncpg.create_pool(address, min_size=0)) if injected else address
        storage = await stack.enter_async_context(PostgresStorage(pool, timeout=timeout))
        await storage.write("k", "1")
        async with blocker.transaction():
            await blocker.execute("SELECT * FROM sessions FOR UPDATE")
            started = asyncio.get_running_loop().time()
            writing = asyncio.create_task(storage.write_many([Write("k", "2"), Write("k", "3")][: 1 + twice]))
            await until_one(blocker, LOCK_WAITS)
            proxy.delay = 60.0
            with pytest.raises(UnavailableError, match="no answer in time"):
                await writing
            took = asyncio.get_running_loop().time() - started
        proxy.delay = 0.0

        assert took < 1.2 * timeout
        assert await value(storage, "k") is not None


LOCK_WAITS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.mark.parametrize("inside", [False, True])
async def test_what_is_given_up_leaves_no_transaction_behind_on_an_injected_connection(url: str, inside: bool) -> None:
    batch = [Write("a", "1"), Write("k", "2"), Write("k", "3")]
    for ticks in range(1, 40, 3):
        connection = await asyncpg.connect(url)
        storage = PostgresStorage(connection)
        await storage.write("k", "1")
        transaction = connection.transaction()
        if inside:
            await transaction.start()
        writing = asyncio.create_task(storage.write_many(batch))
        for _ in range(ticks):
            await asyncio.sleep(0.0001)
        writing.cancel()
        results = await asyncio.gather(writing, return_exceptions=True)
        if inside:
            with contextlib.suppress(asyncpg.PostgresError):  # it may have failed as a whole
                await transaction.commit()
        found = {key: record.value for key, record in (await storage.read_many(["a", "k"])).items()}

        assert {"k": "1"} == found or {"a": "1", "k": "3"} == found, results
        assert not connection.is_in_transaction()
        assert ["4", "5"] == await storage.write_many([Write("k", "4"), Write("k", "5")])
        assert [("5",)] == await run(url, "SELECT value FROM sessions WHERE key = 'k'")
        await run(url, "DELETE FROM sessions")
        await connection.close()


async def test_it_outlives_a_restart_and_a_crash_of_the_server(url: str, postgres_server: Server) -> None:
    async with PostgresStorage(url) as storage:
        for end in (postgres_server.stop, postgres_server.kill):
            await storage.write("k", end.__name__)
            end()
            with pytest.raises(UnavailableError):
                await storage.read("k")
            postgres_server.start()

            assert await value(storage, "k") == end.__name__


@pytest.mark.parametrize("statement_cache", [None, True, False])
@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("postgresql://postgres:geheim@127.0.0.1:1/postgres", UnavailableError),
        ("postgresql://postgres:geheim@127.0.0.1:p%40ss/postgres", ConfigurationError),
        ("postgresql://postgres:ge#heim@127.0.0.1/postgres", (ConfigurationError, StorageError)),
        ("postgresql://postgres:ge/heim@127.0.0.1/postgres", ConfigurationError),
        ("postgresql://postgres:ge@[heim]@127.0.0.1/postgres", ConfigurationError),
        ("postgresql://postgres:ge@[::1]heim@127.0.0.1/postgres", (ConfigurationError, StorageError)),
        ("mysql://postgres:geheim@127.0.0.1/postgres", ConfigurationError),
        ("postgresql://postgres:geheim@127.0.0.1/postgres?sslmode=geheim", ConfigurationError),
    ],
)
async def test_no_secret_is_in_an_error_or_a_repr(
    address: str, error: type[Exception], statement_cache: bool | None
) -> None:
    storage = PostgresStorage(address, timeout=1.0, statement_cache=statement_cache)
    with pytest.raises(error) as caught:
        await storage.open()
    chain: list[BaseException | None] = [caught.value]
    while chain[-1] is not None:
        chain.append(chain[-1].__cause__)
    texts = [repr(storage), *map(str, chain), *map(repr, chain)]

    assert not [text for text in texts if "heim" in text or "'ge" in text or "p%40ss" in text]


async def test_what_asyncpg_says_of_a_setting_in_the_url_is_the_cause() -> None:
    with pytest.raises(ConfigurationError) as caught:
        await PostgresStorage("postgresql://127.0.0.1/postgres?sslmode=wrong", statement_cache=True).open()

    assert "sslmode" in str(caught.value.__cause__)


async def test_a_refused_connection_is_told_in_words() -> None:
    with pytest.raises(UnavailableError, match=r"^PostgreSQL: Connect call failed"):
        await PostgresStorage("postgresql://postgres@127.0.0.1:1/postgres").open()


async def test_a_missing_database_or_a_wrong_user_is_a_schema_error(url: str) -> None:
    missing = urlsplit(url)._replace(path="/nowhere").geturl()
    with pytest.raises(SchemaError, match="nowhere"):
        await PostgresStorage(missing).open()
    stranger = with_user(url, "stranger")
    with pytest.raises(SchemaError, match="stranger"):
        await PostgresStorage(stranger).open()


def with_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}@{parts.hostname}:{parts.port}").geturl()


async def test_a_table_that_vanishes_is_a_schema_error_and_never_a_miss(url: str) -> None:
    async with PostgresStorage(url) as storage:
        await storage.write("k", "1")
        await run(url, "DROP TABLE sessions")
        with pytest.raises(SchemaError) as caught:
            await storage.read("k")

    assert isinstance(caught.value.__cause__, asyncpg.UndefinedTableError)
