"""Sessions in the memory of this process: the default, for tests, and the reference for adapter authors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .errors import ConfigurationError
from .redaction import redact_url
from .storage import ANY, Capabilities, Match, Record, Storage, Version, holds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import Self

    from .errors import ConflictError

__all__ = ["MemoryStorage"]


class MemoryStorage(Storage):
    """
    Keeps documents in a dict. They are gone when the process ends.

    Documents are text, so what a handler does to its session data cannot reach what is stored.

    Args:
        clock: Returns seconds that only grow; replace it to move time in tests.
    """

    capabilities = Capabilities(
        shared=False, durable=False, native_expiry=False, ttl_resolution=0.0, atomic_batches=False
    )

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[Version, float | None]] = {}  # key: (document, its own version; deadline)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Make one from ``memory:``. Every call makes another.

        Raises:
            ConfigurationError: The URL says more than that.
        """
        if url not in ("memory:", "memory://"):
            raise ConfigurationError(
                f"a memory storage has no name, host or path: write memory:, not {redact_url(url)!r}"
            )
        return cls()

    async def read(self, key: str) -> Record | None:
        if self._state != "open":
            await self._ready("read", key)
        self._validate("read", key)
        return self._live(key)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if self._state != "open":
            await self._ready("write", key)
        self._validate("write", key, value, ttl)
        # Nothing is awaited between the comparison and the change: that is what makes it atomic here.
        is_as_read = self._entries.get(key) == (match, None)  # the rule; `holds` tells of the rest
        if match is not ANY and not is_as_read and not holds(match, self._live(key)):
            raise self._mismatch("write", key, match)
        version = Version(value)
        self._entries[key] = (version, None if ttl is None else self._clock() + ttl)
        return version

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        if self._state != "open":
            await self._ready("delete", key)
        self._validate("delete", key)
        record = self._live(key)
        if not holds(match, record):
            raise self._mismatch("delete", key, match)
        self._entries.pop(key, None)
        return record is not None

    async def touch(self, key: str, ttl: float | None) -> bool:
        if self._state != "open":
            await self._ready("touch", key)
        self._validate("touch", key, ttl=ttl)
        record = self._live(key)
        if record is None:
            return False
        self._entries[key] = (record.version, None if ttl is None else self._clock() + ttl)
        return True

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        if self._state != "open":
            await self._ready("read_all_keys")
        self._validate_listing("read_all_keys", prefix, batch_size)
        # A copy of the keys: others may write while the caller is busy with one of them.
        for key in [key for key in self._entries if key.startswith(prefix)]:
            if self._state != "open":
                await self._ready("read_all_keys")
            if self._live(key) is not None:
                yield key

    async def purge(self) -> int:
        if self._state != "open":
            await self._ready("purge")
        expired = [key for key in self._entries if self._live(key) is None]
        for key in expired:
            del self._entries[key]
        return len(expired)

    def _live(self, key: str) -> Record | None:
        """Return the record under ``key`` unless it has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, deadline = entry
        if deadline is None:
            return Record(value, value)
        left = deadline - self._clock()
        return Record(value, value, left) if left > 0 else None

    def _mismatch(self, operation: str, key: str, match: Match) -> ConflictError:
        record = self._live(key)
        return self._conflict(operation, key, match, None if record is None else record.version)
