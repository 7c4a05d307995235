"""
Sessions shared with bots in JavaScript: what grammY's own storage adapters write is read here, and the other way round.

grammY runs in Node, on packages from npm that are installed once and kept in the user's cache. GramIO's storages do not
run here: what they send to Redis and SQLite is written out by hand, after their sources.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bot_session import ConflictError, MigrationError, Origin, Sessions, by_user

SOURCES = Path(__file__).parent / "other_languages"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bot-session"
INSTALL = ["install", "--engine-strict", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
NOT_HERE = re.compile("code (EBADENGINE|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|ETIMEDOUT)")
"""How npm says that Node is too old, or that there is no registry."""
PLAIN = re.compile("[0-9a-z_-]+")

SESSIONS = {
    "42": {"count": 1},
    "-1001234567890": {
        "ids": [-1001234567890, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**53 - 1, 0, -1],
        "numbers": [0.1, -1.5, 1e-7, 1e21, 1.7976931348623157e308],
        "text": 'ä🍕 "quoted" \\ \n\t\u2028\u0001 </script>',
        "deep": {"list": [1, [2, {"a": None}], []], "yes": True, "no": False, "empty": {}},
    },
    "a:b": {},
    "a.b": {"a.b": 1, "": 2, "ключ": {"ключ": 3}},
    "ключ": ["a", "list"],
    "x🍕y": "text",
    "zero": 0,
    "false": False,
}


@dataclass
class Profile:
    name: str = ""
    chat: int = 0
    ratio: float = 0.0
    tags: list[str] = field(default_factory=list)
    seen: datetime | None = None


class Bot:
    """Somebody else's storage adapter, in a process of its own."""

    def __init__(self, packages, url, options):
        self._process = subprocess.Popen(
            ["node", SOURCES / "adapter.mjs", url, json.dumps(options)],
            cwd=packages,
            encoding="utf-8",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, command, *parameters):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([command, *parameters]) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self._process.communicate()[1]
        return json.loads(answer).get("value")

    def read(self, key):
        return self("read", key)

    def write(self, key, value):
        self("write", key, value)

    def delete(self, key):
        self("delete", key)

    def close(self):
        if not self._process.stdin.closed:
            _, errors = self._process.communicate()
            assert (0, "") == (self._process.returncode, errors)


@pytest.fixture(scope="session")
def packages():
    """A folder in which Node finds the packages of package.json."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node is not installed")
    wanted = (SOURCES / "package.json").read_bytes()
    folder = CACHE / f"npm-{hashlib.sha256(wanted).hexdigest()[:16]}"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="npm-", dir=CACHE) as building:
        made = Path(building) / "packages"
        made.mkdir()
        (made / "package.json").write_bytes(wanted)
        done = subprocess.run([npm, *INSTALL], check=False, cwd=made, capture_output=True, text=True, timeout=100)
        if "CI" not in os.environ and (problem := NOT_HERE.search(done.stderr)):
            pytest.skip(f"npm cannot install grammY: {problem[1]}")
        assert done.returncode == 0, done.stderr
        # Another test run may have been faster; a folder that has something in it is not replaced.
        with contextlib.suppress(OSError):
            made.rename(folder)
    assert folder.is_dir()
    return folder


@pytest.fixture
def start(packages):
    """A function that starts a bot with the storage of a URL."""
    with contextlib.ExitStack() as bots:

        def start_bot(url, **options):
            bot = Bot(packages, url, options)
            bots.callback(bot.close)
            return bot

        yield start_bot


@pytest.fixture(params=["file", "redis", "mongo", "postgres", "supabase"])
async def url(request, make_url, open_url):
    """The URL of every storage that grammY has an adapter for, empty as grammY wants to find it."""
    url = make_url(request.param)
    if request.param == "supabase":
        table = url.rpartition("=")[2]
        await request.getfixturevalue("postgrest_server").execute(
            f"CREATE TABLE {table} (id varchar PRIMARY KEY, session text)"
        )
        await open_url(url)
    return url


@pytest.fixture
def grammy(start, url):
    """A bot with grammY's adapter for that storage."""
    return start(url)


@pytest.fixture
async def ours(grammy, url, open_url):
    """Untyped sessions in the same place, which grammY's adapter opened first."""
    return Sessions(await open_url(url))


def exact(data):
    """Return text that tells 1 from 1.0, which ``==`` does not."""
    return json.dumps(data, sort_keys=True)


def migrations(*versions):
    """Migrations that note that they ran, as adapter.mjs has them for grammY."""
    return {version: lambda old, version=version: old | {"ran": [*old.get("ran", []), version]} for version in versions}


async def gone(storage, key):
    """Wait until a document has expired here, and another millisecond: grammY lets it live for all of its last one."""
    while await storage.has(key):  # noqa: ASYNC110 - nothing tells when a clock has moved on
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.002)


# ---------------------------------------------------------------------- grammY, in every storage


async def test_what_grammy_wrote_is_read_and_listed(grammy, ours):
    for key, data in SESSIONS.items():
        grammy.write(key, data)

    assert exact(SESSIONS) == exact({key: await ours.read(key) for key in SESSIONS})
    assert exact(SESSIONS) == exact({key: data async for key, data in ours.entries()})
    assert {"a.b", "a:b"} == {key async for key in ours.storage.read_all_keys("a")}


