"""Group: compare-and-set. No lost update, nothing that was deleted comes back, of several writers one wins."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from bot_session.errors import ConflictError
from bot_session.storage import ABSENT, ANY, PRESENT, Match, Write

from .base import ContractBase, keys_of

if TYPE_CHECKING:
    from bot_session.storage import Storage, Version, WriteResult

__all__ = ["Matching"]

RACERS = 16
INCREMENTS = 50
NEARLY_ALIKE = {
    "case": ('"a"', '"A"'),
    "a space at the end": ('"a"', '"a "'),
    "composed and combining": ('"\u00e9"', '"e\u0301"'),
    "emoji": ('"🍕"', '"🍔"'),
    "the last of many characters": (f'"{"x" * 9_000}a"', f'"{"x" * 9_000}b"'),
    "number and text": ("1", '"1"'),
    "number and truth": ("1", "true"),
    "nothing and false": ("null", "false"),
    "long numbers": ("9007199254740993", "9007199254740992"),
    "order in a list": ("[1,2]", "[2,1]"),
    "null and missing": ('{"a":null}', "{}"),
}
"""Pairs of documents that some collation, index or comparison takes for the same."""


alone_and_in_a_batch = pytest.mark.parametrize("batch", [False, True], ids=["alone", "in a batch"])


async def document(storage: Storage, key: str = "k") -> str | None:
    """Return the document alone."""
    record = await storage.read(key)
    return None if record is None else record.value


async def attempt(storage: Storage, key: str, value: str | None, match: Match, *, batch: bool) -> WriteResult:
    """Write, or delete with None, by a method of its own or in a batch; a conflict is returned."""
    if batch:
        return (await storage.write_many([Write(key, value, match=match)]))[0]
    try:
        if value is None:
            return await storage.delete(key, match=match)
        return await storage.write(key, value, match=match)
    except ConflictError as conflict:
        return conflict


async def increment(storage: Storage, key: str) -> None:
    """Add one to a number, as often as it takes until nobody came in between."""
    while True:
        record = await storage.read(key)
        assert record is not None
        try:
            await storage.write(key, str(int(record.value) + 1), match=record.version)
        except ConflictError:
            continue
        return


class Matching(ContractBase):
    """Compare-and-set: every kind of match alone and in a batch; versions; races between two instances."""

    @alone_and_in_a_batch
    async def test_a_match_that_holds_writes(self, storage: Storage, batch: bool) -> None:
        absent = await attempt(storage, "k", "1", ABSENT, batch=batch)
        present = await attempt(storage, "k", "2", PRESENT, batch=batch)
        assert await document(storage) == "2"
        version = await attempt(storage, "k", "3", cast("Version", present), batch=batch)
        assert await document(storage) == "3"
        anything = await attempt(storage, "k", "4", ANY, batch=batch)

        assert await document(storage) == "4"
        assert all(isinstance(result, str) for result in (absent, present, version, anything))

    @alone_and_in_a_batch
    async def test_a_match_that_holds_deletes(self, storage: Storage, batch: bool) -> None:
        version = await storage.write("k", "1")
        assert await attempt(storage, "k", None, version, batch=batch) is True
        assert await attempt(storage, "k", None, ABSENT, batch=batch) is False
        await storage.write("k", "1")
        assert await attempt(storage, "k", None, PRESENT, batch=batch) is True
        assert await attempt(storage, "k", None, ANY, batch=batch) is False

        assert await document(storage) is None

    @alone_and_in_a_batch
    @pytest.mark.parametrize("value", ["9", None], ids=["write", "delete"])
    async def test_absent_fails_where_something_is(self, storage: Storage, batch: bool, value: str | None) -> None:
        version = await storage.write("k", "1")

        await self.conflicts(storage, value, ABSENT, batch=batch, actual=version)
        assert await document(storage) == "1"

    @alone_and_in_a_batch
    @pytest.mark.parametrize("value", ["9", None], ids=["write", "delete"])
    async def test_present_fails_where_nothing_is(self, storage: Storage, batch: bool, value: str | None) -> None:
        await self.conflicts(storage, value, PRESENT, batch=batch)
        assert await document(storage) is None
        assert await keys_of(storage) == []

    @alone_and_in_a_batch
    @pytest.mark.parametrize("value", ["9", None], ids=["write", "delete"])
    async def test_the_version_from_before_a_change_fails(
        self, storage: Storage, other: Storage, batch: bool, value: str | None
    ) -> None:
        before = await storage.write("k", "1")
        after = await other.write("k", "2")

        await self.conflicts(storage, value, before, batch=batch, actual=after)
        assert await document(storage) == "2"

    async def test_the_version_from_before_a_delete_does_not_fit_what_came_after(
        self, storage: Storage, other: Storage
    ) -> None:
        before = await storage.write("k", "1", match=ABSENT)
        await other.delete("k")
        after = await other.write("k", "2", match=ABSENT)

        await self.conflicts(storage, "9", before, batch=False, actual=after)
        assert await document(storage) == "2"

    @pytest.mark.parametrize("pair", NEARLY_ALIKE)
    async def test_documents_that_are_nearly_alike_have_versions_of_their_own(
        self, storage: Storage, other: Storage, pair: str
    ) -> None:
        for first, second in (NEARLY_ALIKE[pair], NEARLY_ALIKE[pair][::-1]):
            before = await storage.write("k", first)
            after = await other.write("k", second)

            await self.conflicts(storage, "9", before, batch=False, actual=after)
            found = await document(storage)
            assert found is not None
            assert self.comparable(second) == self.comparable(found)

    async def test_of_many_documents_of_one_key_no_two_have_one_version(self, storage: Storage) -> None:
        versions = await storage.write_many([Write("k", f"[{i}]") for i in range(100)])

        assert len(set(versions)) == 100

    @alone_and_in_a_batch
    @pytest.mark.parametrize("value", ["9", "1", None], ids=["write", "write the same", "delete"])
    async def test_a_version_never_brings_back_what_was_deleted(
        self, storage: Storage, other: Storage, batch: bool, value: str | None
    ) -> None:
        version = await storage.write("k", "1")
        await other.delete("k")

        await self.conflicts(storage, value, version, batch=batch)
        assert await document(storage) is None
        assert await keys_of(storage) == []

    @alone_and_in_a_batch
    async def test_a_match_that_fails_changes_nothing_not_even_the_ttl(self, storage: Storage, batch: bool) -> None:
        old = await storage.write("k", "1")
        await storage.write("k", "2", ttl=600.0)
        for match in (ABSENT, old):
            await self.conflicts(storage, "9", match, batch=batch, actual=None)
        record = await storage.read("k")

        assert record is not None
        assert record.value == "2"
        assert record.ttl == pytest.approx(600.0, abs=10.0)

    async def conflicts(
        self, storage: Storage, value: str | None, match: Match, *, batch: bool, actual: Version | None = None
    ) -> None:
        """Assert that the attempt ends in a conflict that says what it was about."""
        conflict = await attempt(storage, "k", value, match, batch=batch)

        assert isinstance(conflict, ConflictError)
        assert ("k", match) == (conflict.key, conflict.expected)
        assert actual is None or conflict.actual in {None, actual}
        if not batch:
            assert conflict.operation == ("delete" if value is None else "write")

    async def test_the_version_of_a_write_is_the_version_read_back(self, storage: Storage, other: Storage) -> None:
        written = await storage.write("k", '{"b":[1,2.0],"a":"é"}', ttl=600.0)
        many = await other.read_many(["k"])
        entries = [record async for _, record in other.read_all_entries()]
        single = await other.read("k")

        assert single is not None
        assert [written] * 3 == [single.version, many["k"].version, entries[0].version]

    async def test_a_batch_returns_versions_that_match(self, storage: Storage) -> None:
        first = await storage.write_many([Write("a", "1"), Write("b", "1", ttl=600.0)])
        second = [
            await storage.write(key, "2", match=cast("Version", version))
            for key, version in zip("ab", first, strict=True)
        ]

        assert second == [record.version for record in (await storage.read_many(["a", "b"])).values()]

    async def test_a_version_can_be_used_for_one_write_after_the_other(self, storage: Storage) -> None:
        version = await storage.write("k", "0", match=ABSENT)
        for i in range(1, 6):
            version = await storage.write("k", str(i), match=version)

        assert await document(storage) == "5"

    async def test_of_many_writers_under_absent_one_wins(self, storage: Storage, other: Storage) -> None:
        for key in "abcde":
            racers = [attempt((storage, other)[i % 2], key, str(i), ABSENT, batch=i % 4 > 1) for i in range(RACERS)]
            results = await asyncio.gather(*racers)
            winners = [str(i) for i, result in enumerate(results) if not isinstance(result, ConflictError)]

            assert winners == [await document(storage, key)]

    async def test_of_many_writers_with_one_version_one_wins(self, storage: Storage, other: Storage) -> None:
        for key in "abcde":
            version = await storage.write(key, '"old"')
            racers = [attempt((storage, other)[i % 2], key, str(i), version, batch=i % 4 > 1) for i in range(RACERS)]
            results = await asyncio.gather(*racers)
            winners = [str(i) for i, result in enumerate(results) if not isinstance(result, ConflictError)]

            assert winners == [await document(storage, key)]

    async def test_of_many_deleters_one_deletes(self, storage: Storage, other: Storage) -> None:
        await storage.write("k", "1")
        results = await asyncio.gather(*((storage, other)[i % 2].delete("k") for i in range(RACERS)))

        assert results.count(True) == 1

    async def test_no_increment_is_lost_between_two_instances(self, storage: Storage, other: Storage) -> None:
        await storage.write("k", "0")
        await asyncio.gather(*(increment((storage, other)[i % 2], "k") for i in range(INCREMENTS)))

        assert await document(storage) == str(INCREMENTS)

    async def test_writers_of_different_keys_leave_each_other_alone(self, storage: Storage, other: Storage) -> None:
        async def write(writer: Storage, key: str) -> None:
            for i in range(5):
                await writer.write(key, str(i), ttl=600.0 if i < 4 else None)
            await writer.write(f"{key}:gone", "1")
            await writer.delete(f"{key}:gone")

        await asyncio.gather(*(write((storage, other)[i % 2], f"k{i}") for i in range(12)))
        found = {key: record.value async for key, record in storage.read_all_entries()}

        assert found == {f"k{i}": "4" for i in range(12)}

    async def test_of_a_delete_and_a_stale_write_one_wins(self, storage: Storage, other: Storage) -> None:
        for i in range(10):
            version = await storage.write("k", "1")
            write, delete = await asyncio.gather(
                attempt(storage, "k", "2", version, batch=i % 2 == 0),
                attempt(other, "k", None, version, batch=i % 4 > 1),
            )

            assert isinstance(write, ConflictError) != isinstance(delete, ConflictError)
            assert await document(storage) == (None if delete is True else "2")
