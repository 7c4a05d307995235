"""Group: capabilities are declared, true, and refused beyond in the same words everywhere."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from bot_session.errors import InvalidKeyError, ValueTooLargeError
from bot_session.storage import Capabilities, Storage, Write

from .base import ContractBase, keys_of

if TYPE_CHECKING:
    from .base import MakeStorage

__all__ = ["Limits"]

LARGEST_TRIED = 32 * 1024 * 1024


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

    @pytest.mark.parametrize("character", ["x", "é"])
    async def test_the_longest_key_is_taken_and_one_byte_more_is_refused(
        self, storage: Storage, character: str
    ) -> None:
        limit = storage.capabilities.max_key_bytes
        self.applies(limit is not None, "keys have no limit")
        assert limit is not None
        longest = character * (limit // len(character.encode()))
        longest += "x" * (limit - len(longest.encode()))
        await storage.write(longest, "1")

        assert [longest] == await keys_of(storage)
        for call in (
            storage.read(longest + "x"),
            storage.write(longest + "x", "1"),
            storage.delete(longest + "x"),
            storage.read_many([longest + "x"]),
            storage.write_many([Write("a", "1"), Write(longest + "x", "1")]),
        ):
            with pytest.raises(InvalidKeyError):
                await call
        assert [longest] == await keys_of(storage)

    @pytest.mark.parametrize("character", ["x", "é"])
    async def test_the_longest_document_is_taken_and_one_byte_more_is_refused(
        self, storage: Storage, character: str
    ) -> None:
        limit = storage.capabilities.max_value_bytes
        self.applies(limit is not None, "documents have no limit")
        assert limit is not None
        self.applies(limit <= LARGEST_TRIED, f"a document of {limit:,} bytes is more than a test should send")
        text = character * ((limit - 2) // len(character.encode()))
        longest = f'"{text}{"x" * (limit - 2 - len(text.encode()))}"'
        longer = f'"x{longest[1:]}'
        await storage.write("k", longest)
        with pytest.raises(ValueTooLargeError):
            await storage.write("k", longer)
        with pytest.raises(ValueTooLargeError):
            await storage.write_many([Write("a", "1"), Write("k", longer)])
        record = await storage.read("k")

        assert record is not None
        assert record.value == longest
        assert await keys_of(storage) == ["k"]
