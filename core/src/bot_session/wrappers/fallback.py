"""Copies of one storage in others, and what was in those others before."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Literal, cast

from bot_session.errors import ConfigurationError, ConflictError, StorageError, UnavailableError
from bot_session.locks import KeyLocks
from bot_session.storage import (
    ABSENT,
    ANY,
    PRESENT,
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
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

__all__ = ["FallbackStorage"]

_logger = logging.getLogger("bot_session")


class FallbackStorage(StorageWrapper):
    """
    Keeps documents in a primary storage and copies of them in others; what the primary lacks is taken from the others.

    For moving to a new storage while the bot runs (the new one is the primary, the old one fills it as sessions are
    used), and for a primary that may lose documents, such as a cache.

    - **The primary decides.** Versions are the primary's; conditions are checked there, in its one atomic step.
    - **Read**: the primary; if it has nothing, the others in order. What one of them has is copied into the primary,
      with the TTL that is left, unless somebody was faster; then it is returned as the primary's.
    - **Write**: the primary, then all others at once; it returns when all have answered.
    - **Delete**: all others first, then the primary, so that no copy can bring back what was deleted. If one of them
      fails, the delete raises, and the document is still there.

    **An error is never a miss, and no storage stands in for one that is down**: the copy may be older than what the
    primary has, and a session saved from it would undo what happened in between. So a storage that cannot answer raises
    when its answer is needed. The others are needed when the primary has nothing, and for deleting.

    Two writers of one key in one process take turns, so that the copies end up as the primary does. Between processes
    a copy may stay behind, and a write that is cancelled or fails may have reached the primary alone; as long as the
    primary keeps the key nobody sees that, and the next write mends it. With a primary that other processes do not see
    (`Capabilities.shared`), use it from one process only.

    Args:
        primary: The storage that decides.
        secondaries: One or more others.
        on_failed_copy: What happens when a document was written to the primary and could not be copied: ``"raise"``
            raises `UnavailableError` with ``outcome_unknown``; ``"log"`` logs an error with the logger ``bot_session``
            and goes on, which is right only where the primary loses nothing by itself: otherwise an older copy may
            come back.

    Raises:
        ConfigurationError: There are no others, or two of all lead to the same place.
    """

    def __init__(
        self, primary: Storage, *secondaries: Storage, on_failed_copy: Literal["raise", "log"] = "raise"
    ) -> None:
        super().__init__(primary)
        if not secondaries:
            raise ConfigurationError("a fallback needs at least two storages")
        if len({locate(storage, "") for storage in (primary, *secondaries)}) <= len(secondaries):
            raise ConfigurationError("a fallback cannot have the same storage twice")
        if on_failed_copy not in {"raise", "log"}:
            raise ConfigurationError(f"on_failed_copy is 'raise' or 'log', not {on_failed_copy!r}")
        self._secondaries = secondaries
        self._raises = on_failed_copy == "raise"
        self._locks = KeyLocks()
        every = [storage.capabilities for storage in self._storages]
        self._capabilities = dataclasses.replace(
            primary.capabilities,
            atomic_batches=False,  # across storages nothing is
            ttl_resolution=max(each.ttl_resolution for each in every),
            max_key_bytes=_least(each.max_key_bytes for each in every),
            max_value_bytes=_least(each.max_value_bytes for each in every),
        )

    @property
    def secondaries(self) -> tuple[Storage, ...]:
        """The storages that hold the copies."""
        return self._secondaries

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
            existed = await self._inner.touch(key, ttl)
            if existed:
                await self._copy("touch", key, lambda storage: storage.touch(key, ttl))
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
            results = await self._inner.write_many(writes)
            copies = await self._copies(writes, results, deleted)
            if copies:
                await self._copy("write_many", None, lambda storage: _write_copies(storage, copies))
        return results

    async def _copies(
        self, writes: Sequence[Write], results: Sequence[WriteResult], deleted: Sequence[str]
    ) -> list[Write]:
        """Return the writes that make the copies what the primary now has."""
        last = {
            write.key: write
            for write, result in zip(writes, results, strict=True)
            if not isinstance(result, StorageError)
        }
        kept = [key for key in deleted if key not in last]
        if kept:  # Their copies are gone, but the primary refused to delete.
            records = await self._inner.read_many(kept)
            last |= {key: Write(key, record.value, record.lasting) for key, record in records.items()}
        return [Write(write.key, write.value, write.ttl) for write in last.values() if write.value is not None]

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
        missing = {key for key in keys if key not in found}
        strays: dict[str, Record] = {}
        for storage in self._secondaries:
            if missing:
                strays |= await storage.read_many(list(missing))
                missing -= strays.keys()
        if not strays:
            return found
        results = await self._inner.write_many(
            [Write(key, record.value, record.lasting, ABSENT) for key, record in strays.items()]
        )
        overtaken: list[str] = []
        for (key, record), result in zip(strays.items(), conflicts_only(results), strict=True):
            if isinstance(result, ConflictError):
                overtaken.append(key)
            else:
                found[key] = Record(record.value, cast("Version", result), record.ttl)
        if overtaken:
            found |= await self._inner.read_many(overtaken)
        return found

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
        for storage in self._storages:
            await storage.open()

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
