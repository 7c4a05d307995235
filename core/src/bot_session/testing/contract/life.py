"""Group: opening, closing, and leaving alone what belongs to others."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from bot_session.errors import ClosedError, StorageError
from bot_session.storage import Storage, Write

from .base import ContractBase, keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .base import MakeStorage

__all__ = ["Life"]

LONGEST_PAUSE = 0.02
"""For how long, in seconds, a call may keep the loop to itself."""


async def used(storage: Storage, key: str = "k") -> None:
    """Assert that the storage can be used."""
    await storage.write(key, "1")
    record = await storage.read(key)

    assert record is not None
    assert record.value == "1"


async def longest_pause(call: Callable[[], Coroutine[Any, Any, object]]) -> float:
    """Return for how long, in seconds, nobody else got a turn during a call."""
    pauses = [0.0]
    calling = asyncio.create_task(call())
    while not calling.done():
        started = time.monotonic()
        await asyncio.sleep(0)
        pauses.append(time.monotonic() - started)
    await calling
    return max(pauses)


class Life(ContractBase):
    """Opening, closing, and leaving alone what belongs to others."""

    async def test_it_opens_itself_at_first_use(self, make_storage: MakeStorage) -> None:
        storage = make_storage()
        try:
            await used(storage)
        finally:
            await storage.close()

    async def test_first_use_by_many_tasks_at_once(self, make_storage: MakeStorage) -> None:
        storage = make_storage()
        try:
            await asyncio.gather(*(used(storage, f"k{i}") for i in range(16)))
            assert len(await keys_of(storage)) == 16
        finally:
            await storage.close()

    async def test_a_first_use_that_is_cancelled_leaves_it_usable(self, make_storage: MakeStorage) -> None:
        for ticks in range(12):
            storage = make_storage()
            try:
                task = asyncio.create_task(storage.read("missing"))
                for _ in range(ticks):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                async with asyncio.timeout(self.patience):
                    await used(storage)
            finally:
                await storage.close()

    async def test_opening_and_closing_twice_is_no_error(self, make_storage: MakeStorage) -> None:
        storage = make_storage()
        await storage.open()
        await storage.open()
        await used(storage)
        await storage.close()
        await storage.close()

    async def test_closing_what_was_never_opened_is_no_error(self, make_storage: MakeStorage) -> None:
        storage = make_storage()
        await storage.close()
        with pytest.raises(ClosedError):
            await storage.read("k")

    async def test_after_closing_every_method_raises_closed_error(self, make_storage: MakeStorage) -> None:
        storage = make_storage()
        async with storage:
            await storage.write("k", "1")

        async def iterate() -> list[str]:
            return [key async for key in storage.read_all_keys()]

        async def iterate_entries() -> list[object]:
            return [entry async for entry in storage.read_all_entries()]

        calls = {
            "read": lambda: storage.read("k"),
            "write": lambda: storage.write("k", "1"),
            "delete": lambda: storage.delete("k"),
            "has": lambda: storage.has("k"),
            "touch": lambda: storage.touch("k", 60.0),
            "read_many": lambda: storage.read_many(["k"]),
            "write_many": lambda: storage.write_many([Write("k", "1")]),
            "delete_many": lambda: storage.delete_many(["k"]),
            "read_all_keys": iterate,
            "read_all_entries": iterate_entries,
            "check": storage.check,
        }
        if type(storage).purge is not Storage.purge:
            calls["purge"] = storage.purge
        for method, call in calls.items():
            with pytest.raises(ClosedError):
                pytest.fail(f"{method} returned {await call()!r}")

    async def test_it_can_be_opened_again(self, make_storage: MakeStorage) -> None:
        storage = make_storage()
        for _ in range(3):
            async with storage:
                await used(storage)

    async def test_closed_in_one_loop_it_works_in_another(self, make_storage: MakeStorage) -> None:
        self.applies(self.owns_client, "the client belongs to one loop")
        storage = make_storage()

        async def everywhere() -> None:
            async with storage:
                # So many that they wait for each other: locks and queues are what belongs to a loop.
                await asyncio.gather(*(used(storage, f"k{i}") for i in range(100)))

        await everywhere()
        await asyncio.to_thread(asyncio.run, everywhere())

    async def test_closing_loses_nothing_that_was_acknowledged_meanwhile(self, make_storage: MakeStorage) -> None:
        for ticks in range(8):
            storage = make_storage()
            keys = [f"{ticks}:{i}" for i in range(8)]
            async with storage:
                writing = [asyncio.create_task(storage.write(key, "1")) for key in keys]
                for _ in range(ticks):
                    await asyncio.sleep(0)
            async with asyncio.timeout(self.patience):
                results = await asyncio.gather(*writing, return_exceptions=True)
            strange = [result for result in results if not isinstance(result, str | StorageError)]
            assert not strange, f"a write that was cut short by closing ended in {strange}"
            if storage.capabilities.durable:
                async with storage:
                    found = await storage.read_many(keys)
                assert {key for key, result in zip(keys, results, strict=True) if isinstance(result, str)} <= set(found)

    async def test_closing_leaves_nothing_running(self, make_storage: MakeStorage) -> None:
        self.applies(self.owns_client, "the client goes on running")
        before = asyncio.all_tasks()
        async with make_storage() as storage:
            await used(storage)
        running = asyncio.all_tasks() - before
        if running:  # Connections may be saying good-bye.
            _, running = await asyncio.wait(running, timeout=self.patience / 2)

        assert not running

    async def test_no_call_holds_up_the_loop(self, storage: Storage) -> None:
        calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "write": lambda: storage.write("k", "1"),
            "read": lambda: storage.read("k"),
            "write_many": lambda: storage.write_many([Write("k", "2"), Write("l", "1")]),
            "read_many": lambda: storage.read_many(["k", "l"]),
            "read_all_keys": lambda: keys_of(storage),
            "delete": lambda: storage.delete("k"),
        }
        for method, call in calls.items():
            # On a busy machine anybody may be held up for once: but not every time.
            pause = min([await longest_pause(call) for _ in range(5)])

            assert pause < LONGEST_PAUSE, f"{method} stopped everybody else for {pause:.3f} s"

    async def test_many_instances_open_a_new_database_at_once(self, make_storage: MakeStorage) -> None:
        storages = [make_storage() for _ in range(16)]
        try:
            await asyncio.gather(*(storage.open() for storage in storages))
            await asyncio.gather(*(used(storage, f"k{i}") for i, storage in enumerate(storages)))
        finally:
            await asyncio.gather(*(storage.close() for storage in storages))

    async def test_closing_one_instance_leaves_the_others_open(self, make_storage: MakeStorage) -> None:
        first, second = make_storage(), make_storage()
        await used(first)
        async with second:
            await used(second)
            await first.close()
            await used(second, "k2")

    async def test_an_injected_client_stays_open(self) -> None:
        async with self.injected() as (make, still_works):
            async with make() as storage:
                await used(storage)
            await still_works()
            async with storage:
                await used(storage)
            await still_works()

    async def test_two_storages_share_one_client(self) -> None:
        async with self.injected() as (make, still_works):
            async with make() as first, make() as second:
                await asyncio.gather(used(first, "a"), used(second, "b"))
                await first.close()
                await used(second)
            await still_works()

    async def test_check_passes_while_the_backend_is_there(self, storage: Storage) -> None:
        await storage.check()

        assert await keys_of(storage) == []

    async def test_what_others_keep_in_the_database_is_neither_seen_nor_touched(self, storage: Storage) -> None:
        self.applies(storage.capabilities.shared, "nobody else can keep anything here")
        await self.plant_foreign(storage)
        await storage.write_many([Write(key, "1", ttl=600.0) for key in "abc"])
        await self.write_expired(storage, ["expired"])
        await storage.delete("a")

        assert await keys_of(storage) == ["b", "c"]

        await storage.purge()
        await storage.delete_many(["b", "c", "missing"])

        assert await keys_of(storage) == []
        await self.foreign_is_untouched(storage)
