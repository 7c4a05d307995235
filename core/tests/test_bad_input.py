"""Input from anywhere: a perfect round trip or a typed error, nothing between."""

import asyncio
import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
from bot_session import (
    ConfigurationError,
    DecodeError,
    EncodeError,
    InvalidKeyError,
    MemoryStorage,
    Seal,
    Sessions,
    open_storage,
    urls,
)
from bot_session.leases import LEASE_PREFIX
from bot_session.storage import key_problem
from hypothesis import given, settings
from hypothesis import strategies as st

STORAGES = ["memory:", "file:sessions", "sqlite:sessions.db"]
SEALS = {"plain": Seal(), "encrypted": Seal(bytes(32), compress=True)}
MIB = 2**20
FUZZ = Path(__file__).parents[2] / "fuzz"
INPUTS = sorted([*FUZZ.glob("found/*/*"), *FUZZ.glob("seeds/*/*")])

any_text = st.text(st.characters(codec=None, exclude_categories=()))
numbers = st.integers(-(10**400), 10**400) | st.floats()
json_like = st.recursive(
    st.none() | st.booleans() | numbers | any_text,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(any_text, parts, max_size=4),
    max_leaves=12,
)


@pytest.fixture(params=STORAGES)
async def storage(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = open_storage(request.param, **({"fsync": False} if request.param.startswith("file:") else {}))
    async with storage:
        yield storage


@pytest.fixture(params=SEALS.values(), ids=SEALS)
def sessions(request, storage):
    return Sessions(storage, seal=request.param)


@pytest.fixture(scope="module")
def targets():
    spec = importlib.util.spec_from_file_location("fuzz_targets", FUZZ / "targets.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(urls, "_registered", {})
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module.TARGETS


async def save(sessions, data, key="42"):
    async with sessions.open(key) as session:
        session.data = data


def same(one, other):
    """Whether they are equal, and of the same types."""
    return one == other and repr(one) == repr(other)


def nested(depth):
    data = []
    for _ in range(depth):
        data = [data]
    return data


class TestData:
    async def test_anything_comes_back_or_cannot_be_saved(self, sessions):
        tried = 0

        async def check(data):
            nonlocal tried
            tried += 1
            await sessions.delete("42")
            try:
                await save(sessions, data)
            except EncodeError:
                assert not await sessions.has("42")
                assert not is_json(data)
            else:
                assert same(data, await sessions.read("42"))

        await every_example(json_like, check)
        assert tried > 50

    @pytest.mark.parametrize("size", [0, 1, 1024, MIB, 16 * MIB], ids=["0", "1", "1 KiB", "1 MiB", "16 MiB"])
    async def test_documents_may_be_large(self, sessions, size):
        data = {"text": "ä" * (size // 2), "more": "\x00\n\u2028" * 3}

        await save(sessions, data)

        assert data == await sessions.read("42")

    @pytest.mark.parametrize("depth", [100, 400, 900, 5_000, 200_000])
    async def test_deep_data_comes_back_or_cannot_be_saved(self, sessions, depth):
        data = nested(depth)
        try:
            await save(sessions, data)
        except EncodeError as error:
            assert depth > 400, error
            assert not await sessions.has("42")
        else:
            assert depth == depth_of(await sessions.read("42"))

    @pytest.mark.parametrize("depth", [400, 200_000])
    async def test_deep_documents_are_read_or_refused(self, sessions, depth):
        document = "[" * depth + "]" * depth
        sealed = sessions.documents._sealed("42", document)
        await sessions.storage.write("42", sealed)

        try:
            assert depth == 1 + depth_of(await sessions.read("42"))
        except DecodeError as error:
            assert ("42", True) == (error.key, depth > 400)

        assert sealed == (await sessions.storage.read("42")).value

    @pytest.mark.parametrize(
        "number",
        [2**63, -(2**63) - 1, 2**64, 10**4000, -(10**4000), 10**5000, 1e308, 5e-324, -0.0],
        ids=lambda n: f"{n.bit_length()} bits" if isinstance(n, int) else None,
    )
    async def test_numbers_come_back_exactly_or_cannot_be_saved(self, sessions, number):
        try:
            await save(sessions, {"n": number})
        except EncodeError:
            assert abs(number) >= 2**64
            assert not await sessions.has("42")
        else:
            assert same({"n": number}, await sessions.read("42"))

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("beside", ["", "\ud83c"], ids=["alone", "beside half a character"])
    async def test_what_is_no_number_cannot_be_saved(self, sessions, number, beside):
        with pytest.raises(EncodeError):
            await save(sessions, {"text": beside, "deep": [{"n": number}]})

        assert not await sessions.has("42")

    @pytest.mark.parametrize("text", ["\ud83c", "\udf55", "\udf55\ud83c", "a\ud800b", "\x00", "\ufffe", "🍕"])
    async def test_halves_of_characters_and_worse_come_back(self, sessions, text):
        await save(sessions, {text: [text]})

        assert {text: [text]} == await sessions.read("42")

    async def test_what_holds_itself_cannot_be_saved(self, sessions):
        data = {}
        data["me"] = [data]

        with pytest.raises(EncodeError):
            await save(sessions, data)


class TestDocuments:
    """What others have written into the storage."""

    @pytest.mark.parametrize(
        "document",
        [
            "1e400",
            "-1e999",
            r'{"a":"\ud83c","n":1e400}',
            r'{"__d":{"a":"\ud83c","n":1e400}}',
            r'["\ud83c",NaN]',
            '{"a":1',
            "nul",
            "'a'",
            '"\x01"',
            '{"a":1}{"b":2}',
            '{"v":1,"__d":}',
            '"bot-session:sealed:zlib::"',
        ],
    )
    async def test_what_is_no_json_is_refused_and_stays(self, document):
        storage = MemoryStorage()
        await storage.write("42", document)

        with pytest.raises(DecodeError, match="session '42'"):
            await save(Sessions(storage), {"over": "written"})

        assert document == (await storage.read("42")).value

    async def test_any_document_is_read_or_refused(self):
        storage = MemoryStorage()
        sessions = [Sessions(storage, seal=seal) for seal in SEALS.values()]

        async def check(document):
            await storage.write("42", document)
            for each in sessions:
                try:
                    data = await each.read("42")
                except DecodeError as error:
                    assert "42" == error.key
                else:
                    await save(each, data, "copy")
                    assert same(data, await each.read("copy"))
                    await each.delete("copy")

        await every_example(any_text | json_like.map(json.dumps), check)


class TestKeys:
    async def test_any_key_is_kept_apart_or_refused(self, storage):
        sessions = Sessions(storage, type=str)

        async def check(key):
            try:
                await save(sessions, key, key)
            except InvalidKeyError:
                assert key_problem(key, storage.capabilities.max_key_bytes) or LEASE_PREFIX in key
                return
            assert key == await sessions.read(key)
            assert [key] == [found async for found in sessions.keys()]
            await sessions.delete(key)
            assert 0 == await sessions.count()

        await every_example(any_text, check)

    async def test_what_would_be_taken_for_a_lease_is_refused(self):
        storage = MemoryStorage()
        lease = LEASE_PREFIX + "42"
        await storage.write(lease, '{"holder":"x"}')
        sessions, prefixed = Sessions(storage, type=str), Sessions(storage, type=str, prefix=LEASE_PREFIX[:5])

        for each, key in [(sessions, lease), (sessions, LEASE_PREFIX), (prefixed, lease[5:]), (sessions, f"a{lease}")]:
            for attempt in (
                save(each, "mine", key),
                each.read(key),
                each.has(key),
                each.delete(key),
                each.update(key, str.upper),
                each.move(key, "42"),
                each.move("42", key),
            ):
                with pytest.raises(InvalidKeyError, match="no session's key holds 'bot-session:lease:'"):
                    await attempt
        with pytest.raises(ConfigurationError, match="prefix must not hold 'bot-session:lease:'"):
            Sessions(storage, prefix=lease)

        assert '{"holder":"x"}' == (await storage.read(lease)).value
        await save(sessions, "kept", LEASE_PREFIX[:-1])
        assert [LEASE_PREFIX[:-1]] == [key async for key in sessions.keys()]

    async def test_a_key_that_is_no_text_is_refused_in_words(self):
        sessions = Sessions(MemoryStorage(), type=str)

        for attempt in (
            save(sessions, "mine", 42),
            sessions.read(42),
            sessions.delete(42),
            sessions.update(42, str.upper),
            sessions.move("42", 42),
        ):
            with pytest.raises(InvalidKeyError, match="a key is text, not int"):
                await attempt

    async def test_keys_that_disks_would_take_for_each_other(self, storage):
        sessions = Sessions(storage, type=str)
        keys = ["a", "A", "a ", "a.", ".a", "a/", "/a", "./a", "../a", "%61", "é", "e\u0301", "con", "CON", "con.json"]
        keys += ["a\\b", "a:b", "a\nb", "🍕", "a" * 250, "a" * 251, "A" * 250, "-", "--help", "*", "a%", "a_", "~", ""]

        for key in keys:
            await save(sessions, key, key)

        assert {key: key for key in keys} == dict([entry async for entry in sessions.entries()])


class TestUrls:
    @given(any_text)
    @settings(max_examples=50, deadline=None)
    def test_any_text_makes_a_storage_or_a_configuration_error(self, text):
        for url in (text, f"memory:{text}", f"file:{text}", f"sqlite:{text}"):
            try:
                open_storage(url)
            except ConfigurationError as error:
                assert str(error)


class TestFound:
    """What fuzzing has found, and what it starts from: see fuzz/."""

    @pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name[:20]}")
    def test_the_promises_hold_for_what_was_found(self, targets, path):
        targets[path.parent.name](path.read_bytes())

    def test_every_target_has_something_to_start_from(self, targets):
        assert targets.keys() == {path.parent.name for path in INPUTS}


def is_json(data):
    """Whether JSON can say exactly this, and msgspec read it: its integers have 64 bits."""
    try:
        return same(data, json.loads(json.dumps(data, allow_nan=False))) and not has_huge_integer(data)
    except ValueError:
        return False


def has_huge_integer(data):
    if isinstance(data, dict):
        return any(map(has_huge_integer, data.values()))
    if isinstance(data, list):
        return any(map(has_huge_integer, data))
    return isinstance(data, int) and not -(2**63) <= data < 2**64


def depth_of(data):
    depth = 0
    while data:
        (data,) = data
        depth += 1
    return depth


async def every_example(strategy, check):
    """Check what Hypothesis thinks of. It works in a thread, and this event loop for it."""
    loop = asyncio.get_running_loop()

    @given(strategy)
    @settings(deadline=None, database=None)
    def examples(example):
        asyncio.run_coroutine_threadsafe(check(example), loop).result()

    await asyncio.to_thread(examples)
