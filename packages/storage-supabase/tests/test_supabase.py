"""What is Supabase's own: grammY's table, row-level security, errors of all who stand in the way, the key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import traceback
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest
from bot_session import RetryingStorage, open_storage
from bot_session.errors import (
    ConfigurationError,
    ConflictError,
    SchemaError,
    StorageError,
    UnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)
from bot_session.storage import ABSENT, PRESENT, Write
from bot_session.testing.listener import Listener
from bot_session.testing.servers.postgrest import DATABASE, LOGIN
from bot_session_storage_supabase import SupabaseStorage
from supabase import AsyncClient, AsyncClientOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bot_session.testing.servers import Server
    from bot_session.testing.servers.postgrest import Supabase

KEY = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2VjcmV0"


@pytest.fixture
async def admin(postgrest_server: Supabase) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgrest_server.database)
    yield connection
    await connection.close()
    await postgrest_server.execute('DROP TABLE IF EXISTS sessions, "Grammy-Sessions"')


def storage_of(supabase: Supabase, role: str = "service_role", **options: Any) -> SupabaseStorage:
    return SupabaseStorage(supabase.url, key=supabase.key(role), **options)


@pytest.fixture
async def storage(postgrest_server: Supabase, admin: asyncpg.Connection) -> AsyncIterator[SupabaseStorage]:
    """A storage over the table that `ddl` makes."""
    storage = storage_of(postgrest_server)
    await postgrest_server.install(storage)
    yield storage
    await storage.close()


# ---------------------------------------------------------------------- grammY's table


@contextlib.asynccontextmanager
async def grammys(supabase: Supabase, table: str) -> AsyncIterator[tuple[Any, Any]]:
    """What grammY's adapter does, through Supabase's client: a function that reads, and one that writes."""
    async with httpx.AsyncClient() as http:
        client = AsyncClient(supabase.url, supabase.key("service_role"), AsyncClientOptions(httpx_client=http))

        async def read(key: str) -> str:
            return (await client.table(table).select("session").eq("id", key).single().execute()).data["session"]

        async def write(key: str, text: str) -> None:
            await client.table(table).upsert({"id": key, "session": text}).execute()

        yield read, write


async def test_grammys_table_is_used_in_place_and_grammy_reads_what_is_written(
    postgrest_server: Supabase, admin: asyncpg.Connection
) -> None:
    await admin.execute('CREATE TABLE "Grammy-Sessions" (id varchar PRIMARY KEY, session text, created_at text)')
    await admin.execute("""INSERT INTO "Grammy-Sessions" VALUES ('42', '{"count":1}', 'then')""")
    storage = storage_of(postgrest_server, table="Grammy-Sessions")
    await postgrest_server.install(storage)
    async with storage, grammys(postgrest_server, "Grammy-Sessions") as (read, write):
        record = await storage.read("42")
        assert record is not None
        await storage.write("42", '{"count":2}', match=record.version)
        seen = await read("42")
        await write("42", '{"count":3}')
        await write("7", '{"count":1}')
        with pytest.raises(ConflictError):
            await storage.write("42", "0", match=record.version)
        found = await storage.read_many(["42", "7"])

    assert record.value == '{"count":1}'
    assert seen == '{"count":2}'
    assert {key: record.value for key, record in found.items()} == {"42": '{"count":3}', "7": '{"count":1}'}
    assert await admin.fetchval("""SELECT created_at FROM "Grammy-Sessions" WHERE id = '42'""") == "then"


@pytest.mark.parametrize("column", ['varchar COLLATE "unicode"', "text", "varchar(300)"])
async def test_iteration_finds_every_key_once_whatever_the_order_of_the_existing_index(
    postgrest_server: Supabase, admin: asyncpg.Connection, column: str
) -> None:
    try:
        await admin.execute(f"CREATE TABLE sessions (id {column} PRIMARY KEY, session varchar)")
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedObjectError) as error:  # PostgreSQL before 16
        pytest.skip(str(error))
    storage = storage_of(postgrest_server)
    await postgrest_server.install(storage)
    keys = ["", "A", "a", "a-1", "a1", "a 1", "B", "b", "\u00e9", "e\u0301", "a\u0301", "\u0001", "~", "\U0001f355"]
    async with storage:
        await storage.write_many([Write(key, "1") for key in keys])
        pages = [key async for key in storage.read_all_keys(batch_size=1)]
        prefixed = [key async for key in storage.read_all_keys("a", batch_size=2)]

    assert sorted(keys) == sorted(pages)
    assert sorted(key for key in keys if key.startswith("a")) == sorted(prefixed)


@pytest.mark.parametrize("column", ["json", "jsonb"])
async def test_a_column_of_json_holds_documents(
    postgrest_server: Supabase, admin: asyncpg.Connection, column: str
) -> None:
    await admin.execute(f"CREATE TABLE sessions (id varchar PRIMARY KEY, session {column})")
    storage = storage_of(postgrest_server)
    await postgrest_server.install(storage)
    async with storage:
        version = await storage.write("k", '{"b":1,"a":2}', match=ABSENT)
        record = await storage.read("k")
        assert record is not None
        await storage.write("k", "[1]", match=version)
        with pytest.raises(ConflictError):
            await storage.write("k", "[2]", match=version)
        with pytest.raises(UnsupportedError):
            await storage.write("k", "no JSON")

    assert version == record.version
    assert record.value == ('{"b":1,"a":2}' if column == "json" else '{"a": 2, "b": 1}')
    assert await admin.fetchval("SELECT session->0 FROM sessions") == "1"


async def test_a_null_is_a_document_and_not_a_missing_one(storage: SupabaseStorage, admin: asyncpg.Connection) -> None:
    await admin.execute("ALTER TABLE sessions ALTER session DROP NOT NULL; INSERT INTO sessions VALUES ('k', NULL)")
    record = await storage.read("k")

    assert record is not None
    assert record.value == "null"
    with pytest.raises(ConflictError):
        await storage.write("k", "1", match=ABSENT)


# ---------------------------------------------------------------------- what is missing


async def test_without_the_functions_the_error_says_what_to_run(postgrest_server: Supabase) -> None:
    with pytest.raises(SchemaError, match=r"PGRST202.*ddl"):
        await storage_of(postgrest_server, table="nowhere").open()


@pytest.mark.parametrize("damage", [
    "DROP TABLE sessions",
    "ALTER TABLE sessions DROP expires_at",
    "ALTER TABLE sessions RENAME id TO key",
    "ALTER TABLE sessions DROP CONSTRAINT sessions_pkey",
])  # fmt: skip
async def test_what_is_missing_is_a_schema_error_and_ddl_mends_it(
    storage: SupabaseStorage, postgrest_server: Supabase, admin: asyncpg.Connection, damage: str
) -> None:
    await admin.execute(damage)

    with pytest.raises(SchemaError, match="ddl"):
        await storage.write("k", "1", ttl=60.0)
    if "RENAME" not in damage and "pkey" not in damage:
        await admin.execute(storage.ddl())
        await storage.write("k", "1", ttl=60.0)


async def test_a_column_that_others_demand_is_a_schema_error(
    storage: SupabaseStorage, admin: asyncpg.Connection
) -> None:
    await admin.execute("ALTER TABLE sessions ADD owner text NOT NULL")

    with pytest.raises(SchemaError, match="23502"):
        await storage.write("k", "1")


async def test_ddl_may_run_again_and_keeps_the_data(storage: SupabaseStorage, admin: asyncpg.Connection) -> None:
    await storage.write("k", "1", ttl=600.0)
    await admin.execute(storage.ddl())
    record = await storage.read("k")

    assert record is not None
    assert record.ttl is not None


@pytest.mark.parametrize("name", ["", "x" * 46, "a b", 'a"b', "a$$b", "a\nb", "é", "a.b", "a/b"])
@pytest.mark.parametrize("option", ["table", "schema", "key_column", "value_column", "expires_column"])
def test_a_name_that_a_url_or_a_function_cannot_hold_is_refused(option: str, name: str) -> None:
    if option == "schema" and not name:
        return  # the default
    with pytest.raises(ConfigurationError, match="a name may have"):
        SupabaseStorage("https://x.supabase.co", key=KEY, **{option: name})


# ---------------------------------------------------------------------- row-level security


async def test_the_anonymous_key_sees_no_session_and_is_told_so(
    storage: SupabaseStorage, postgrest_server: Supabase, admin: asyncpg.Connection
) -> None:
    await storage.write("k", "1")

    with pytest.raises(SchemaError, match="42501"):
        await storage_of(postgrest_server, "anon").open()
    await admin.execute("GRANT ALL ON sessions TO anon")  # as Supabase does, leaving it to row-level security
    with pytest.raises(SchemaError, match="row-level security hides sessions from the role anon"):
        await storage_of(postgrest_server, "anon").open()


@pytest.fixture
async def bot(storage: SupabaseStorage, postgrest_server: Supabase, admin: asyncpg.Connection) -> AsyncIterator[Any]:
    """A storage, not yet opened, for a role that may do everything with the table, and has no policy yet."""
    await admin.execute("CREATE ROLE bot NOLOGIN; GRANT bot TO authenticator; GRANT ALL ON sessions TO bot")
    await storage.write("k", "1")
    storage = storage_of(postgrest_server, "bot")
    yield storage
    await storage.close()
    await admin.execute("DROP OWNED BY bot; DROP ROLE bot")


async def test_a_role_with_a_policy_for_all_rows_may_use_the_table(
    bot: SupabaseStorage, admin: asyncpg.Connection
) -> None:
    await admin.execute("CREATE POLICY p ON sessions TO bot USING (true) WITH CHECK (true)")
    await bot.write("k", "2", match=PRESENT)

    assert await bot.has("k")
    assert await bot.delete("k")


async def test_policies_for_each_command_are_as_good_as_one_for_all(
    bot: SupabaseStorage, admin: asyncpg.Connection
) -> None:
    await admin.execute("""
        CREATE POLICY r ON sessions FOR SELECT USING (true);
        CREATE POLICY a ON sessions FOR INSERT TO bot WITH CHECK (true);
        CREATE POLICY w ON sessions FOR UPDATE TO bot USING (true);
        CREATE POLICY d ON sessions FOR DELETE TO bot USING (true);
    """)

    assert await bot.has("k")


@pytest.mark.parametrize("policies", [
    "",
    "CREATE POLICY p ON sessions TO bot USING (id = 'mine')",
    "CREATE POLICY p ON sessions TO bot USING (true) WITH CHECK (id = 'mine')",
    "CREATE POLICY p ON sessions FOR SELECT TO bot USING (true)",
    "CREATE POLICY p ON sessions TO anon USING (true)",
    "CREATE POLICY p ON sessions TO bot WITH CHECK (true)",
    "CREATE POLICY p ON sessions TO bot USING (true); CREATE POLICY q ON sessions AS RESTRICTIVE USING (id = 'mine')",
])  # fmt: skip
async def test_a_role_from_which_rows_may_be_hidden_is_refused_by_every_method(
    bot: SupabaseStorage, admin: asyncpg.Connection, policies: str
) -> None:
    await admin.execute("CREATE POLICY open ON sessions TO bot USING (true)")
    await bot.open()
    await admin.execute("DROP POLICY open ON sessions;" + policies)

    async def iterate() -> list[str]:
        return [key async for key in bot.read_all_keys()]

    for call in (
        bot.read("k"), bot.read_many(["k"]), bot.write("k", "1"), bot.delete("k"), bot.touch("k", 1.0), iterate(),
        bot.purge(), bot.check(),
    ):  # fmt: skip
        with pytest.raises(SchemaError, match="row-level security hides"):
            pytest.fail(f"returned {await call!r}")


# ---------------------------------------------------------------------- keys, in both senses


@pytest.mark.parametrize("key", ["wrong", KEY])
async def test_a_wrong_key_is_a_schema_error(storage: SupabaseStorage, postgrest_server: Supabase, key: str) -> None:
    with pytest.raises(SchemaError) as caught:
        await SupabaseStorage(postgrest_server.url, key=key).open()

    assert not caught.value.retryable


async def test_the_key_is_in_no_repr_log_or_error(
    storage: SupabaseStorage, postgrest_server: Supabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = postgrest_server.key("service_role")
    address = postgrest_server.url.removeprefix("http://")
    ours = open_storage(f"supabase://{address}?tls=false&key={key}")
    async with ours:
        await ours.write("k", "1")
        await ours.read("k")
    with pytest.raises(SchemaError) as caught:
        await open_storage(f"supabase://{address}?tls=false&table=nowhere&key={key}").open()
    shown = "".join(traceback.format_exception(caught.value)) + repr(ours) + caplog.text

    assert "nowhere_bot_session_read" in shown
    assert key not in shown
    assert key.rpartition(".")[2] not in shown


@pytest.mark.parametrize(("before", "after"), [("", "\n"), ("", "\r\n"), (" ", "\t")])
async def test_a_key_from_a_file_may_end_in_a_newline(
    storage: SupabaseStorage, postgrest_server: Supabase, before: str, after: str
) -> None:
    async with SupabaseStorage(postgrest_server.url, key=before + postgrest_server.key("service_role") + after) as ours:
        await ours.check()


@pytest.mark.parametrize("key", [KEY + "\u2026", "\u201c" + KEY, KEY[:9] + "\n" + KEY[9:], KEY + "\x7f"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigurationError, match="printable ASCII") as caught:
        SupabaseStorage("https://x.supabase.co", key=key)

    assert KEY[:9] not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("key", [KEY + "\n", KEY + "\u2026"])
def test_a_client_with_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    client = AsyncClient("https://x.supabase.co", key, AsyncClientOptions())
    with pytest.raises(ConfigurationError, match="printable ASCII") as caught:
        SupabaseStorage(client)

    assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_an_answer_that_quotes_the_key_is_shown_without_it() -> None:
    async with answering(answer(401, error("PGRST301", f"JWT expired: {KEY}"))) as storage:
        with pytest.raises(SchemaError, match=r"JWT expired: \*\*\*") as caught:
            await storage.read("k")

    assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_a_header_that_quotes_the_key_is_shown_without_it() -> None:
    async with answering(None) as other, httpx.AsyncClient() as http:
        options = AsyncClientOptions(headers={"x-key": KEY + "\n"}, httpx_client=http)
        with pytest.raises(StorageError, match=r"header value b'\*\*\*") as caught:
            await SupabaseStorage(AsyncClient(other._project, KEY, options)).read("k")

    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("address", [
    "https://", "http://127.0.0.1:99999", "http://127.0.0.1:port", "http://[::1", "http://" + "a" * 70_000,
    f"https://user:{KEY}@x.supabase.co:port", f"https://user:{KEY}@[x.supabase.co",
])  # fmt: skip
async def test_an_address_that_is_none_is_refused_and_leaves_nothing_open(address: str) -> None:
    storage = SupabaseStorage(address, key=KEY)
    with pytest.raises(ConfigurationError) as caught:
        await storage.read("k")

    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert storage._http is None


def test_a_url_that_is_none_is_refused_without_its_key() -> None:
    for url in (
        f"supabase:?key={KEY}", f"supabase://?key={KEY}", f"supabase://user:{KEY}@x.supabase.co",
        f"supabase://user:{KEY}\u2100@x.supabase.co", f"supabase://user:{KEY}@[x.supabase.co",
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match=r"supabase://<project>\.supabase\.co") as caught:
            open_storage(url)

        assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_the_key_may_come_from_the_environment(
    storage: SupabaseStorage, postgrest_server: Supabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"supabase://{postgrest_server.url.removeprefix('http://')}?tls=false"
    monkeypatch.delenv("SUPABASE_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="needs a key"):
        await open_storage(url).open()
    monkeypatch.setenv("SUPABASE_KEY", postgrest_server.key("service_role"))
    async with open_storage(url) as ours:
        await ours.check()


def test_a_url_means_https_and_ddl_needs_no_key() -> None:
    storage = open_storage("supabase://abc.supabase.co?table=t&schema=s&key_column=k&value_column=v&expires_column=e")

    assert repr(storage) == "<SupabaseStorage s.t at https://abc.supabase.co>"
    assert 'CREATE TABLE IF NOT EXISTS "s"."t" (\n    "k" varchar' in storage.ddl()


def test_a_client_brings_its_own_key_and_schema() -> None:
    client = AsyncClient("https://x.supabase.co", KEY, AsyncClientOptions(schema="bots"))

    assert '"bots"."sessions"' in SupabaseStorage(client).ddl()
    with pytest.raises(ConfigurationError):
        SupabaseStorage(client, key=KEY)
    with pytest.raises(ConfigurationError):
        SupabaseStorage(client, schema="public")


# ---------------------------------------------------------------------- batches


async def test_batches_in_opposite_orders_do_not_wait_for_each_other_in_a_circle(
    storage: SupabaseStorage, postgrest_server: Supabase
) -> None:
    keys = [f"k{i}" for i in range(50)]
    batches = [[Write(key, "1") for key in keys], [Write(key, None) for key in reversed(keys)]] * 10
    async with storage_of(postgrest_server) as other:
        await asyncio.gather(*((storage, other)[i % 2].write_many(batch) for i, batch in enumerate(batches)))


async def test_a_batch_of_many_megabytes_travels_in_pieces(
    storage: SupabaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    send = httpx.AsyncClient.send

    async def measured(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        sizes.append(len(request.content))
        return await send(client, request, **options)

    monkeypatch.setattr(httpx.AsyncClient, "send", measured)
    writes = [Write(f"k{i}", "1" * 300_000) for i in range(10)] + [Write(f"s{i}", "1") for i in range(1_500)]
    versions = await storage.write_many(writes)

    assert len(writes) == len(versions)
    assert len(sizes) == 5
    assert max(sizes) < 1_100_000
    assert len(writes) == len(await storage.read_many([write.key for write in writes]))
    assert len(writes) == await storage.delete_many([write.key for write in writes])


async def test_a_hundred_thousand_others_do_not_slow_it_down(
    storage: SupabaseStorage, admin: asyncpg.Connection
) -> None:
    await admin.execute("INSERT INTO sessions SELECT 'x:' || i, '0', now() FROM generate_series(1, 100000) AS i")
    await storage.write_many([Write(f"ours:{i}", "1") for i in range(50)])
    await storage.write("zzz", "1")
    started = time.monotonic()
    found = [key async for key in storage.read_all_keys("ours:", batch_size=10)]
    last = [key async for key in storage.read_all_keys("z", batch_size=10)]

    assert len(found) == 50
    assert last == ["zzz"]
    assert time.monotonic() - started < 2.0
    assert await storage.purge() == 100_000


# ---------------------------------------------------------------------- servers that stop, a database that refuses


async def test_while_the_server_is_away_nothing_reads_as_missing_and_afterwards_all_is_there(
    storage: SupabaseStorage, postgrest_server: Supabase
) -> None:
    await storage.write("k", "1")
    postgrest_server.server.kill()
    try:
        await expect_an_outage(storage)
    finally:
        postgrest_server.server.start()

    assert (await storage.read_many(["k", "l"])).keys() == {"k"}
    # It learns of what is new although it may not listen yet.
    other = storage_of(postgrest_server, table="Grammy-Sessions")
    await postgrest_server.install(other)
    await other.close()


async def test_while_its_database_is_away_nothing_reads_as_missing_and_afterwards_all_is_there(
    storage: SupabaseStorage, postgres_server: Server, admin: asyncpg.Connection
) -> None:
    await storage.write("k", "1")
    elsewhere = await asyncpg.connect(postgres_server.url)
    try:
        await elsewhere.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false")
        await admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{LOGIN}'")
        await expect_an_outage(storage)
    finally:
        await elsewhere.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true")
        await elsewhere.close()

    # It may take the server a moment to find its way back.
    assert (await RetryingStorage(storage, budget=30.0).read_many(["k", "l"])).keys() == {"k"}


async def expect_an_outage(storage: SupabaseStorage) -> None:
    calls = [storage.read("k"), storage.write("k", "2"), storage.read_many(["k", "l"]), storage.delete("k")]
    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert {UnavailableError} == {type(answer) for answer in answers}, answers


@pytest.mark.parametrize(("code", "kind"), [
    ("25006", UnavailableError),  # read-only
    ("40001", UnavailableError),  # could not be serialised
    ("53100", UnavailableError),  # the disk is full
    ("55P03", UnavailableError),  # a lock was not to be had in time
    ("57014", UnavailableError),  # the statement timeout
    ("23514", SchemaError),  # a constraint
    ("42501", SchemaError),  # rights
    ("22P05", UnsupportedError),  # a character that the database's encoding has not
    ("54000", ValueTooLargeError),
    ("P0001", StorageError),
])  # fmt: skip
async def test_what_the_database_refuses_has_the_right_class_and_did_not_happen(
    storage: SupabaseStorage, admin: asyncpg.Connection, code: str, kind: type[StorageError]
) -> None:
    await admin.execute(f"""
        CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE SQLSTATE '{code}' USING MESSAGE = 'refused', DETAIL = NEW.session; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    with pytest.raises(StorageError) as caught:
        await storage.write("k", '"a secret"')

    assert kind is type(caught.value)
    assert "refused" in str(caught.value)
    assert "a secret" not in str(caught.value)
    assert not getattr(caught.value, "outcome_unknown", False)
    assert not await storage.has("k")


