"""Group: capabilities are declared, true, and refused beyond in the same words everywhere."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import pytest

from bot_session.errors import InvalidKeyError, StorageError, ValueTooLargeError
from bot_session.storage import Capabilities, Storage, Write

from .base import ContractBase, keys_of

if TYPE_CHECKING:
    from .base import MakeStorage

__all__ = ["Limits"]

LONGEST_KEY_TRIED = 64 * 1024
LARGEST_TRIED = 16 * 1024 * 1024
"""Where no limit is declared, or one that is more than a test should send."""


class Limits(ContractBase):
    """Capabilities are declared and true."""

    async def test_capabilities_are_declared_and_do_not_change(self, make_storage: MakeStorage) -> None:
        storage = make_storage()
        capabilities = storage.capabilities

        assert isinstance(capabilities, Capabilities)
        assert capabilities == make_storage().capabilities
        assert 0 <= capabilities.ttl_resolution <= 60
        with pytest.raises(dataclasses.FrozenInstanceError):
            storage.capabilities.shared = None  # type: ignore[misc,assignment]

    async def test_shared_means_that_others_see_what_is_written(
        self, storage: Storage, make_storage: MakeStorage
    ) -> None:
        async with make_storage() as another:
            await storage.write("k", "1")
            seen = await another.read("k")
            await storage.write("k", "2")
            changed = await another.read("k")
            await storage.delete("k")
            deleted = await another.read("k")
        shared = storage.capabilities.shared

        assert (["1", "2"] if shared else []) == [record.value for record in (seen, changed) if record is not None]
        assert deleted is None

    async def test_durable_means_that_documents_survive_closing(self, make_storage: MakeStorage) -> None:
        first = make_storage()
        self.applies(first.capabilities.durable, "nothing is durable here")
        async with first:
            await first.write("k", "1")
        async with make_storage() as second:
            record = await second.read("k")

        assert record is not None
        assert record.value == "1"

    async def test_an_atomic_batch_happens_as_a_whole_or_not_at_all(self, storage: Storage, other: Storage) -> None:
        self.applies(storage.capabilities.atomic_batches, "batches are no transactions")
        keys = [f"k{i}" for i in range(20)]

        async def write() -> None:
            for i in range(20):
                task = asyncio.create_task(storage.write_many([Write(key, str(i)) for key in keys]))
                if i % 2:
                    for _ in range(i):
                        await asyncio.sleep(0)
                    task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        writing = asyncio.create_task(write())
        while not writing.done():
            values = [record.value for record in (await other.read_many(keys)).values()]

            assert len(set(values)) <= 1
            assert len(values) in {0, len(keys)}
            await asyncio.sleep(0)  # a storage in memory gives nobody a turn
        await writing

    async def test_an_atomic_batch_with_one_refusal_is_not_written(self, storage: Storage) -> None:
        self.applies(storage.capabilities.atomic_batches, "batches are no transactions")
        await self.forbid(storage, "forbidden")
        with pytest.raises(StorageError):
            await storage.write_many([Write("a", "1"), Write("forbidden", "2"), Write("b", "1")])

        assert await keys_of(storage) == []

    @pytest.mark.parametrize("character", ["x", "é"])
    async def test_the_longest_key_is_taken_and_one_byte_more_is_refused(
        self, storage: Storage, character: str
    ) -> None:
        limit = storage.capabilities.max_key_bytes
        if limit is None:
            limit = LONGEST_KEY_TRIED
        longest = character * (limit // len(character.encode()))
        longest += "x" * (limit - len(longest.encode()))
        await storage.write(longest, "1")
        await storage.write(longest[:-1], "2")  # no limit means that nothing is cut

        assert sorted([longest, longest[:-1]]) == await keys_of(storage)
        if storage.capabilities.max_key_bytes is None:
            return
        for call in (
            storage.read(longest + "x"),
            storage.write(longest + "x", "1"),
            storage.delete(longest + "x"),
            storage.read_many([longest + "x"]),
            storage.write_many([Write("a", "1"), Write(longest + "x", "1")]),
        ):
            with pytest.raises(InvalidKeyError):
                await call
        assert sorted([longest, longest[:-1]]) == await keys_of(storage)

    @pytest.mark.parametrize("character", ["x", "é"])
    async def test_the_longest_document_is_taken_and_one_byte_more_is_refused(
        self, storage: Storage, character: str
    ) -> None:
        limit = storage.capabilities.max_value_bytes
        if limited := limit is not None and limit <= LARGEST_TRIED:
            assert limit is not None
        else:
            limit = LARGEST_TRIED
        text = character * ((limit - 2) // len(character.encode()))
        longest = f'"{text}{"x" * (limit - 2 - len(text.encode()))}"'
        longer = f'"x{longest[1:]}'
        await storage.write("k", longest)
        if limited:
            with pytest.raises(ValueTooLargeError):
                await storage.write("k", longer)
            with pytest.raises(ValueTooLargeError):
                await storage.write_many([Write("a", "1"), Write("k", longer)])
        record = await storage.read("k")

        assert record is not None
        assert record.value == longest
        assert await keys_of(storage) == ["k"]
