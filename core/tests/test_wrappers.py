"""What each wrapper does beside the contract."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect

import pytest
from bot_session import (
    ABSENT,
    PRESENT,
    BatchedStorage,
    CachedStorage,
    ClosedError,
    ConfigurationError,
    ConflictError,
    FallbackStorage,
    InvalidKeyError,
    MemoryStorage,
    ObservedStorage,
    PrefixedStorage,
    ReadOnlyStorage,
    RetryingStorage,
    SchemaError,
    Storage,
    StorageWrapper,
    UnavailableError,
    UnsupportedError,
    Write,
)
from bot_session.wrappers import StorageEvent, locate


class Flaky(MemoryStorage):
    """
    A memory that can be down, for all methods or some, and notes its calls.

    It is never seen as open, so that every call comes through `_ready`.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.down: set[str] = set()
        self.calls: list[str] = []

    async def _ready(self, operation, key=None):
        self.calls.append(operation)
        if operation in self.down or "all" in self.down:
            raise UnavailableError("no answer", operation=operation, key=key, storage=self)
        await super()._ready(operation, key)

    @property
    def _state(self):
        return "asked" if self._life == "open" else self._life

    @_state.setter
    def _state(self, life):
        self._life = life

    _life = "new"


async def contents(storage: Storage) -> dict[str, str]:
    return {key: record.value async for key, record in storage.read_all_entries()}


# ---------------------------------------------------------------------- forwarding

METHODS = {
    "read": ("k",),
    "write": ("k", "1"),
    "delete": ("k",),
    "has": ("k",),
    "touch": ("k", None),
    "read_all_keys": ("k",),
    "read_all_values": ("k",),
    "read_all_entries": ("k",),
    "read_many": (["k"],),
    "write_many": ([Write("k", "1")],),
    "delete_many": (["k"],),
    "purge": (),
    "check": (),
    "ddl": (),
    "open": (),
    "close": (),
}
OPTIONS = {
    "write": {"ttl": 5.0, "match": ABSENT},
    "delete": {"match": PRESENT},
    "read_all_keys": {"batch_size": 7},
    "read_all_values": {"batch_size": 7},
    "read_all_entries": {"batch_size": 7},
}
ANSWERS = {
    "write": "the version",
    "delete": True,
    "has": True,
    "touch": True,
    "read_many": {},
    "write_many": ["the version"],
    "delete_many": 4,
    "purge": 5,
    "ddl": "CREATE",
}


