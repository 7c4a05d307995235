"""Copies of one storage in others, and what was in those others before."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, Literal, cast

from bot_session.errors import ConfigurationError, ConflictError, StorageError, UnavailableError
from bot_session.locks import KeyLocks
from bot_session.storage import (
    ABSENT,
    ANY,
    PRESENT,
    Capabilities,
    Match,
    Record,
    Storage,
    Version,
    Write,
    WriteResult,
    conflicts_only,
)

from .base import StorageWrapper, closing, locate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

__all__ = ["FallbackStorage"]

SHORTEST_TTL: Final = 0.001
"""Of a copy whose time was up before it could be written."""

_logger = logging.getLogger("bot_session")


class FallbackStorage(StorageWrapper):
    """
    Keeps documents in a primary storage and copies of them in others; what the primary lacks is taken from the others.

    For moving to a new storage while the bot runs (the new one is the primary, the old one fills it as sessions are
    used), and for a primary that may lose documents, such as a cache.

    - **The primary decides.** Versions are the primary's; conditions are checked there, in its one atomic step.
    - **Read**: the primary; if it has nothing, the others in order. What one of them has is copied into the primary,
      with the TTL that is left, unless somebody was faster; then it is returned as the primary's. If none of the others
      has it any more when it is there, it was deleted meanwhile, and is deleted again.
    - **Write**: the primary, then all others at once; it returns when all have answered.
    - **Delete**: all others first, then the primary, so that no copy can bring back what was deleted. If one of them
      fails, the delete raises, and the document is still there.

    **An error is never a miss, and no storage stands in for one that is down**: the copy may be older than what the
    primary has, and a session saved from it would undo what happened in between. So a storage that cannot answer raises
    when its answer is needed. The others are needed when the primary has nothing, and for deleting.

    Two writers of one key in one process take turns, so that the copies end up as the primary does. Between processes
    a copy may stay behind, and a write that is cancelled or fails may have reached the primary alone; as long as the
    primary keeps the key nobody sees that, and the next write mends it. What one process deletes while another copies
    it into the primary may be read until that one deletes it again; it comes back for good only if that process is
    stopped in this moment, or cannot reach the others then. A copy expires with the primary's document, or later by as
    long as it was on its way. With a primary that other processes do not see (`Capabilities.shared`), use it from one
    process only.

    Args:
        primary: The storage that decides.
        secondaries: One or more others.
        on_failed_copy: What happens when a document was written to the primary and could not be copied: ``"raise"``
            raises `UnavailableError` with ``outcome_unknown``; ``"log"`` logs an error with the logger ``bot_session``
            and goes on, which is right only where the primary loses nothing by itself: otherwise an older copy may
            come back.
        clock: Returns seconds that only grow; replace it to move time in tests.

    Raises:
        ConfigurationError: There are no others, or two of all lead to the same place.
    """

    def __init__(
        self,
        primary: Storage,
        *secondaries: Storage,
        on_failed_copy: Literal["raise", "log"] = "raise",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not secondaries:
            raise ConfigurationError("a fallback needs at least two storages")
        if len({locate(storage, "") for storage in (primary, *secondaries)}) <= len(secondaries):
            raise ConfigurationError("a fallback cannot have the same storage twice")
        if on_failed_copy not in {"raise", "log"}:
            raise ConfigurationError(f"on_failed_copy is 'raise' or 'log', not {on_failed_copy!r}")
        self._secondaries = secondaries
        self._raises = on_failed_copy == "raise"
        self._locks = KeyLocks()
        self._clock = clock
        self._others = [storage.capabilities for storage in secondaries]
        super().__init__(primary)

    @property
    def secondaries(self) -> tuple[Storage, ...]:
        """The storages that hold the copies."""
        return self._secondaries

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # as in `StorageWrapper`
        """What all storages together can do."""
        others = [storage.capabilities for storage in self._secondaries]
        if others != self._others:
            self._others = others
            self._capabilities = self._narrowed(self._inner.capabilities)
        return super().capabilities

    def _narrowed(self, inner: Capabilities) -> Capabilities:
        every = [inner, *self._others]
        return dataclasses.replace(
            inner,
            atomic_batches=False,  # across storages nothing is
            ttl_resolution=max(each.ttl_resolution for each in every),
            max_key_bytes=_least(each.max_key_bytes for each in every),
            max_value_bytes=_least(each.max_value_bytes for each in every),
        )

    @property
    def _storages(self) -> tuple[Storage, ...]:
        return (self._inner, *self._secondaries)

    # ------------------------------------------------------------------ reading

    async def read(self, key: str) -> Record | None:
        self._validate("read", key)
        record = await self._inner.read(key)
        return record if record is not None else (await self._fetch([key])).get(key)

    async def has(self, key: str) -> bool:
        self._validate("has", key)
        for storage in self._storages:
            if await storage.has(key):
                return True
        return False

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        self._validate_keys("read_many", keys)
        found = await self._inner.read_many(keys)
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        return {**found, **await self._fetch(missing)} if missing else found

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        """As in `Storage`, but it remembers every key that came: several storages have the same ones."""
        self._validate_listing("read_all_keys", prefix, batch_size)
        seen: set[str] = set()
        for storage in self._storages:
            async with closing(storage.read_all_keys(prefix, batch_size=batch_size)) as keys:
                async for key in keys:
                    if key not in seen:
                        seen.add(key)
                        yield key

    # Built upon the two above; a document that only a copy has gets its version by going home to the primary.
    read_all_values = Storage.read_all_values
    read_all_entries = Storage.read_all_entries

    # ------------------------------------------------------------------ writing

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        self._validate("write", key, value, ttl)
        return cast("Version", await self._apply_one("write", Write(key, value, ttl, match)))

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        self._validate("delete", key)
        return await self._apply_one("delete", Write(key, None, match=match)) is True

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        self._validate_writes("write_many", writes)
        return await self._apply(writes)

    delete_many = Storage.delete_many

    async def touch(self, key: str, ttl: float | None) -> bool:
        self._validate("touch", key, ttl=ttl)
        async with self._locks.holding(key):
            await self._bring_home([key])
            sent = self._clock()
            existed = await self._inner.touch(key, ttl)
            if existed:
                left = self._left(ttl, sent)
                await self._copy("touch", key, lambda storage: storage.touch(key, left))
        return existed

    async def _apply_one(self, operation: str, write: Write) -> Version | bool:
        (result,) = await self._apply([write])
        if isinstance(result, ConflictError):
            raise self._conflict(operation, write.key, write.match, result.actual)
        if isinstance(result, StorageError):
            raise result
        return result

    async def _apply(self, writes: Sequence[Write]) -> list[WriteResult]:
        deleted = list(dict.fromkeys(write.key for write in writes if write.value is None))
        # The primary can tell whether there is anything only when it has what the others have.
        asked = [write.key for write in writes if write.value is None or write.match in {ABSENT, PRESENT}]
        async with self._locks.holding(*(write.key for write in writes)):
            await self._bring_home(asked)
            if deleted:
                failures = await self._on_secondaries(lambda storage: storage.delete_many(deleted))
                if failures:
                    raise failures[0]
            sent = self._clock()
            results = await self._inner.write_many(writes)
            copies = await self._copies(writes, results, deleted, sent)
            if copies:
                await self._copy("write_many", None, lambda storage: _write_copies(storage, copies))
        return results

    async def _copies(
        self, writes: Sequence[Write], results: Sequence[WriteResult], deleted: Sequence[str], sent: float
    ) -> list[Write]:
        """Return the writes that make the copies what the primary has, to which the writes were sent at that time."""
        last = {
            write.key: write
            for write, result in zip(writes, results, strict=True)
            if not isinstance(result, StorageError)
        }
        kept = [key for key in deleted if key not in last]
        if kept:  # Their copies are gone, but the primary refused to delete.
            records = await self._inner.read_many(kept)
            last |= {key: Write(key, record.value, record.lasting) for key, record in records.items()}
        return [
            Write(write.key, write.value, self._left(write.ttl, sent))
            for write in last.values()
            if write.value is not None
        ]

    def _left(self, ttl: float | None, since: float) -> float | None:
        """What is left of a TTL that began after ``since``, so that a copy does not outlive what it is a copy of."""
        return None if ttl is None else max(ttl - (self._clock() - since), SHORTEST_TTL)

    async def _copy(self, operation: str, key: str | None, call: Callable[[Storage], Awaitable[object]]) -> None:
        """Do to the others what was done to the primary, all at once."""
        for failure in await self._on_secondaries(call):
            if self._raises:
                error = UnavailableError(
                    "the primary was changed, a copy was not",
                    operation=operation,
                    key=key,
                    storage=self,
                    outcome_unknown=True,
                )
                error.retryable = failure.retryable
                raise error from failure
            _logger.error("a copy was not changed with the primary: %s", failure)

    async def _on_secondaries(self, call: Callable[[Storage], Awaitable[object]]) -> list[StorageError]:
        """Call all others at once, wait for all of them, and return what went wrong."""
        outcomes = await asyncio.gather(*(call(storage) for storage in self._secondaries), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for failure in failures:
            if not isinstance(failure, StorageError):
                raise failure
        return cast("list[StorageError]", failures)

    # ------------------------------------------------------------------ from the others into the primary

    async def _fetch(self, keys: Sequence[str]) -> dict[str, Record]:
        async with self._locks.holding(*keys):
            return await self._bring_home(keys)

    async def _bring_home(self, keys: Sequence[str]) -> dict[str, Record]:
        """Copy into the primary what only the others have, and return what it has then. The keys are locked."""
        if not keys:
            return {}
        found = await self._inner.read_many(keys)
        strays = await self._strays([key for key in keys if key not in found])
        return found | await self._adopt(strays) if strays else found

    async def _adopt(self, strays: Mapping[str, Record]) -> dict[str, Record]:
        """Write into the primary what it lacks, and return what it has then."""
        results = await self._inner.write_many(
            [Write(key, record.value, record.ttl, ABSENT) for key, record in strays.items()]
        )
        brought = {
            key: Record(record.value, cast("Version", result), record.ttl)
            for (key, record), result in zip(strays.items(), conflicts_only(results), strict=True)
            if not isinstance(result, ConflictError)
        }
        # Whoever deletes begins with the others: while one of them has it, it will be deleted from the primary too.
        still = await self._strays(list(brought))
        gone = [Write(key, None, match=record.version) for key, record in brought.items() if key not in still]
        if gone:
            conflicts_only(await self._inner.write_many(gone))
        found = {key: brought[key] for key in still}
        overtaken = [key for key in strays if key not in found]
        return found | await self._inner.read_many(overtaken) if overtaken else found

    async def _strays(self, keys: Sequence[str]) -> dict[str, Record]:
        """Return what the others have: under each key, what the first of them has that has anything."""
        asked = self._clock()
        found: dict[str, Record] = {}
        for storage in self._secondaries:
            missing = [key for key in keys if key not in found]
            if missing:
                found |= await storage.read_many(missing)
        return {key: Record(each.value, each.version, self._left(each.lasting, asked)) for key, each in found.items()}

    # ------------------------------------------------------------------ the rest

    async def purge(self) -> int:
        """Purge all storages, and return how many documents had expired in the primary."""
        for storage in self._secondaries:
            await storage.purge()
        return await self._inner.purge()

    async def check(self) -> None:
        for storage in self._storages:
            await storage.check()

    def ddl(self) -> str:
        return "\n".join(filter(None, (storage.ddl() for storage in self._storages)))

    async def open(self) -> None:
        """Open all of them. If one cannot be opened, those that were opened for this are closed again."""
        async with AsyncExitStack() as opened:
            for storage in self._storages:
                was_open = locate(storage, "")[0]._state == "open"  # noqa: SLF001 - to leave it as it was
                await storage.open()
                if not was_open:
                    opened.push_async_callback(storage.close)
            opened.pop_all()

    async def close(self) -> None:
        async with AsyncExitStack() as stack:  # closes all of them, whatever one may raise
            for storage in self._storages:
                stack.push_async_callback(storage.close)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(map(repr, self._storages))}>"


async def _write_copies(storage: Storage, copies: Sequence[Write]) -> None:
    conflicts_only(await storage.write_many(copies))


def _least(limits: Iterable[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
