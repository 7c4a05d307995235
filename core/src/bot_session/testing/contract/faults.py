"""Group: an error is never a miss, and a storage survives broken connections and cancelled calls."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from bot_session.errors import StorageError, UnavailableError
from bot_session.storage import PRESENT, Write

from .base import ContractBase, keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from bot_session.storage import Storage

__all__ = ["Faults"]


def calls_of(storage: Storage) -> dict[str, Callable[[], Coroutine[Any, Any, Any]]]:
    """Return a call of every method, by name, for when `BEFORE` is stored."""

    async def iterate() -> list[str]:
        return [key async for key in storage.read_all_keys(batch_size=2)]

    async def iterate_entries() -> list[str]:
        return [key async for key, _ in storage.read_all_entries(batch_size=2)]

    async def iterate_values() -> list[str]:
        return [value async for value in storage.read_all_values(batch_size=2)]

    return {
        "read": lambda: storage.read("k"),
        "write": lambda: storage.write("k", "1"),
        "write with a match": lambda: storage.write("k", "1", match=PRESENT),
        "delete": lambda: storage.delete("k"),
        "has": lambda: storage.has("k"),
        "touch": lambda: storage.touch("k", 60.0),
        "read_many": lambda: storage.read_many(["k", "l"]),
        "write_many": lambda: storage.write_many([Write("k", "1"), Write("l", None)]),
        "delete_many": lambda: storage.delete_many(["k", "l"]),
        "read_all_keys": iterate,
        "read_all_entries": iterate_entries,
        "read_all_values": iterate_values,
        "check": storage.check,
    }


BEFORE = {"k": "0", "l": "0"}
RETURNS: dict[str, Callable[[Any], bool]] = {
    "read": lambda record: record is not None,
    "write": lambda version: isinstance(version, str),
    "write with a match": lambda version: isinstance(version, str),
    "delete": lambda existed: existed is True,
    "has": lambda found: found is True,
    "touch": lambda found: found is True,
    "read_many": lambda found: found.keys() == BEFORE.keys(),
    "write_many": lambda results: isinstance(results[0], str) and results[1] is True,
    "delete_many": lambda count: count == 2,
    "read_all_keys": lambda keys: set(keys) >= BEFORE.keys(),
    "read_all_entries": lambda keys: set(keys) >= BEFORE.keys(),
    "read_all_values": lambda values: len(values) >= len(BEFORE),
}
"""What the calls return if they return at all."""
AFTER = {
    "write": {"k": "1", "l": "0"},
    "write with a match": {"k": "1", "l": "0"},
    "delete": {"l": "0"},
    "write_many": {"k": "1"},
    "delete_many": {},
}
"""What is stored then, where that is not what was there before."""


class Faults(ContractBase):
    """An error is never a miss."""

    @pytest.mark.parametrize("method", ["open", "check", *RETURNS])
    async def test_an_unreachable_backend_is_an_error_and_never_a_miss(self, method: str) -> None:
        storage = self.make_unreachable()
        call = storage.open if method == "open" else calls_of(storage)[method]
        started = time.monotonic()
        try:
            with pytest.raises(UnavailableError) as caught:
                pytest.fail(f"{method} returned {await asyncio.wait_for(call(), self.patience)!r}")
        finally:
            await storage.close()

        assert caught.value.retryable
        assert caught.value.__cause__ is not None
        assert time.monotonic() - started < self.patience

    @pytest.mark.parametrize("method", RETURNS)
    async def test_after_a_cut_no_call_takes_an_error_for_a_miss(self, storage: Storage, method: str) -> None:
        for _ in range(2):
            await self.settled(storage)
            await self.cut_connection(storage)
            try:
                result = await asyncio.wait_for(calls_of(storage)[method](), self.patience)
            except StorageError as error:
                assert isinstance(error, UnavailableError)
                assert error.__cause__ is not None
                assert error.storage is not None
                if method in {"read", "write", "delete"}:
                    assert (method, "k") == (error.operation, error.key)
            else:
                await self.did(storage, method, result)

    async def test_after_a_cut_purge_takes_no_error_for_nothing_to_do(self, storage: Storage) -> None:
        await self.settled(storage)
        await self.write_expired(storage, ["expired"])
        await self.cut_connection(storage)
        try:
            purged = await asyncio.wait_for(storage.purge(), self.patience)
        except UnavailableError as error:
            assert error.__cause__ is not None
        else:
            assert purged == (0 if storage.capabilities.native_expiry else 1)

    async def test_after_a_cut_it_works_again(self, storage: Storage) -> None:
        for _ in range(3):
            await self.settled(storage)
            await self.cut_connection(storage)
        await self.settled(storage)

        assert await keys_of(storage) == sorted(BEFORE)

    async def settled(self, storage: Storage) -> None:
        """Write until it works: every connection of a pool may be broken, and each may say so once."""
        async with asyncio.timeout(self.patience):
            while True:
                try:
                    await storage.write_many([Write(key, value) for key, value in BEFORE.items()])
                except UnavailableError:
                    await asyncio.sleep(0.01)
                else:
                    return

    async def did(self, storage: Storage, method: str, result: object) -> None:
        """Assert that a call which returned, whatever happened to it, did what it says."""
        assert RETURNS[method](result), f"{method} returned {result!r}"
        found = await storage.read_many(list(BEFORE))

        assert AFTER.get(method, BEFORE) == {key: record.value for key, record in found.items()}, method

    @pytest.mark.parametrize("method", RETURNS)
    async def test_cancelled_calls_leave_it_usable(self, storage: Storage, method: str) -> None:
        await storage.write_many([Write(f"k{i}", "1") for i in range(10)])
        for ticks in range(32):
            await self.settled(storage)
            task = asyncio.create_task(calls_of(storage)[method]())
            for _ in range(ticks % 8):
                await asyncio.sleep(0)
            task.cancel()
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            # What was done before the cancellation came may return; but nobody makes something up.
            if not isinstance(result, BaseException):
                await self.did(storage, method, result)
            else:
                assert isinstance(result, asyncio.CancelledError), f"a cancelled call raised {result!r}"
        async with asyncio.timeout(self.patience):
            await asyncio.gather(*(storage.write(f"after{i}", str(i)) for i in range(20)))
            found = await storage.read_many([f"after{i}" for i in range(20)])

        assert {f"after{i}": str(i) for i in range(20)} == {key: record.value for key, record in found.items()}

    async def test_a_cancelled_write_leaves_the_old_document_or_the_new_one(self, storage: Storage) -> None:
        old, new = (json.dumps(word * 5_000) for word in ("old", "new"))
        for ticks in range(20):
            await storage.write("k", old)
            task = asyncio.create_task(storage.write("k", new))
            for _ in range(ticks % 8):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            record = await storage.read("k")

            assert record is not None
            assert record.value in {old, new}