async def test_grammy_reads_what_was_changed_in_its_sessions(grammy, url, open_url):
    theirs = {"name": "Ada", "chat": -1001234567890, "ratio": 2, "seen": {"date": "2024-02-29T12:00:00.000Z"}}
    sessions, found = Sessions(await open_url(url), initial=Profile), []
    for key in SESSIONS:
        grammy.write(key, theirs)
        async with sessions.open(key) as session:
            found.append(session.data)
            session.data = replace(session.data, name="Ада", chat=-1001234567891, ratio=0.5, tags=[key])

    assert [Profile("Ada", -1001234567890, 2.0, [], datetime(2024, 2, 29, 12, tzinfo=UTC))] * len(SESSIONS) == found
    changed = {"name": "Ада", "chat": -1001234567891, "ratio": 0.5, "seen": "2024-02-29T12:00:00Z"}
    assert {key: changed | {"tags": [key]} for key in SESSIONS} == {key: grammy.read(key) for key in SESSIONS}


async def test_grammy_reads_and_changes_what_was_written_here(grammy, ours, url):
    # grammY's file adapter has no names for other keys than these that are safe on every disk.
    written = {key: data for key, data in SESSIONS.items() if not url.startswith("file:") or PLAIN.fullmatch(key)}
    for key, data in written.items():
        async with ours.open(key) as session:
            session.data = data

    assert exact(written) == exact({key: grammy.read(key) for key in written})
    for key, data in written.items():
        grammy.write(key, {"grammY": data})
    assert exact({key: {"grammY": data} for key, data in written.items()}) == exact(
        {key: data async for key, data in ours.entries()}
    )


async def test_what_either_deletes_is_gone_for_the_other(grammy, ours):
    for key in SESSIONS:
        grammy.write(key, {"count": 1})
        here = await ours.delete(key)
        assert (True, None) == (here, grammy.read(key))

        grammy.write(key, {"count": 2})
        grammy.delete(key)
        assert (None, False) == (await ours.read(key), await ours.has(key))
    assert [] == [key async for key in ours.keys()]


async def test_both_find_a_chats_session_under_the_same_key(grammy, ours):
    grammy("handle", -1001234567890, {"count": 1})
    async with await ours.open_for(Origin(chat_id=-1001234567890, user_id=7)) as session:
        session.data["count"] += 1
    grammy("handle", -1001234567890, {"seen": True})

    assert {"count": 2, "seen": True} == await ours.read("-1001234567890")


async def test_a_change_of_grammys_in_between_is_merged_or_a_conflict(grammy, ours):
    grammy.write("42", {"count": 1, "name": "Ada"})
    async with ours.open("42") as session:
        session.data["count"] = 2
        grammy.write("42", {"count": 1, "name": "Grace"})
    assert {"count": 2, "name": "Grace"} == grammy.read("42")

    with pytest.raises(ConflictError):
        async with ours.open("42") as session:
            session.data["count"] = 3
            grammy.write("42", {"count": 9, "name": "Grace"})
    assert {"count": 9, "name": "Grace"} == grammy.read("42")


async def test_redis_lets_sessions_expire_for_both(start, make_url, open_url):
    url = make_url("redis")
    start(url, ttl=100).write("theirs", {"count": 1})
    storage, grammy = await open_url(url), start(url)
    await storage.write("ours", '{"count":2}', ttl=0.05)

    assert 90 < (await storage.read("theirs")).ttl <= 100
    await gone(storage, "ours")
    assert grammy.read("ours") is None


# ---------------------------------------------------------------------- grammY's enhanceStorage


@pytest.fixture(name="place", params=["file", "redis"])
def url_of_text(request, make_url):
    """The URL of a storage of each kind: one that puts a TTL into grammY's envelope, and one that does not."""
    return make_url(request.param)


async def test_only_migrations_beyond_grammys_version_are_run(start, place, open_url):
    start(place).write("plain", {"name": "Ada"})
    start(place, enhance={"versions": [1, 2]}).write("at 2", {"name": "Ada"})
    start(place, enhance={"versions": [1, 2], "millisecondsToLive": 60_000}).write("with time", {"name": "Ada"})
    sessions = Sessions(await open_url(place), migrations=migrations(1, 2, 3))

    assert {
        "plain": {"name": "Ada", "ran": [1, 2, 3]},
        "at 2": {"name": "Ada", "ran": [3]},
        "with time": {"name": "Ada", "ran": [3]},
    } == {key: data async for key, data in sessions.entries()}


async def test_grammy_runs_only_migrations_beyond_the_version_written_here(start, place, open_url):
    storage = await open_url(place)
    for key, ttl in [("42", None), ("43", 60.0)]:
        async with Sessions(storage, initial=dict, migrations=migrations(1, 3), ttl=ttl).open(key) as session:
            session.data["name"] = "Ada"

    as_old, newer = (start(place, enhance={"versions": versions}) for versions in ([1, 3], [1, 3, 4]))
    assert [{"name": "Ada"}] * 2 == [as_old.read(key) for key in ("42", "43")]
    assert [{"name": "Ada", "ran": [4]}] * 2 == [newer.read(key) for key in ("42", "43")]


