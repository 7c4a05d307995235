"""Group: a batch does what its operations would do one by one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from bot_session.batching import BatchedStorage
from bot_session.errors import ConflictError, InvalidKeyError, StorageError, UnavailableError
from bot_session.storage import ABSENT, PRESENT, Write

from .base import ContractBase, keys_of

if TYPE_CHECKING:
    from bot_session.storage import Storage

__all__ = ["Batches"]


async def documents(storage: Storage) -> dict[str, str]:
    """Return everything that is stored."""
    return {key: record.value async for key, record in storage.read_all_entries()}


class Batches(ContractBase):
    """A batch does what its operations would do one by one."""

    async def test_read_many_leaves_out_what_is_missing(self, storage: Storage) -> None:
        await storage.write("a", "1", ttl=600.0)
        await storage.write("b", "2")
        found = await storage.read_many(["b", "missing", "a", "b", "a"])

        assert {key: record.value for key, record in found.items()} == {"a": "1", "b": "2"}
        for key in "ab":
            single = await storage.read(key)
            assert single is not None
            assert (single.version, single.ttl is None) == (found[key].version, found[key].ttl is None)

    async def test_empty_batches_do_nothing(self, storage: Storage) -> None:
        assert await storage.read_many([]) == {}
        assert await storage.write_many([]) == []
        assert await storage.delete_many([]) == 0

    async def test_a_batch_mixes_writes_and_deletes_and_matches(self, storage: Storage) -> None:
        version = await storage.write("swap", "1")
        await storage.write("drop", "1")
        await storage.write("match", "1")
        results = await storage.write_many(
            [
                Write("new", "2", ttl=600.0),
                Write("drop", None),
                Write("missing", None),
                Write("swap", "2", match=version),
                Write("first", "2", match=ABSENT),
                Write("match", None, match=PRESENT),
                Write("none", None, match=ABSENT),
            ]
        )
        kinds = [result if isinstance(result, bool) else type(result) for result in results]

        assert [str, True, False, str, str, True, False] == kinds
        assert await documents(storage) == {"new": "2", "swap": "2", "first": "2"}

    async def test_results_come_in_the_order_given(self, storage: Storage) -> None:
        keys = [f"k{i * 7 % 40}" for i in range(40)]
        results = await storage.write_many([Write(key, f'"{key}"') for key in keys])
        found = await storage.read_many(keys)

        assert results == [found[key].version for key in keys]
        assert {key: f'"{key}"' for key in keys} == {key: record.value for key, record in found.items()}

    async def test_the_writes_of_one_key_happen_in_the_order_given(self, storage: Storage) -> None:
        results = await storage.write_many(
            [
                Write("k", "1", match=ABSENT),
                Write("other", "1"),
                Write("k", "2", ttl=600.0, match=PRESENT),
                Write("k", "9", match=ABSENT),
                Write("k", None),
                Write("k", None),
                Write("k", "9", match=PRESENT),
                Write("k", "3", match=ABSENT),
                Write("k", "4", ttl=6_000.0),
            ]
        )
        kinds = [result if isinstance(result, bool) else type(result) for result in results]
        record = await storage.read("k")

        assert [str, str, str, ConflictError, True, False, ConflictError, str, str] == kinds
        assert record is not None
        assert ("4", results[-1]) == (record.value, record.version)
        assert record.ttl == pytest.approx(6_000.0, abs=10.0)

    async def test_a_later_write_of_a_batch_can_match_an_earlier_one(self, storage: Storage) -> None:
        await storage.write("k", "1")
        expected = await storage.write("probe", "2")
        await storage.write("k", "2")
        record = await storage.read("k")
        assert record is not None
        self.applies(expected == record.version, "versions are not made of the document alone")
        await storage.write("k", "1")
        results = await storage.write_many([Write("k", "2"), Write("k", "3", match=expected)])

        assert [isinstance(result, str) for result in results] == [True, True]
        assert await documents(storage) == {"k": "3", "probe": "2"}

    async def test_a_match_that_fails_fails_alone(self, storage: Storage) -> None:
        version = await storage.write("taken", "1")
        results = await storage.write_many(
            [
                Write("a", "1"),
                Write("taken", "2", match=ABSENT),
                Write("b", "1"),
                Write("missing", "2", match=PRESENT),
                Write("gone", None, match=version),
                Write("c", "1"),
            ]
        )
        conflicts = {result.key: result.expected for result in results if isinstance(result, ConflictError)}

        assert conflicts == {"taken": ABSENT, "missing": PRESENT, "gone": version}
        assert await documents(storage) == {"a": "1", "b": "1", "c": "1", "taken": "1"}

    async def test_one_wrong_operation_and_nothing_is_written(self, storage: Storage) -> None:
        await storage.write("k", "1")
        with pytest.raises(InvalidKeyError):
            await storage.write_many([Write("a", "1"), Write("k", None), Write("bad\0key", "1")])
        with pytest.raises(ValueError, match="ttl"):
            await storage.write_many([Write("a", "1"), Write("k", None), Write("b", "1", ttl=-1.0)])
        with pytest.raises(TypeError):
            await storage.write_many([Write("a", "1"), Write("k", None), Write("b", 1)])  # type: ignore[arg-type]

        assert await documents(storage) == {"k": "1"}

    async def test_what_the_backend_refuses_fails_alone(self, storage: Storage) -> None:
        version = await storage.write("k", "1")
        await self.forbid(storage, "forbidden")
        writes = [Write(f"k{i}", "2", match=ABSENT) for i in range(40)]
        writes[20:20] = [Write("k", "2", match=version), Write("forbidden", "2", match=ABSENT)]
        # Whoever shares a batch with what is refused is neither refused, nor told of a conflict that never was.
        batched = BatchedStorage(storage)
        results = await asyncio.gather(
            *(batched.write(write.key, "2", match=write.match) for write in writes), return_exceptions=True
        )
        failed = {
            write.key: result for write, result in zip(writes, results, strict=True) if not isinstance(result, str)
        }
        found = await storage.read_many([write.key for write in writes if write.key not in failed])

        assert list(failed) == ["forbidden"]
        assert isinstance(failed["forbidden"], StorageError)
        assert not isinstance(failed["forbidden"], ConflictError | UnavailableError)
        assert [record.value for record in found.values()] == ["2"] * 41

    async def test_rounds_are_written_one_after_the_other_and_then_read(self, storage: Storage) -> None:
        await storage.write("taken", "1")
        await storage.write("drop", "1")
        results, found = await storage.write_then_read(
            [
                [Write("a", "1", ttl=600.0), Write("taken", "2", match=ABSENT)],
                [Write("a", "2", match=PRESENT), Write("drop", None), Write("b", "1")],
                [],
                [Write("b", "2", match=ABSENT), Write("none", None)],
            ],
            ["drop", "b", "a", "taken", "b"],
        )
        kinds = [result if isinstance(result, bool) else type(result) for result in results]

        assert [str, ConflictError, str, True, str, ConflictError, False] == kinds
        assert found is not None
        assert {key: record.value for key, record in found.items()} == {"a": "2", "b": "1", "taken": "1"}
        assert await documents(storage) == {"a": "2", "b": "1", "taken": "1"}
        assert [found["a"].version, found["b"].version] == [results[2], results[4]]

    async def test_a_lone_round_a_lone_read_and_nothing_at_all(self, storage: Storage) -> None:
        assert await storage.write_then_read([]) == ([], {})
        (version,), nothing = await storage.write_then_read([[Write("k", "1", match=ABSENT)]])
        none, found = await storage.write_then_read([], ["k", "missing"])

        assert (nothing, none) == ({}, [])
        assert found is not None
        assert [("k", version)] == [(key, record.version) for key, record in found.items()]

    async def test_one_wrong_operation_or_key_and_no_round_is_written(self, storage: Storage) -> None:
        with pytest.raises(InvalidKeyError):
            await storage.write_then_read([[Write("a", "1")], [Write("bad\0key", "1")]])
        with pytest.raises(InvalidKeyError):
            await storage.write_then_read([[Write("a", "1")]], ["bad\0key"])

        assert await documents(storage) == {}

    async def test_nobody_sees_a_round_without_those_before_it(self, storage: Storage, other: Storage) -> None:
        """What locks in the storage rest on: whoever finds one free finds what its last holder wrote."""
        early = [f"early{i}" for i in range(20)]
        done = asyncio.Event()

        async def write() -> None:
            for i in range(1, 40):
                await storage.write_then_read([[Write(key, str(i)) for key in early], [Write("late", str(i))]])
            done.set()

        async def watch() -> None:
            while not done.is_set():
                await asyncio.sleep(0)
                late = await other.read("late")
                found = await other.read_many(early)
                if late is not None:
                    assert len(found) == 20
                    assert min(int(record.value) for record in found.values()) >= int(late.value)

        await asyncio.gather(write(), watch())

    async def test_delete_many_counts_what_was_there(self, storage: Storage) -> None:
        await storage.write_many([Write(key, "1") for key in "abcd"])

        assert await storage.delete_many(["a", "b", "a", "missing"]) == 2
        assert await storage.delete_many(iter(["c"])) == 1
        assert await keys_of(storage) == ["d"]

    async def test_a_thousand_operations_fit_in_a_batch(self, storage: Storage) -> None:
        keys = [f"k{i}" for i in range(1_000)]
        results = await storage.write_many([Write(key, str(i), ttl=600.0) for i, key in enumerate(keys)])
        found = await storage.read_many(keys)

        assert len(results) == 1_000
        assert {key: str(i) for i, key in enumerate(keys)} == {key: record.value for key, record in found.items()}
        assert results == [found[key].version for key in keys]
        assert await storage.delete_many(keys) == 1_000
        assert await keys_of(storage) == []
