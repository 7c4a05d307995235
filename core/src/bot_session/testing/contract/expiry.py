"""Group: expired is absent, at once and for every method."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from bot_session.errors import ConflictError
from bot_session.storage import ABSENT, MAX_TTL, PRESENT, Write

from .base import ContractBase, keys_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bot_session.storage import Storage

__all__ = ["Expiry"]

BAD_TTLS: list[Any] = [0, 0.0, -1.0, float("nan"), float("inf"), True, MAX_TTL * 1.01, "60"]
CLOCK_SLACK = 0.02
"""How far, in seconds, a backend's clock may step beside ours."""


async def remaining(storage: Storage, key: str) -> float | None:
    """Return the TTL that is left of what is stored."""
    record = await storage.read(key)
    assert record is not None, f"{key!r} is gone"
    return record.ttl


class Expiry(ContractBase):
    """Expired is absent, at once and for every method."""

    @pytest.mark.parametrize("ttl", [90.0, 90.7, 59.001, 86_400.0, 86_400.0 * 30, 3_600, MAX_TTL])
    async def test_the_remaining_ttl_is_reported_and_rounded_up_never_down(self, storage: Storage, ttl: float) -> None:
        longest = ttl + storage.capabilities.ttl_resolution
        await storage.write("touch", "1")
        settings: dict[str, Callable[[], Awaitable[object]]] = {
            "write": lambda: storage.write("write", "1", ttl=ttl),
            "write_many": lambda: storage.write_many([Write("write_many", "1", ttl=ttl)]),
            "touch": lambda: storage.touch("touch", ttl),
        }
        for method, call in settings.items():
            started = time.monotonic()
            await call()
            left = await remaining(storage, method)
            elapsed = time.monotonic() - started

            assert left is not None
            assert ttl - elapsed - CLOCK_SLACK <= left <= longest + CLOCK_SLACK, f"as {method} set it"

    async def test_every_way_of_reading_reports_the_same_ttl(self, storage: Storage) -> None:
        await storage.write_many([Write("k", "1", ttl=600.0), Write("ever", "1")])
        single = await remaining(storage, "k")
        many = await storage.read_many(["k", "ever"])
        entries = {key: record async for key, record in storage.read_all_entries()}

        assert single is not None
        assert single == pytest.approx(many["k"].ttl, abs=10.0)
        assert single == pytest.approx(entries["k"].ttl, abs=10.0)
        assert many["ever"].ttl is None
        assert entries["ever"].ttl is None

    async def test_without_a_ttl_a_document_lives_for_ever(self, storage: Storage) -> None:
        await storage.write("k", "1")

        assert await remaining(storage, "k") is None

    async def test_replacing_clears_the_ttl(self, storage: Storage) -> None:
        for value in ("2", "2"):  # another document, and the same one again
            await storage.touch("k", 600.0)
            await storage.write("k", value)

            assert await remaining(storage, "k") is None

    async def test_replacing_sets_the_ttl(self, storage: Storage) -> None:
        await storage.write("k", "1")
        await storage.write("k", "2", ttl=600.0)
        first = await remaining(storage, "k")
        await storage.write("k", "2", ttl=6_000.0)
        second = await remaining(storage, "k")

        assert first == pytest.approx(600.0, abs=10.0)
        assert second == pytest.approx(6_000.0, abs=10.0)

    async def test_a_write_that_matches_replaces_the_ttl_too(self, storage: Storage) -> None:
        version = await storage.write("k", "1", ttl=600.0)
        version = await storage.write("k", "2", ttl=6_000.0, match=version)
        longer = await remaining(storage, "k")
        await storage.write("k", "3", match=PRESENT)

        assert longer == pytest.approx(6_000.0, abs=10.0)
        assert await remaining(storage, "k") is None

    async def test_touch_changes_the_ttl_and_leaves_the_document(self, storage: Storage) -> None:
        await storage.write("k", "1")

        assert await storage.touch("k", 600.0) is True
        assert await remaining(storage, "k") == pytest.approx(600.0, abs=10.0)
        assert await storage.touch("k", 86_400.0) is True
        assert await remaining(storage, "k") == pytest.approx(86_400.0, abs=10.0)
        assert await storage.touch("k", 60.0) is True
        assert await remaining(storage, "k") == pytest.approx(60.0, abs=10.0)
        assert await storage.touch("k", None) is True

        record = await storage.read("k")

        assert record is not None
        assert (record.value, record.ttl) == ("1", None)

    async def test_touch_never_brings_anything_to_life(self, storage: Storage) -> None:
        await self.write_expired(storage, ["expired"])

        assert await storage.touch("missing", 60.0) is False
        assert await storage.touch("missing", None) is False
        assert await storage.touch("expired", 60.0) is False
        assert await storage.touch("expired", None) is False
        assert await keys_of(storage) == []
        assert await storage.read("missing") is None
        assert await storage.read("expired") is None

    async def test_touch_loses_no_write(self, storage: Storage, other: Storage) -> None:
        await storage.write("k", "0")

        async def write() -> None:
            for i in range(1, 31):
                await storage.write("k", str(i), ttl=600.0)
                await asyncio.sleep(0)

        async def touch() -> None:
            for _ in range(30):
                assert await other.touch("k", 6_000.0)
                await asyncio.sleep(0)

        await asyncio.gather(write(), touch())
        record = await storage.read("k")

        assert record is not None
        assert record.value == "30"

    async def test_touch_brings_nothing_back_that_is_deleted_meanwhile(self, storage: Storage, other: Storage) -> None:
        for i in range(10):
            await storage.write("k", "1")
            pair = (storage.touch("k", 600.0), other.delete("k"))
            await asyncio.gather(*(pair if i % 2 else reversed(pair)))

            assert await storage.read("k") is None

    @pytest.mark.parametrize("ttl", BAD_TTLS, ids=str)
    async def test_a_bad_ttl_is_a_value_error_and_nothing_is_written(self, storage: Storage, ttl: Any) -> None:
        await storage.write("k", "1", ttl=600.0)
        with pytest.raises(ValueError, match="ttl"):
            await storage.write("k", "2", ttl=ttl)
        with pytest.raises(ValueError, match="ttl"):
            await storage.touch("k", ttl)
        with pytest.raises(ValueError, match="ttl"):
            await storage.touch("missing", ttl)
        with pytest.raises(ValueError, match="ttl"):
            await storage.write_many([Write("a", "1"), Write("k", "2", ttl=ttl)])
        record = await storage.read("k")

        assert await keys_of(storage) == ["k"]
        assert record is not None
        assert record.value == "1"
        assert record.ttl == pytest.approx(600.0, abs=10.0)

    async def test_a_document_expires_by_the_clock_and_not_before(self, storage: Storage) -> None:
        ttl, step = 0.3, storage.capabilities.ttl_resolution
        started = time.monotonic()
        await storage.write("k", "1", ttl=ttl)
        asked = written = time.monotonic()
        while (record := await storage.read("k")) is not None:
            assert record.ttl is not None
            # What is reported shrinks with time, whoever looks, and what has none left is not reported.
            assert 0 < record.ttl <= written + ttl + step - asked + CLOCK_SLACK
            await storage.has("k")
            await storage.read_many(["k"])
            assert await keys_of(storage) in ([], ["k"])
            await asyncio.sleep(0.02)
            asked = time.monotonic()

        assert time.monotonic() - started >= ttl - CLOCK_SLACK

    async def test_expired_is_absent_for_read_and_read_many(self, storage: Storage) -> None:
        await storage.write("live", "1", ttl=600.0)
        await self.write_expired(storage, ["k"])

        assert await storage.read("k") is None
        assert list(await storage.read_many(["k", "live"])) == ["live"]

    async def test_expired_is_absent_for_has(self, storage: Storage) -> None:
        await self.write_expired(storage, ["k"])

        assert await storage.has("k") is False

    async def test_expired_is_absent_for_delete(self, storage: Storage) -> None:
        await self.write_expired(storage, ["a", "b", "c", "d"])

        assert await storage.delete("a") is False
        assert await storage.delete("d", match=ABSENT) is False
        assert await storage.write_many([Write("b", None)]) == [False]
        assert await storage.delete_many(["c"]) == 0

    async def test_expired_is_absent_for_iteration(self, storage: Storage) -> None:
        await storage.write("live", "2", ttl=600.0)
        await self.write_expired(storage, ["k"])

        assert await keys_of(storage) == ["live"]
        assert [value async for value in storage.read_all_values()] == ["2"]
        assert [key async for key, _ in storage.read_all_entries()] == ["live"]

    async def test_expired_is_absent_for_a_match(self, storage: Storage) -> None:
        for match in (PRESENT, await storage.write("k", "1", ttl=60.0)):
            await self.write_expired(storage, ["k"])
            with pytest.raises(ConflictError):
                await storage.write("k", "2", match=match)
            with pytest.raises(ConflictError):
                await storage.delete("k", match=match)
            results = await storage.write_many([Write("k", "2", match=match), Write("k", None, match=match)])

            assert [ConflictError, ConflictError] == [type(result) for result in results]
            assert await storage.read("k") is None

    async def test_expired_is_absent_for_a_write_under_absent(self, storage: Storage) -> None:
        await self.write_expired(storage, ["a", "b"])
        version = await storage.write("a", "2", match=ABSENT)
        results = await storage.write_many([Write("b", "2", match=ABSENT)])

        assert [version] == [record.version for record in (await storage.read_many(["a"])).values()]
        assert results == [record.version for record in (await storage.read_many(["b"])).values()]
        assert await remaining(storage, "a") is None

    async def test_purge_counts_what_expired_and_leaves_the_rest(self, storage: Storage, other: Storage) -> None:
        await storage.write_many([Write("ever", "{}"), Write("live", "1", ttl=30.0)])
        await self.write_expired(storage, ["a", "b", "c"])
        counted = await other.purge()

        # Where the backend frees the space by itself there is nothing to do, and nothing to count.
        assert counted == (0 if storage.capabilities.native_expiry else 3)
        assert await storage.purge() == 0
        assert await keys_of(storage) == ["ever", "live"]
