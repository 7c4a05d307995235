"""Group: an error is never a miss, and a storage survives broken connections and cancelled calls."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from bot_session.errors import StorageError, UnavailableError
from bot_session.storage import ABSENT, Write

from .base import ContractBase, keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from bot_session.storage import Storage

__all__ = ["Faults"]


def calls_of(storage: Storage) -> dict[str, Callable[[], Coroutine[Any, Any, Any]]]:
    """Return a call of every method, by name."""

    async def iterate() -> list[str]:
        return [key async for key in storage.read_all_keys(batch_size=2)]

    async def iterate_entries() -> list[object]:
        return [entry async for entry in storage.read_all_entries(batch_size=2)]

    return {
        "read": lambda: storage.read("k"),
        "write": lambda: storage.write("k", "1"),
        "write with a match": lambda: storage.write("k", "1", match=ABSENT),
        "delete": lambda: storage.delete("k"),
        "has": lambda: storage.has("k"),
        "touch": lambda: storage.touch("k", 60.0),
        "read_many": lambda: storage.read_many(["k", "l"]),
        "write_many": lambda: storage.write_many([Write("k", "1"), Write("l", None)]),
        "delete_many": lambda: storage.delete_many(["k", "l"]),
        "read_all_keys": iterate,
        "read_all_entries": iterate_entries,
        "check": storage.check,
    }


class Faults(ContractBase):
    """An error is never a miss."""

    @pytest.mark.parametrize("method", ["open", "read", "write", "read_many", "read_all_keys", "check"])
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

    async def test_after_a_cut_no_call_takes_an_error_for_a_miss(self, storage: Storage) -> None:
        expected = {"read": True, "has": True, "read_many": True, "read_all_keys": True, "read_all_entries": True}
        for method in expected:
            await self.settled(storage)
            await self.cut_connection(storage)
            try:
                found = bool(await asyncio.wait_for(calls_of(storage)[method](), self.patience))
            except StorageError as error:
                assert isinstance(error, UnavailableError)
                assert error.__cause__ is not None
            else:
                assert found, f"{method} took the broken connection for nothing stored"

    async def test_after_a_cut_it_works_again(self, storage: Storage) -> None:
        for _ in range(3):
            await self.settled(storage)
            await self.cut_connection(storage)
        await self.settled(storage)

        assert await keys_of(storage) == ["k"]

    async def settled(self, storage: Storage) -> None:
        """Write until it works: every connection of a pool may be broken, and each may say so once."""
        async with asyncio.timeout(self.patience):
            while True:
                try:
                    await storage.write("k", "1")
                except UnavailableError:
                    await asyncio.sleep(0.01)
                else:
                    return

    @pytest.mark.parametrize("method", [
        "read", "write", "write with a match", "delete", "touch", "read_many", "write_many", "read_all_entries",
    ])  # fmt: skip
    async def test_cancelled_calls_leave_it_usable(self, storage: Storage, method: str) -> None:
        await storage.write_many([Write(f"k{i}", "1") for i in range(10)])
        for ticks in range(40):
            task = asyncio.create_task(calls_of(storage)[method]())
            for _ in range(ticks % 8):
                await asyncio.sleep(0)
            task.cancel()
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            # What was done before the cancellation came may return, or tell of a conflict; nothing else.
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                assert method == "write with a match", f"a cancelled call raised {result!r}"
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