# ---------------------------------------------------------------------- who else may answer

HTML = b"<html><body>502 Bad Gateway</body></html>"
FOUND = b'{"answer":[["k","1","1",null]]}'
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
RETRY_LATER = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n"


def error(code: str, message: str) -> bytes:
    """The body of an error of PostgREST's."""
    return json.dumps({"code": code, "message": message, "details": None, "hint": None}).encode()


def answer(status: int, body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} Whatever\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextlib.asynccontextmanager
async def answering(
    raw: bytes | None, *, times: float = float("inf"), pause: float | None = None
) -> AsyncIterator[SupabaseStorage]:
    """
    A storage, opened, whose server gives this answer from then on and hangs up; None keeps it waiting.

    With ``times`` it does so that often, and is as it was before; with ``pause`` it sleeps so long after every byte.
    """
    opened, given = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal given
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            if opened.is_set() and given < times:
                break
            writer.write(answer(200, b'{"answer":[]}'))
        given += 1
        if raw is None:
            await reader.read()
        for piece in [raw or b""] if pause is None else [bytes([byte]) for byte in raw or b""]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause or 0)

    async with (
        Listener(serve) as server,
        SupabaseStorage(f"http://127.0.0.1:{server.port}", key=KEY, timeout=0.3) as storage,
    ):
        opened.set()
        yield storage