def test_the_methods_tested_here_are_all_that_a_storage_has():
    public = {name for name, _ in inspect.getmembers(Storage, inspect.isfunction) if not name.startswith("_")}

    # Its default calls the others, and so passes by no wrapper.
    assert public == METHODS.keys() | {"write_then_read"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrap", [StorageWrapper, lambda inner: ObservedStorage(inner, lambda _: None)])
async def test_every_method_is_passed_on_with_all_its_arguments(method, wrap):
    """What comes out is what came in; what goes in goes in as it is."""
    inner = MemoryStorage()
    answer = ANSWERS.get(method)
    iterates = method.startswith("read_all_")
    seen = []

    async def stream():
        yield "item"

    def spy(*args, **options):
        seen.append((args, options))
        if iterates:
            return stream()
        return answer if method == "ddl" else asyncio.sleep(0, answer)

    setattr(inner, method, spy)
    got = getattr(wrap(inner), method)(*METHODS[method], **OPTIONS.get(method, {}))
    if iterates:
        answer, got = ["item"], [item async for item in got]
    elif method != "ddl":
        got = await got

    assert seen == [(METHODS[method], OPTIONS.get(method, {}))]
    assert got == answer


@pytest.mark.parametrize("cls", [StorageWrapper, ObservedStorage, ReadOnlyStorage, PrefixedStorage, FallbackStorage])
def test_a_wrapper_leaves_no_method_to_the_defaults_of_storage(cls):
    chosen = {"read_all_values", "read_all_entries", "delete_many"} if cls is FallbackStorage else set()

    assert chosen == {name for name in METHODS if getattr(cls, name) is getattr(Storage, name)}


async def test_a_wrapper_opens_and_closes_what_it_wraps():
    inner = MemoryStorage()
    async with PrefixedStorage(ReadOnlyStorage(inner), "a:") as storage:
        assert await storage.read("k") is None

    with pytest.raises(ClosedError):
        await inner.read("k")


@pytest.mark.parametrize(
    "wrap",
    [
        StorageWrapper,
        CachedStorage,
        BatchedStorage,
        RetryingStorage,
        lambda inner: PrefixedStorage(inner, "a:"),
        lambda inner: FallbackStorage(inner, MemoryStorage()),
        lambda inner: ObservedStorage(CachedStorage(inner), lambda _: None),
    ],
)
async def test_a_wrapper_does_not_open_what_was_closed(wrap):
    inner = MemoryStorage()
    storage = wrap(inner)
    await storage.open()
    await storage.close()
    with pytest.raises(ClosedError):
        await storage.write_then_read([[Write("k", "1")]], ["k"])
    with pytest.raises(ClosedError):
        await inner.read("k")


def test_a_wrapper_has_the_capabilities_of_what_it_wraps():
    assert ReadOnlyStorage(MemoryStorage()).capabilities is MemoryStorage.capabilities


class Narrowing(MemoryStorage):
    """Knows only when it is open that it can less."""

    async def _open(self):
        self.capabilities = dataclasses.replace(self.capabilities, ttl_resolution=1.0, max_key_bytes=50)


@pytest.mark.parametrize(
    ("wrap", "longest"),
    [
        (StorageWrapper, 50),
        (CachedStorage, 50),
        (lambda inner: PrefixedStorage(inner, "pizza:"), 44),
        (lambda inner: FallbackStorage(inner, MemoryStorage()), 50),
        (lambda inner: FallbackStorage(MemoryStorage(), inner), 50),
        (lambda inner: CachedStorage(PrefixedStorage(ObservedStorage(inner, print), "x" * 60)), 0),
    ],
)
async def test_a_wrapper_can_no_more_than_what_it_wraps_at_that_time(wrap, longest):
    inner = Narrowing()
    storage = wrap(inner)

    assert (0.0, None) == (storage.capabilities.ttl_resolution, storage.capabilities.max_key_bytes)

    await inner.open()

    assert (1.0, longest) == (storage.capabilities.ttl_resolution, storage.capabilities.max_key_bytes)
    assert storage.capabilities is storage.capabilities  # made once, since every operation looks at them
    with pytest.raises(InvalidKeyError):
        await storage.write("k" * (longest + 1), "1")


def test_reprs_tell_what_is_wrapped():
    storage = ReadOnlyStorage(PrefixedStorage(MemoryStorage(), "a:"))

    assert repr(storage) == "<ReadOnlyStorage of <PrefixedStorage 'a:' of <MemoryStorage>>>"


def test_locate_finds_the_place_behind_all_wrappers():
    memory = MemoryStorage()
    nested = PrefixedStorage(ObservedStorage(PrefixedStorage(memory, "a:"), print), "b:")

    assert locate(nested, "k") == (memory, "a:b:k")
    assert locate(FallbackStorage(nested, MemoryStorage()), "k") == (memory, "a:b:k")
    assert locate(memory, "k") == (memory, "k")


# ---------------------------------------------------------------------- prefixed


class Small(MemoryStorage):
    capabilities = dataclasses.replace(MemoryStorage.capabilities, max_key_bytes=8)


async def test_sibling_prefixes_do_not_see_each_other():
    memory = MemoryStorage()
    storages = [PrefixedStorage(memory, prefix) for prefix in ("app:", "app2:", "ap%:", "app_:")]
    for index, storage in enumerate(storages):
        await storage.write("k", str(index))
    await storages[0].delete_many(["2:k", "k"])

    assert [await contents(storage) for storage in storages] == [{}, {"k": "1"}, {"k": "2"}, {"k": "3"}]


async def test_errors_name_the_key_that_the_caller_knows():
    storage = PrefixedStorage(PrefixedStorage(MemoryStorage(), "a:"), "a:")
    await storage.write("a:k", "1")
    with pytest.raises(ConflictError) as conflict:
        await storage.write("a:k", "2", match=ABSENT)
    (result,) = await storage.write_many([Write("a:k", "2", match=ABSENT)])
    await storage.close()
    with pytest.raises(ClosedError) as closed:
        await storage.read("a:k")

    assert [error.key for error in (conflict.value, result, closed.value)] == ["a:k", "a:k", "a:k"]


async def test_an_error_that_several_operations_share_names_the_key_alike_for_all():
    class GoneAfterOne(MemoryStorage):
        async def write_many(self, writes):
            raise SchemaError("gone", operation="write_many", key=writes[0].key)

    inner = GoneAfterOne()
    storage = PrefixedStorage(PrefixedStorage(inner, "a"), "a")
    writes = [Write(key, "1") for key in ("aaab", "aaac", "z")]
    results, found = await storage.write_then_read([[Write("x", "1")], writes])

    assert ["aaab"] * 3 == [error.key for error in results[1:]]
    assert found is None

    shared = SchemaError("gone", operation="write_many", key="aaaab")
    inner.write_many = lambda writes: asyncio.sleep(0, [shared] * len(writes))

    for _ in range(2):  # as of callers whose operations travelled together
        assert ["aab"] * 3 == [error.key for error in await storage.write_many(writes)]


async def test_the_limit_of_a_key_leaves_room_for_the_prefix():
    storage = PrefixedStorage(Small(), "é:")

    assert storage.capabilities == dataclasses.replace(Small.capabilities, max_key_bytes=5)
    await storage.write("12345", "1")
    with pytest.raises(InvalidKeyError, match="the key has 6 bytes, the limit is 5") as refusal:
        await storage.write("123456", "1")
    assert refusal.value.key == "123456"


@pytest.mark.parametrize("prefix", ["a\0", "\ud800", 5, "12345678"])
def test_a_prefix_that_no_key_can_have_is_refused(prefix):
    with pytest.raises(ConfigurationError):
        PrefixedStorage(Small(), prefix)


async def test_purge_is_for_the_whole_storage():
    now = [0.0]
    memory = MemoryStorage(clock=lambda: now[0])
    await memory.write("other:k", "1", ttl=1.0)
    await PrefixedStorage(memory, "a:").write("k", "1", ttl=1.0)
    now[0] = 2.0

    assert await PrefixedStorage(memory, "a:").purge() == 2


# ---------------------------------------------------------------------- read-only


async def test_read_only_reads_and_changes_nothing():
    memory = MemoryStorage()
    await memory.write("k", "1")
    storage = ReadOnlyStorage(memory)
    calls = [
        storage.write("k", "2"),
        storage.delete("k"),
        storage.touch("k", 5.0),
        storage.write_many([]),
        storage.delete_many([]),
        storage.purge(),
    ]
    for call in calls:
        with pytest.raises(UnsupportedError, match="read-only"):
            await call

    assert await contents(storage) == {"k": "1"}
    assert (await storage.read("k"), await storage.has("k")) == (await memory.read("k"), True)


# ---------------------------------------------------------------------- observed


@pytest.fixture
def events():
    return []


@pytest.fixture
def observed(events):
    ticks = iter(range(1_000))
    return ObservedStorage(Flaky(), events.append, clock=lambda: next(ticks))


async def test_every_operation_is_an_event(observed, events):
    await observed.open()
    await observed.read("k")
    await observed.write("k", "1")
    await observed.read("k")
    await observed.has("k")
    await observed.touch("missing", 5.0)
    await observed.read_many(["k", "l", "m"])
    await observed.write_many([Write("k", "2"), Write("k", "3", match=ABSENT), Write("l", None)])
    await observed.delete("l")
    await observed.delete_many(iter(["k", "l"]))
    await observed.purge()
    await observed.check()
    await observed.close()

    assert [(event.operation, event.keys, event.found, event.conflicts) for event in events] == [
        ("open", 0, None, 0),
        ("read", 1, 0, 0),
        ("write", 1, None, 0),
        ("read", 1, 1, 0),
        ("has", 1, 1, 0),
        ("touch", 1, 0, 0),
        ("read_many", 3, 1, 0),
        ("write_many", 3, None, 1),
        ("delete", 1, 0, 0),
        ("delete_many", 2, 1, 0),
        ("purge", 0, 0, 0),
        ("check", 0, None, 0),
        ("close", 0, None, 0),
    ]
    assert {(event.seconds, event.error) for event in events} == {(1, None)}


async def test_an_error_is_an_event_and_still_an_error(observed, events):
    await observed.write("k", "1")
    with pytest.raises(ConflictError):
        await observed.write("k", "2", match=ABSENT)
    observed.inner.down.add("all")
    with pytest.raises(UnavailableError):
        await observed.read("k")
    with pytest.raises(UnavailableError):
        await contents(observed)

    assert events[1:] == [
        StorageEvent(operation="write", keys=1, seconds=1, conflicts=1, error=ConflictError),
        StorageEvent(operation="read", keys=1, seconds=1, error=UnavailableError),
        StorageEvent(operation="read_all_entries", seconds=1, error=UnavailableError),
    ]


async def test_a_cancelled_call_is_an_event(events):
    inner = MemoryStorage()
    inner.read = lambda key: asyncio.Event().wait()
    reading = asyncio.create_task(ObservedStorage(inner, events.append).read("k"))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert [event.error for event in events] == [asyncio.CancelledError]


async def test_an_iteration_is_one_event_with_the_storages_own_time(observed, events):
    await observed.write_many([Write(key, "1") for key in "abc"])
    async for _ in observed.read_all_keys():
        observed._clock()  # a second that the reader takes

    # Three keys and the end: four waits of a second each.
    assert events[1:] == [StorageEvent(operation="read_all_keys", keys=3, found=3, seconds=4)]


async def test_an_iteration_that_is_left_early_is_no_error(observed, events):
    await observed.write_many([Write(key, "1") for key in "abc"])
    stream = observed.read_all_values()
    await anext(stream)
    await stream.aclose()

    assert events[1:] == [StorageEvent(operation="read_all_values", keys=1, found=1, seconds=1)]


async def test_an_observer_that_fails_is_logged_and_breaks_nothing(caplog):
    def observer(event):
        raise RuntimeError("no metrics today")

    storage = ObservedStorage(MemoryStorage(), observer)
    await storage.write("k", '"secret"')

    assert [key async for key in storage.read_all_keys()] == ["k"]
    assert [(record.name, record.levelname) for record in caplog.records] == [("bot_session", "ERROR")] * 2
    assert "no metrics today" in caplog.text
    assert "secret" not in caplog.text


# ---------------------------------------------------------------------- fallback


@pytest.fixture
def first():
    return Flaky()


@pytest.fixture
def second():
    return Flaky()


@pytest.fixture
def third():
    return Flaky()


@pytest.fixture
def fallback(first, second, third):
    return FallbackStorage(first, second, third)


def test_a_fallback_needs_two_different_storages(first, second):
    with pytest.raises(ConfigurationError, match="at least two"):
        FallbackStorage(first)
    for twin in (first, ReadOnlyStorage(first), FallbackStorage(first, second)):
        with pytest.raises(ConfigurationError, match="same storage twice"):
            FallbackStorage(first, twin)
    with pytest.raises(ConfigurationError, match="on_failed_copy"):
        FallbackStorage(first, second, on_failed_copy="ignore")

    assert FallbackStorage(PrefixedStorage(first, "a:"), PrefixedStorage(first, "b:"))


def test_the_narrowest_limits_count(first):
    storage = FallbackStorage(first, Small())

    assert storage.capabilities.max_key_bytes == 8


async def test_only_nothing_is_a_miss(fallback, first, second):
    for document in ("0", "false", '""', "null", "{}"):
        await first.write("k", document)
        await second.write("k", "9")

        assert (await fallback.read("k")).value == document


async def test_what_the_primary_lacks_is_copied_into_it(fallback, first, second, third):
    await second.write("k", "2", ttl=60.0)
    await third.write_many([Write("k", "3"), Write("l", "3")])
    record = await fallback.read("k")
    many = await fallback.read_many(["k", "l", "m"])

    assert (record.value, many["l"].value) == ("2", "3")
    assert record.ttl == pytest.approx(60.0, abs=5.0)
    assert (await first.read("k")).ttl == pytest.approx(60.0, abs=5.0)
    assert await contents(first) == {"k": "2", "l": "3"}
    assert await fallback.write("k", "4", match=record.version)


async def test_the_faster_one_wins_against_a_copy(fallback, first, second):
    """Somebody in another process writes between our look at the primary and our copy."""
    await second.write("k", '"old"')
    write_many = first.write_many

    async def overtaken(writes):
        await first.write("k", '"new"')
        return await write_many(writes)

    first.write_many = overtaken

    assert (await fallback.read("k")).value == '"new"'
    assert await contents(first) == {"k": '"new"'}


@pytest.fixture
def deleting_meanwhile(first, second, third):
    """Two workers with the same storages; what one reads at home is deleted by the other in between."""

    def workers(*, before):
        reader, deleter = FallbackStorage(first, second, third), FallbackStorage(first, second, third)
        write_many = first.write_many

        async def interrupted(writes):
            first.write_many = write_many
            if before:
                await deleter.delete("k")
                return await write_many(writes)
            results = await write_many(writes)
            await deleter.delete("k")
            return results

        first.write_many = interrupted
        return reader

    return workers


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("home", ["second", "third"])
async def test_what_is_deleted_while_it_is_copied_into_the_primary_is_gone(deleting_meanwhile, home, before, request):
    first, second, third = (request.getfixturevalue(name) for name in ("first", "second", "third"))
    await request.getfixturevalue(home).write("k", '"old"')
    await second.write("l", '"kept"')
    found = await deleting_meanwhile(before=before).read_many(["k", "l"])

    assert {"l": '"kept"'} == {key: record.value for key, record in found.items()}
    assert [{"l": '"kept"'}, {"l": '"kept"'}, {}] == [await contents(each) for each in (first, second, third)]


async def test_what_was_written_after_it_was_deleted_stays(deleting_meanwhile, first, second):
    reader = deleting_meanwhile(before=True)
    await second.write("k", '"old"')
    read_many = second.read_many

    async def overtaken(keys):
        found = await read_many(keys)
        if not found:
            await first.write("k", '"new"')
        return found

    second.read_many = overtaken

    assert '"new"' == (await reader.read("k")).value
    assert {"k": '"new"'} == await contents(first)


async def test_a_copy_does_not_outlive_the_primary_s():
    now = 0.0

    class Slow(MemoryStorage):
        async def _wait(self, call):
            nonlocal now
            result = await call
            now += 1.0
            return result

        async def write_many(self, writes):
            return await self._wait(super().write_many(writes))

        async def touch(self, key, ttl):
            return await self._wait(super().touch(key, ttl))

        async def read_many(self, keys):
            return await self._wait(super().read_many(keys))

    def clock():
        return now

    slow, fast = Slow(clock=clock), MemoryStorage(clock=clock)
    fallback = FallbackStorage(slow, fast, clock=clock)
    await fallback.write("written", "1", ttl=10)
    written = now - 1
    await fallback.write("touched", "1")
    await fallback.touch("touched", 10)
    touched = now - 1
    await fallback.write("late", "1", ttl=0.5)
    now = written + 10

    assert await fast.read("written") is await fallback.read("written") is None
    now = max(now, touched + 10)
    assert await fast.read("touched") is await fallback.read("touched") is None
    assert {} == await contents(fast)

    now = 0.0
    old = Slow(clock=clock)
    await old.write("k", "1", ttl=10)
    now = 0.0
    brought = await FallbackStorage(fast, old, clock=clock).read("k")

    assert 9 == brought.ttl
    now = 10.0
    assert await fast.read("k") is None


async def test_a_write_goes_everywhere_and_waits_for_all(fallback, first, second, third):
    reached, released = asyncio.Event(), asyncio.Event()
    write_many = third.write_many

    async def slow(writes):
        reached.set()
        await released.wait()
        return await write_many(writes)

    third.write_many = slow
    writing = asyncio.create_task(fallback.write("k", "1", ttl=60.0))
    await reached.wait()

    assert await contents(second) == {"k": "1"}
    assert not writing.done()
    released.set()
    await writing
    assert [await contents(each) for each in (first, second, third)] == [{"k": "1"}] * 3
    assert (await third.read("k")).ttl == pytest.approx(60.0, abs=5.0)


async def test_writers_of_one_key_take_turns_so_that_the_copies_end_as_the_primary(fallback, first, second):
    reached, released = asyncio.Event(), asyncio.Event()
    write_many = second.write_many

    async def slow_at_first(writes):
        if writes[0].value == "1":
            reached.set()
            await released.wait()
        return await write_many(writes)

    second.write_many = slow_at_first
    older = asyncio.create_task(fallback.write("k", "1"))
    await reached.wait()
    newer = asyncio.create_task(fallback.write("k", "2"))
    await fallback.write("another", "3")  # waits for nobody
    released.set()
    await asyncio.gather(older, newer)

    assert await contents(first) == await contents(second) == {"k": "2", "another": "3"}
    assert len(fallback._locks) == 0


async def test_a_failed_match_changes_no_copy(fallback, first, second):
    await fallback.write("k", "1")
    for call in (fallback.write("k", "2", match=ABSENT), fallback.delete("k", match="x")):
        with pytest.raises(ConflictError):
            await call
    results = await fallback.write_many([Write("k", None, match=ABSENT), Write("l", "1")])

    assert [ConflictError, str] == [type(result) for result in results]
    assert await contents(first) == await contents(second) == {"k": "1", "l": "1"}


async def test_conditions_count_what_only_a_copy_has(fallback, second):
    await second.write_many([Write(key, "1") for key in "abcd"])
    with pytest.raises(ConflictError):
        await fallback.write("a", "2", match=ABSENT)
    await fallback.write("b", "2", match=PRESENT)

    assert await fallback.touch("c", 60.0)
    assert await fallback.has("d")
    assert await fallback.delete("d") is True
    assert await fallback.delete_many(["c", "d"]) == 1
    assert await contents(fallback) == {"a": "1", "b": "2"}


async def test_a_touch_reaches_the_copies(fallback, third):
    await fallback.write("k", "1")
    await fallback.touch("k", 60.0)

    assert (await third.read("k")).ttl == pytest.approx(60.0, abs=5.0)


@pytest.mark.parametrize("policy", ["raise", "log"])
async def test_what_was_deleted_does_not_come_back(first, second, third, policy):
    fallback = FallbackStorage(first, second, third, on_failed_copy=policy)
    await fallback.write("k", "1")
    third.down.add("all")
    with pytest.raises(UnavailableError):
        await fallback.delete("k")
    third.down.clear()

    assert (await fallback.read("k")).value == "1"
    assert await fallback.delete("k") is True
    assert await fallback.read("k") is None
    assert [await contents(each) for each in (first, second, third)] == [{}] * 3


@pytest.mark.parametrize("policy", ["raise", "log"])
async def test_an_outage_is_never_a_miss(first, second, policy):
    fallback = FallbackStorage(first, second, on_failed_copy=policy)
    await second.write("k", "1")
    for broken in (first, second):
        broken.down.add("all")
        for call in (fallback.read("k"), fallback.has("k"), fallback.read_many(["k"]), contents(fallback)):
            with pytest.raises(UnavailableError):
                await call
        broken.down.clear()

    assert (await fallback.read("k")).value == "1"


async def test_the_others_are_not_asked_while_the_primary_answers(fallback, first, second):
    await first.write("k", "1")
    second.calls.clear()
    await fallback.read("k")
    await fallback.read_many(["k"])

    assert second.calls == []


async def test_a_copy_that_fails_raises_and_says_that_the_write_may_have_happened(fallback, first, second, third):
    second.down.add("write")
    with pytest.raises(UnavailableError, match="a copy was not") as failure:
        await fallback.write("k", "1")

    assert (failure.value.outcome_unknown, failure.value.retryable) == (True, True)
    assert isinstance(failure.value.__cause__, UnavailableError)
    assert [await contents(each) for each in (first, third)] == [{"k": "1"}] * 2


async def test_a_copy_that_fails_is_logged_if_that_is_asked_for(first, second, caplog):
    fallback = FallbackStorage(first, second, on_failed_copy="log")
    second.down.add("write")
    await fallback.write("k", '"secret"')

    assert await contents(first) == {"k": '"secret"'}
    assert [(record.name, record.levelname) for record in caplog.records] == [("bot_session", "ERROR")]
    assert "secret" not in caplog.text


async def test_a_primary_that_refuses_changes_no_copy(fallback, first, second):
    first.down.add("write")
    with pytest.raises(UnavailableError):
        await fallback.write("k", "1")

    assert await contents(second) == {}


async def test_iteration_is_the_union_without_duplicates(fallback, first, second, third):
    for storage, keys in ((first, "ab"), (second, "bc"), (third, "cd")):
        await storage.write_many([Write(key, f'"{key}"') for key in keys])

    assert sorted([key async for key in fallback.read_all_keys(batch_size=1)]) == ["a", "b", "c", "d"]
    assert await contents(fallback) == {key: f'"{key}"' for key in "abcd"}


async def test_if_one_cannot_be_opened_those_opened_for_it_are_closed_again():
    class Down(MemoryStorage):
        up = False

        async def _open(self):
            if not self.up:
                raise UnavailableError("down")

    new, opened_before, down = MemoryStorage(), MemoryStorage(), Down()
    await opened_before.open()
    fallback = FallbackStorage(ObservedStorage(new, lambda _: None), opened_before, down)
    with pytest.raises(UnavailableError):
        await fallback.open()

    assert await opened_before.read("k") is None
    with pytest.raises(ClosedError):
        await new.read("k")

    down.up = True
    await fallback.open()

    assert await fallback.read("k") is None


async def test_closing_closes_all_even_if_one_fails(fallback, first, second, third):
    await fallback.open()

    async def fail():
        raise UnavailableError("no answer")

    third.close = fail
    with pytest.raises(UnavailableError):
        await fallback.close()

    assert (first._life, second._life) == ("closed", "closed")
