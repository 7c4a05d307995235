"""Group: iteration streams what starts with a literal prefix, in a crowded database, while others write."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from bot_session.errors import StorageError
from bot_session.storage import Write

from .base import ContractBase, keys_of
from .keys import HOSTILE_KEYS

if TYPE_CHECKING:
    from bot_session.storage import Storage

    from .base import MakeStorage

__all__ = ["Iteration"]

LOOKALIKES = ["a", "ab1", "abc1", "aX1", "A1", "a1", "aa1", "b1", "xa1", "app1", "app:1", "app2:1", "app:", "app_2:1"]
PREFIXES = [
    *("", "a", "A", "app", "app:", "app2", "a%", "a_", "a*", "a?", "a[b]", "a[", "a]", "a\\", "a.", "a.*", "^a", "a$"),
    *("(a", "a|b", "a+", "%", "_", "*", "?", ".", "\\", "'", '"', "a/", "../", "/", " ", "{", "$", "-", "--", "é"),
    *("e\u0301", "e", "👩", "\U0010ffff", "\uffff", "caf", "app:1", "nothing starts with this"),
]


async def fill(storage: Storage, keys: list[str]) -> None:
    """Write a document under each key."""
    await storage.write_many([Write(key, "1") for key in keys])


class Iteration(ContractBase):
    """Iteration."""

    @pytest.mark.parametrize("prefix", PREFIXES, ids=ascii)
    async def test_a_prefix_is_literal(self, storage: Storage, prefix: str) -> None:
        keys = sorted(
            {*LOOKALIKES, *HOSTILE_KEYS, *(prefix + end for prefix in PREFIXES for end in ("1", "é", "\uffff"))}
        )
        await fill(storage, keys)

        expected = [key for key in keys if key.startswith(prefix)]

        assert expected == await keys_of(storage, prefix)
        assert expected == sorted([key async for key, _ in storage.read_all_entries(prefix)])
        assert len(expected) == len([value async for value in storage.read_all_values(prefix)])

    async def test_sibling_prefixes_are_told_apart(self, storage: Storage) -> None:
        await fill(storage, ["app:1", "app2:1", "app_2:1", "app", "ap:1", "app:2:3", "App:1"])

        assert await keys_of(storage, "app:") == ["app:1", "app:2:3"]
        assert await keys_of(storage, "app2:") == ["app2:1"]

    @pytest.mark.parametrize(("n", "batch_size"), [(10, 1), (50, 3), (6, 3), (1_200, 500), (1_000, 500), (5, 10_000)])
    async def test_every_key_comes_once_whatever_the_batch_size(
        self, storage: Storage, n: int, batch_size: int
    ) -> None:
        keys = sorted(f"k{i}" for i in range(n))
        await fill(storage, keys)

        assert keys == await keys_of(storage, batch_size=batch_size)
        assert keys == sorted([key async for key, _ in storage.read_all_entries(batch_size=batch_size)])
        assert n == len([value async for value in storage.read_all_values(batch_size=batch_size)])

    @pytest.mark.parametrize("batch_size", [7, 500])
    async def test_in_a_crowded_database_every_key_is_found(self, storage: Storage, batch_size: int) -> None:
        keys = sorted(f"ours:{i}" for i in range(50))
        await fill(storage, keys[:25])
        await self.crowd(storage, self.crowd_size)
        await fill(storage, keys[25:])

        assert keys == await keys_of(storage, "ours:", batch_size=batch_size)
        assert keys == sorted([key async for key, _ in storage.read_all_entries("ours:", batch_size=batch_size)])

    async def test_nothing_comes_from_an_empty_storage(self, storage: Storage) -> None:
        assert await keys_of(storage) == []
        assert [value async for value in storage.read_all_values()] == []
        assert [entry async for entry in storage.read_all_entries()] == []

    async def test_entries_and_values_agree_with_keys_and_records(self, storage: Storage) -> None:
        await storage.write_many([Write(f"k{i}", f"[{i}]", ttl=600.0 if i % 2 else None) for i in range(25)])
        keys = [key async for key in storage.read_all_keys("k", batch_size=10)]
        entries = {key: record async for key, record in storage.read_all_entries("k", batch_size=10)}
        values = [value async for value in storage.read_all_values("k", batch_size=10)]
        records = await storage.read_many(keys)

        assert sorted(keys) == sorted(entries)
        assert sorted(values) == sorted(record.value for record in entries.values())
        for key, record in records.items():
            assert (record.value, record.version) == (entries[key].value, entries[key].version)
            assert (record.ttl is None) == (entries[key].ttl is None)

    async def test_reading_what_is_missing_adds_nothing(self, storage: Storage) -> None:
        await storage.read("a")
        await storage.has("b")
        await storage.read_many(["c", "d"])
        await storage.delete("e")
        await storage.touch("f", 60.0)
        await storage.check()

        assert await keys_of(storage) == []

    async def test_deleting_each_key_as_it_comes_skips_none(self, storage: Storage, other: Storage) -> None:
        keys = sorted(f"k{i}" for i in range(40))
        await fill(storage, keys)
        came: list[str] = []
        # The loop's body may use the very storage that it iterates over.
        async with asyncio.timeout(2 * self.patience):
            async for key in storage.read_all_keys(batch_size=5):
                came.append(key)
                await (storage, other)[len(came) % 2].delete(key)

        assert keys == sorted(came)
        assert await keys_of(storage) == []

    async def test_what_lives_throughout_comes_once_while_others_come_and_go(
        self, storage: Storage, other: Storage
    ) -> None:
        lasting = sorted(f"k{i}" for i in range(0, 80, 2))
        passing = [f"k{i}" for i in range(1, 80, 2)]
        await fill(storage, lasting + passing)
        came = []
        async for key in storage.read_all_keys("k", batch_size=7):
            came.append(key)
            if passing:
                await other.delete(passing.pop())
                await other.write(f"j{len(passing)}", "1")
                await other.write(f"k{len(passing)}.new", "1")
                await other.write(lasting[len(passing) % len(lasting)], "[2]")

        assert lasting == sorted(key for key in came if key in lasting)
        assert len(came) == len(set(came))

    async def test_leaving_early_harms_nothing(self, storage: Storage, other: Storage) -> None:
        keys = sorted(f"k{i}" for i in range(20))
        await fill(storage, keys)
        for _ in range(30):
            async for _ in storage.read_all_keys(batch_size=3):
                break
        async with asyncio.timeout(self.patience):
            await other.write("k0", "2")
            await storage.write("k1", "2")

        assert keys == await keys_of(storage)

    async def test_closing_never_just_ends_the_loop(self, make_storage: MakeStorage) -> None:
        keys = sorted(f"k{i}" for i in range(60))
        for method in ("read_all_keys", "read_all_entries"):
            came: list[object] = []
            async with make_storage() as storage:
                await fill(storage, keys)
                try:
                    async for item in getattr(storage, method)(batch_size=2):
                        came.append(item)
                        if len(came) == 1:
                            await storage.close()
                except StorageError:
                    continue
            # Having had them all already is as good as an error. Ending early is not.
            assert len(came) == len(keys), f"{method} gave {len(came)} of {len(keys)} and ended as if that were all"

    async def test_iterations_may_run_side_by_side(self, storage: Storage) -> None:
        keys = sorted(f"k{i}" for i in range(6))
        await fill(storage, keys)
        pairs = [
            (left, right)
            async for left in storage.read_all_keys(batch_size=2)
            async for right in storage.read_all_keys(batch_size=2)
        ]

        assert sorted((left, right) for left in keys for right in keys) == sorted(pairs)

    @pytest.mark.parametrize("batch_size", [0, -1])
    async def test_a_batch_size_below_one_is_a_value_error(self, storage: Storage, batch_size: int) -> None:
        for iterate in (storage.read_all_keys, storage.read_all_values, storage.read_all_entries):
            with pytest.raises(ValueError, match="batch_size"):
                pytest.fail(f"{iterate.__name__} gave {[item async for item in iterate(batch_size=batch_size)]}")

    async def test_an_error_while_iterating_never_just_ends_the_loop(self, storage: Storage) -> None:
        keys = sorted(f"k{i}" for i in range(60))
        await fill(storage, keys)
        came: list[str] = []
        try:
            async for key in storage.read_all_keys(batch_size=2):
                came.append(key)
                if len(came) == 1:
                    await self.cut_connection(storage)
        except StorageError:
            return
        # Connecting anew and going on is as good as an error. Ending early is not.
        assert keys == sorted(came)