@pytest.mark.parametrize(("raw", "kind", "outcome_unknown"), [
    (answer(500, HTML, "text/html"), UnavailableError, True),
    (answer(502, HTML, "text/html"), UnavailableError, True),
    (answer(502, b'{"message":"An invalid response was received from the upstream server"}'), UnavailableError, True),
    (answer(503, error("PGRST000", "Could not connect")), UnavailableError, False),
    (answer(500, error("40P01", "deadlock detected")), UnavailableError, False),
    (answer(503, error("08006", "connection failure")), UnavailableError, True),
    (answer(429, HTML, "text/html"), UnavailableError, False),
    (answer(401, b'{"message":"Invalid API key","hint":"Double check it."}'), SchemaError, None),
    (answer(401, error("PGRST301", "JWT expired")), SchemaError, None),
    (answer(403, HTML, "text/html"), SchemaError, None),
    (answer(404, HTML, "text/html"), SchemaError, None),
    (answer(413, HTML, "text/html"), ValueTooLargeError, None),
    (answer(302, b""), StorageError, None),
    (answer(400, error("PGRST9", "?")), StorageError, None),
    (answer(200, HTML, "text/html"), UnavailableError, True),
    (answer(200, b'{"message":"welcome to our Wi-Fi"}'), UnavailableError, True),
    (answer(200, b""), UnavailableError, True),
    (answer(200, b"[]"), UnavailableError, True),
    (answer(200, HTML)[:-5], UnavailableError, True),
    (answer(200, FOUND)[:-5], UnavailableError, True),
    (answer(200, FOUND[:-5]), UnavailableError, True),
    (answer(200, FOUND[:-1] + b',"answer":[]'), UnavailableError, True),
    (answer(200, FOUND).partition(FOUND)[0], UnavailableError, True),
    (answer(200, FOUND)[:40], UnavailableError, True),
    (CHUNKED, UnavailableError, True),
    (CHUNKED + b'5\r\n{"ans', UnavailableError, True),
    (answer(429, b'{"message":"API rate limit exceeded"}'), UnavailableError, True),
    (answer(429, error("PT429", "slow down")), UnavailableError, False),
    (answer(503, error("PT503", "back soon")), UnavailableError, False),
    (RETRY_LATER, UnavailableError, False),
    (b"", UnavailableError, True),
    (b"SSH-2.0-OpenSSH_9.9\r\n", UnavailableError, True),
    (None, UnavailableError, True),
])  # fmt: skip
async def test_whoever_answers_in_supabases_place_an_error_never_reads_as_missing(
    raw: bytes | None, kind: type[StorageError], outcome_unknown: bool | None
) -> None:
    async with answering(raw) as storage:
        with pytest.raises(StorageError) as reading:
            pytest.fail(f"read returned {await storage.read('k')!r}")
        with pytest.raises(StorageError) as writing:
            await storage.write("k", '"a secret"')

    assert kind is type(reading.value) is type(writing.value)
    assert writing.value.__cause__ is not None
    assert (writing.value.operation, writing.value.key) == ("write", "k")
    assert getattr(writing.value, "outcome_unknown", None) == outcome_unknown
    assert not getattr(reading.value, "outcome_unknown", False)
    assert "a secret" not in str(writing.value)


