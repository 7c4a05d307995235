"""RetryingStorage: what is safe is tried again, for a moment; what is not is not."""

from types import SimpleNamespace

import pytest
from bot_session import (
    ABSENT,
    ConflictError,
    MemoryStorage,
    RetryingStorage,
    SchemaError,
    StorageWrapper,
    UnavailableError,
    Write,
)
from bot_session.wrappers import retrying


class Failing(StorageWrapper):
    """Fails the next calls with given errors, before or after having done what was asked."""

    def __init__(self, *errors):
        super().__init__(MemoryStorage())
        self.errors = list(errors)
        self.calls = 0

    async def _do(self, call):
        self.calls += 1
        error = self.errors.pop(0) if self.errors else None
        if error is None:
            return await call
        if getattr(error, "outcome_unknown", False):
            await call
        else:
            call.close()
        raise error

    async def read(self, key):
        return await self._do(super().read(key))

    async def has(self, key):
        return await self._do(super().has(key))

    async def touch(self, key, ttl):
        return await self._do(super().touch(key, ttl))

    async def read_many(self, keys):
        return await self._do(super().read_many(keys))

    async def write(self, key, value, **options):
        return await self._do(super().write(key, value, **options))

    async def delete(self, key, **options):
        return await self._do(super().delete(key, **options))

    async def write_many(self, writes):
        return await self._do(super().write_many(writes))

    async def write_then_read(self, rounds, keys=()):
        return await self._do(self.inner.write_then_read(rounds, keys))

    async def delete_many(self, keys):
        return await self._do(super().delete_many(keys))


CALLS = {
    "read": lambda storage: storage.read("42"),
    "has": lambda storage: storage.has("42"),
    "touch": lambda storage: storage.touch("42", 10),
    "read_many": lambda storage: storage.read_many(["42"]),
    "write": lambda storage: storage.write("42", "2"),
    "delete": lambda storage: storage.delete("42"),
    "write_many": lambda storage: storage.write_many([Write("42", "2")]),
    "write_then_read": lambda storage: storage.write_then_read([[Write("42", "2")]], ["42"]),
    "delete_many": lambda storage: storage.delete_many(iter(["42"])),
}


def down():
    return UnavailableError("down")


def unknown():
    return UnavailableError("cut off", outcome_unknown=True)


@pytest.mark.parametrize("call", CALLS)
class TestRepeating:
    async def test_what_surely_did_not_happen_is_tried_again(self, call):
        failing = Failing(None, down(), down())
        storage = RetryingStorage(failing)
        await storage.write("42", "1")

        assert await CALLS[call](storage)
        assert 4 == failing.calls

    async def test_an_end_comes(self, call):
        failing = Failing(*[down() for _ in range(100)])
        with pytest.raises(UnavailableError):
            await CALLS[call](RetryingStorage(failing, budget=0.1))

        assert 2 <= failing.calls < 10

    async def test_other_errors_are_not_tried_again(self, call):
        failing = Failing(SchemaError("no table"))
        with pytest.raises(SchemaError):
            await CALLS[call](RetryingStorage(failing))

        assert 1 == failing.calls


@pytest.mark.parametrize("call", ["write", "delete", "write_many", "write_then_read", "delete_many"])
async def test_a_write_whose_outcome_is_unknown_is_not_repeated(call):
    failing = Failing(unknown())
    with pytest.raises(UnavailableError) as caught:
        await CALLS[call](RetryingStorage(failing))

    assert caught.value.outcome_unknown
    assert 1 == failing.calls


async def test_two_writers_who_make_the_same_change_never_both_succeed():
    failing = Failing(None, unknown())
    storage = RetryingStorage(failing)
    version = await storage.write("42", '{"n":1}')
    with pytest.raises(UnavailableError):
        await storage.write("42", '{"n":2}', match=version)
    with pytest.raises(ConflictError):
        await storage.write("42", '{"n":2}', match=version)


async def test_a_conflict_is_an_answer():
    failing = Failing()
    storage = RetryingStorage(failing)
    await storage.write("42", "1")
    with pytest.raises(ConflictError):
        await storage.write("42", "2", match=ABSENT)

    assert 2 == failing.calls


async def test_pauses_double_up_to_half_a_second_and_end_with_the_budget(monkeypatch):
    now, pauses = 0.0, []

    async def sleep(pause):
        nonlocal now
        now += pause
        pauses.append(round(pause, 3))

    monkeypatch.setattr(retrying, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(retrying, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(retrying, "random", SimpleNamespace(uniform=lambda _, longest: longest))
    inner = Failing(*(UnavailableError("away") for _ in range(50)))
    with pytest.raises(UnavailableError, match="away"):
        await RetryingStorage(inner).read("42")

    assert [0.02, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5] == pauses
