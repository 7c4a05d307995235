"""What was read lately, kept at hand: for a bot that is one process and owns its storage."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from bot_session.locks import KeyLocks
from bot_session.storage import ANY, Capabilities, Match, Record, Storage, Version, Write, WriteResult, conflicts_only

from .base import StorageWrapper, locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["CachedStorage"]

MAX_ENTRIES: Final = 10_000
MAX_CHARACTERS: Final = 64 * 1024 * 1024


class CachedStorage(StorageWrapper):
    """
    Answers reads from memory, and writes through: a session that is busy costs its write, and no read.

    Only for a bot that is a single process, and whose storage nobody else changes: others' changes are not seen (so
    `Capabilities.shared` is False). They are not overwritten either, as long as writes match a version: such a write
    raises `ConflictError`, and the next read asks the storage. That something is not there is remembered too.

    Args:
        inner: The storage to wrap.
        max_entries: The most keys to remember; those not used for the longest time go first.
        max_characters: The most characters of documents to remember.
        clock: Returns seconds that only grow; replace it to move time in tests.
    """

    def __init__(
        self,
        inner: Storage,
        *,
        max_entries: int = MAX_ENTRIES,
        max_characters: int = MAX_CHARACTERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self._root, _ = locate(inner, "")
        self._max_entries = max_entries
        self._max_characters = max_characters
        self._clock = clock
        self._known: OrderedDict[str, tuple[Record | None, float | None]] = OrderedDict()  # key: (record, deadline)
        self._characters = 0
        self._reading: dict[str, object] = {}
        # The order in which writes of a key end must be that in which they happen: one at a time.
        self._writing = KeyLocks()

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # known when it wraps, not before
        """As the wrapped storage's, but not shared."""
        return dataclasses.replace(self._inner.capabilities, shared=False)

    def forget(self, key: str | None = None) -> None:
        """Ask the storage again at the next read, for one key or for all: after somebody else has changed it."""
        if key is None:
            self._known.clear()
            self._reading.clear()
            self._characters = 0
            return
        self._reading.pop(key, None)
        record, _ = self._known.pop(key, (None, None))
        if record is not None:
            self._characters -= len(record.value)

    async def read(self, key: str) -> Record | None:
        return (await self.read_many([key])).get(key)

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        self._inner._validate_keys("read_many", keys)  # noqa: SLF001 - its limits, known or not
        looked = {key: self._look(key) for key in dict.fromkeys(keys)}
        if self._root._state != "open":  # noqa: SLF001 - what is closed answers nothing
            self.forget()
            looked = dict.fromkeys(looked)
        asked = [key for key, known in looked.items() if known is None]
        if asked:
            looked.update(await self._ask(asked))
        return {key: record for key, known in looked.items() if known and (record := known[0]) is not None}

    async def _ask(self, keys: list[str]) -> dict[str, tuple[Record | None]]:
        """Read from the storage, and remember it."""
        mark = object()
        self._reading.update(dict.fromkeys(keys, mark))
        try:
            if len(keys) == 1:
                found = {keys[0]: await self._inner.read(keys[0])}
            else:
                found = {**dict.fromkeys(keys), **await self._inner.read_many(keys)}
        finally:
            # Whoever wrote meanwhile has taken the mark away: what was read may be older than that.
            current = [key for key in keys if self._reading.get(key) is mark]
            for key in current:
                del self._reading[key]
        for key in current:
            self._remember(key, found[key])
        return {key: (record,) for key, record in found.items()}

    async def has(self, key: str) -> bool:
        return await self.read(key) is not None

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        self._inner._validate("write", key, value, ttl)  # noqa: SLF001
        async with self._writing.holding(key):
            with self._forgetting(key):
                version = await self._inner.write(key, value, ttl=ttl, match=match)
            self._remember(key, Record(value, version, ttl))
        return version

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        self._inner._validate("delete", key)  # noqa: SLF001
        async with self._writing.holding(key):
            with self._forgetting(key):
                existed = await self._inner.delete(key, match=match)
            self._remember(key, None)
        return existed

    async def touch(self, key: str, ttl: float | None) -> bool:
        self._inner._validate("touch", key, ttl=ttl)  # noqa: SLF001
        async with self._writing.holding(key):
            with self._forgetting(key):
                return await self._inner.touch(key, ttl)

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        self._inner._validate_writes("write_many", writes)  # noqa: SLF001
        keys = {write.key for write in writes}
        async with self._writing.holding(*keys):
            with self._forgetting(*keys):
                results = await self._inner.write_many(writes)
            for write, result in zip(writes, results, strict=True):
                self.forget(write.key)
                if isinstance(result, str):
                    self._remember(write.key, Record(write.value or "", result, write.ttl))
                elif isinstance(result, bool):
                    self._remember(write.key, None)
        return results

    async def delete_many(self, keys: Iterable[str]) -> int:
        results = await self.write_many([Write(key, None) for key in dict.fromkeys(keys)])
        return sum(result is True for result in conflicts_only(results))

    @contextmanager
    def _forgetting(self, *keys: str) -> Iterator[None]:
        """
        Change keys in the body; whatever becomes of it, nothing is known of them afterwards.

        They are forgotten twice: whoever began to read meanwhile may have read what was there before.
        """
        for key in keys:
            self.forget(key)
        try:
            yield
        finally:
            for key in keys:
                self.forget(key)

    def _look(self, key: str) -> tuple[Record | None] | None:
        """Return what is known of a key, in a tuple; None if nothing is."""
        entry = self._known.get(key)
        if entry is None:
            return None
        record, deadline = entry
        self._known.move_to_end(key)
        if record is None or deadline is None:
            return (record,)
        left = deadline - self._clock()
        return (Record(record.value, record.version, left) if left > 0 else None,)

    def _remember(self, key: str, record: Record | None) -> None:
        deadline = None if record is None or record.ttl is None else self._clock() + record.ttl
        self._known[key] = (record, deadline)
        self._characters += 0 if record is None else len(record.value)
        while len(self._known) > self._max_entries or self._characters > self._max_characters:
            self.forget(next(iter(self._known)))