@pytest.mark.parametrize("raw", [RETRY_LATER, CHUNKED, answer(200, FOUND)[:-5], b"", answer(502, HTML)])
async def test_when_it_is_over_the_next_operation_works(raw: bytes) -> None:
    async with answering(raw, times=1) as storage:
        with pytest.raises(UnavailableError):
            await storage.read("k")

        assert await storage.read("k") is None
    async with answering(raw, times=2) as storage:
        assert await RetryingStorage(storage).read("k") is None


async def test_an_answer_that_drips_is_given_up_in_time() -> None:
    async with answering(answer(200, FOUND), times=3, pause=0.1) as storage:
        for call in (storage.read("k"), storage.read_many(["k"]), storage.write("k", "2")):
            async with asyncio.timeout(2):
                with pytest.raises(UnavailableError) as caught:
                    pytest.fail(f"returned {await call!r}")

        assert isinstance(caught.value.__cause__, TimeoutError)
        assert caught.value.outcome_unknown
        assert await storage.read("k") is None


async def test_a_write_that_never_left_has_a_known_outcome() -> None:
    async with answering(None) as storage:
        pass
    client = AsyncClient(storage._project, KEY, AsyncClientOptions(httpx_client=httpx.AsyncClient()))
    storage = SupabaseStorage(client)
    storage._state = "open"
    with pytest.raises(UnavailableError) as caught:
        await storage.write("k", "1")
    await client.options.httpx_client.aclose()

    assert not caught.value.outcome_unknown
    with pytest.raises(StorageError, match="client cannot be used"):
        await storage.write("k", "1")