async def test_sessions_that_grammy_has_migrated_further_are_left_alone(start, place, open_url):
    grammy = start(place, enhance={"versions": [1, 2]})
    grammy.write("42", {"name": "Ada"})
    sessions = Sessions(await open_url(place), migrations=migrations(1))

    with pytest.raises(MigrationError, match="version 2"):
        async with sessions.open("42"):
            pass
    assert {"name": "Ada"} == grammy.read("42")


async def test_a_change_keeps_grammys_version_also_without_migrations(start, place, open_url):
    grammy = start(place, enhance={"versions": [1, 2]})
    grammy.write("42", {"name": "Ada"})
    async with Sessions(await open_url(place)).open("42") as session:
        session.data["name"] = "Grace"

    assert {"name": "Grace"} == grammy.read("42")


async def test_grammys_deadlines_are_honoured(start, place, open_url):
    start(place, enhance={"millisecondsToLive": -1000}).write("over", {"count": 1})
    grammy = start(place, enhance={"millisecondsToLive": 60_000})
    grammy.write("alive", {"count": 2})
    sessions = Sessions(await open_url(place))

    assert {"alive": {"count": 2}} == {key: data async for key, data in sessions.entries()}
    assert (None, False) == (await sessions.read("over"), await sessions.has("over"))
    async with sessions.open("alive") as session:
        session.data["count"] = 3
    assert {"count": 3} == grammy.read("alive")


async def test_a_deadline_that_grammy_gives_to_a_session_of_ours_is_honoured(start, place, open_url):
    sessions = Sessions(await open_url(place), initial=dict)
    for key in ("alive", "over"):
        async with sessions.open(key) as session:
            session.data["count"] = 1

    assert {"count": 1} == start(place, enhance={"millisecondsToLive": 60_000}).read("alive")
    assert {"count": 1} == start(place, enhance={"millisecondsToLive": -1000}).read("over")
    assert ({"count": 1}, None) == (await sessions.read("alive"), await sessions.read("over"))


async def test_a_file_with_a_ttl_is_read_by_grammy_and_expires_for_both(start, make_url, open_url):
    url = make_url("file")
    grammy, storage = start(url, enhance={"millisecondsToLive": 60_000}), await open_url(url)
    grammy.write("theirs", {"count": 1})
    await storage.write("ours", '{"count":2}', ttl=60)
    await storage.write("soon over", '{"count":3}', ttl=0.05)

    assert 50 < (await storage.read("theirs")).ttl <= 60
    assert {"count": 2} == grammy.read("ours")
    await gone(storage, "soon over")
    assert grammy.read("soon over") is None


# ---------------------------------------------------------------------- GramIO


@pytest.mark.parametrize("ttl", [None, 100])
async def test_gramios_redis_sessions_are_read_and_it_reads_ours(start, make_url, open_url, ttl):
    url = make_url("redis")
    gramio = start(url, gramio={"$ttl": ttl})
    storage = await open_url(url)
    sessions = Sessions(storage, key=by_user, ttl=ttl)
    for key, data in SESSIONS.items():
        gramio.write(key, data)
    async with await sessions.open_for(Origin(chat_id=-100, user_id=7)) as session:
        session.data = {"count": 2}

    assert exact(SESSIONS) == exact({key: await sessions.read(key) for key in SESSIONS})
    assert {"count": 2} == gramio.read("7")
    lives = {(await storage.read(key)).ttl for key in [*SESSIONS, "7"]}
    assert {None} == lives if ttl is None else all(90 < life <= 100 for life in lives)


async def test_gramios_sqlite_sessions_are_read_and_it_reads_ours(tmp_path, open_url):
    path, now = tmp_path / "gramio.db", int(time.time())
    with closing(sqlite3.connect(path, isolation_level=None)) as gramio:
        gramio.execute("PRAGMA journal_mode = WAL")
        gramio.execute("CREATE TABLE gramio_storage (key TEXT PRIMARY KEY, value JSONB NOT NULL, expires_at BIGINT)")
        rows = [(key, json.dumps(data, ensure_ascii=False), None) for key, data in SESSIONS.items()]
        rows += [("alive", "{}", now + 100), ("over", "{}", now)]
        gramio.executemany("INSERT OR REPLACE INTO gramio_storage VALUES (?, ?, ?)", rows)
        sessions = Sessions(await open_url(f"sqlite:{path}?table=gramio_storage"), ttl=100)

        assert exact(SESSIONS | {"alive": {}}) == exact({key: data async for key, data in sessions.entries()})
        assert await sessions.read("over") is None
        async with sessions.open("42") as session:
            session.data["name"] = "Ада"
        [(value, kind, expires)] = gramio.execute(
            "SELECT value, typeof(expires_at), expires_at FROM gramio_storage WHERE key = '42'"
        )
    assert ({"count": 1, "name": "Ада"}, "integer") == (json.loads(value), kind)
    assert now + 100 <= expires <= now + 110