async def test_an_answer_with_too_few_results_is_none_of_supabases() -> None:
    async with answering(answer(200, b'{"answer":[]}')) as storage:
        for call in (storage.write("k", "1"), storage.write_many([Write("k", "1")])):
            with pytest.raises(UnavailableError, match="not one of Supabase's") as caught:
                await call

            assert caught.value.outcome_unknown


# ---------------------------------------------------------------------- closing


@contextlib.asynccontextmanager
async def answering_late() -> AsyncIterator[tuple[SupabaseStorage, asyncio.Semaphore, asyncio.Event]]:
    """A storage, opened, whose writes wait for an event; and a semaphore that counts those that have arrived."""
    arrived, going_on = asyncio.Semaphore(0), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            results: list[str] = []
            if b"_write" in head:
                arrived.release()
                await going_on.wait()
                results = ["v"] * len(json.loads(body)["p_argument"])
            writer.write(answer(200, json.dumps({"answer": results}).encode()))

    async with Listener(serve, limit=2**21) as server:
        storage = SupabaseStorage(f"http://127.0.0.1:{server.port}", key=KEY)
        await storage.open()
        try:
            yield storage, arrived, going_on
        finally:
            going_on.set()
            await storage.close()


async def test_closing_waits_for_all_pieces_of_a_batch() -> None:
    async with answering_late() as (storage, arrived, going_on):
        writing = asyncio.create_task(storage.write_many([Write(f"k{i}", "1" * 600_000) for i in range(3)]))
        await arrived.acquire()
        closing = asyncio.create_task(storage.close())
        await asyncio.sleep(0)
        going_on.set()

        assert ["v"] * 3 == await writing
        await closing


async def test_a_closing_that_is_cancelled_goes_on_and_lets_a_write_come_to_its_end() -> None:
    async with answering_late() as (storage, arrived, going_on):
        http = storage._http
        assert http is not None
        writing = asyncio.create_task(storage.write("k", "1"))
        await arrived.acquire()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(storage.close(), 0.01)
        opening = asyncio.create_task(storage.open())
        await asyncio.sleep(0)
        going_on.set()

        assert await writing == "v"
        await opening
        assert http.is_closed
        assert await storage.read("k") is None
