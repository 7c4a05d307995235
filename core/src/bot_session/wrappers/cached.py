"""What was read lately, kept at hand: for a bot that is one process and owns its storage."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from bot_session.errors import StorageError, UnavailableError
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
    raises `ConflictError`, and the next read asks the storage. That something is not there is remembered too. Closing
    it forgets everything.

    A write that was cancelled, or whose outcome is unknown, may still happen at any later time. What is read of its key
    is not remembered until a write of it has succeeded, or `forget` is called. Of more than ``max_entries`` such keys
    it keeps no list: from then on, until `forget` is called for all, only what is written is remembered.

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
        self._doubtful: set[str] = set()  # Keys of writes that may still happen;
        self._all_doubtful = False  # too many to list.
        # The order in which writes of a key end must be that in which they happen: one at a time.
        self._writing = KeyLocks()

    def _narrowed(self, inner: Capabilities) -> Capabilities:
        return dataclasses.replace(inner, shared=False)

    def forget(self, key: str | None = None) -> None:
        """Ask the storage again at the next read, for one key or for all: after somebody else has changed it."""
        if key is None:
            self._doubtful.clear()
            self._all_doubtful = False
            self._drop_all()
        else:
            self._doubtful.discard(key)
            self._drop(key)

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            self._drop_all()  # Until it is opened again, it is anybody's.

    async def read(self, key: str) -> Record | None:
        return (await self.read_many([key])).get(key)

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        self._inner._validate_keys("read_many", keys)  # noqa: SLF001 - its limits, known or not
        looked = {key: self._look(key) for key in dict.fromkeys(keys)}
        if self._root._state != "open":  # noqa: SLF001 - what is closed answers nothing
            self._drop_all()
            looked = dict.fromkeys(looked)
        asked = [key for key, known in looked.items() if known is None]
        if asked:
            looked.update(await self._ask(asked))
        return {key: record for key, known in looked.items() if known and (record := known[0]) is not None}

    async def _ask(self, keys: list[str]) -> dict[str, tuple[Record | None]]:
        """Read from the storage, and remember it."""
        mark, asked = object(), self._clock()
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
            if not self._all_doubtful and key not in self._doubtful:
                self._remember(key, found[key], asked)
        return {key: (record,) for key, record in found.items()}

    async def has(self, key: str) -> bool:
        return await self.read(key) is not None

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        self._inner._validate("write", key, value, ttl)  # noqa: SLF001
        async with self._writing.holding(key):
            sent = self._clock()
            with self._changing(key):
                version = await self._inner.write(key, value, ttl=ttl, match=match)
            self._written(key, Record(value, version, ttl), sent)
        return version

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        self._inner._validate("delete", key)  # noqa: SLF001
        async with self._writing.holding(key):
            with self._changing(key):
                existed = await self._inner.delete(key, match=match)
            self._written(key, None)
        return existed

    async def touch(self, key: str, ttl: float | None) -> bool:
        self._inner._validate("touch", key, ttl=ttl)  # noqa: SLF001
        async with self._writing.holding(key):
            with self._changing(key):
                return await self._inner.touch(key, ttl)

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        self._inner._validate_writes("write_many", writes)  # noqa: SLF001
        keys = {write.key for write in writes}
        async with self._writing.holding(*keys):
            sent = self._clock()
            with self._changing(*keys):
                results = await self._inner.write_many(writes)
            for write, result in zip(writes, results, strict=True):
                if isinstance(result, str):
                    self._written(write.key, Record(write.value or "", result, write.ttl), sent)
                elif isinstance(result, bool):
                    self._written(write.key, None)
                else:
                    self._drop(write.key)
        return results

    async def delete_many(self, keys: Iterable[str]) -> int:
        results = await self.write_many([Write(key, None) for key in dict.fromkeys(keys)])
        return sum(result is True for result in conflicts_only(results))

    @contextmanager
    def _changing(self, *keys: str) -> Iterator[None]:
        """
        Change keys in the body; whatever becomes of it, nothing is known of them afterwards.

        They are dropped twice: whoever began to read meanwhile may have read what was there before.
        """
        for key in keys:
            self._drop(key)
        try:
            yield
        except BaseException as error:
            if _may_still_happen(error):
                self._doubtful.update(keys)
                self._all_doubtful = self._all_doubtful or len(self._doubtful) > self._max_entries
                if self._all_doubtful:
                    self._doubtful.clear()
            raise
        finally:
            for key in keys:
                self._drop(key)

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
        if left > 0:
            return (Record(record.value, record.version, left),)
        self._drop(key)  # The storage, whose clock counts, may still have it for a moment.
        return None

    def _written(self, key: str, record: Record | None, sent: float = 0.0) -> None:
        self._doubtful.discard(key)
        self._remember(key, record, sent)

    def _remember(self, key: str, record: Record | None, since: float) -> None:
        """Remember what is stored; its TTL began after ``since``."""
        self._drop(key)
        if self._root._state != "open":  # noqa: SLF001 - closed meanwhile
            return
        self._known[key] = (record, None if record is None or record.ttl is None else since + record.ttl)
        self._characters += 0 if record is None else len(record.value)
        while len(self._known) > self._max_entries or self._characters > self._max_characters:
            self._drop(next(iter(self._known)))

    def _drop(self, key: str) -> None:
        self._reading.pop(key, None)
        record, _ = self._known.pop(key, (None, None))
        if record is not None:
            self._characters -= len(record.value)

    def _drop_all(self) -> None:
        self._known.clear()
        self._reading.clear()
        self._characters = 0


def _may_still_happen(error: BaseException) -> bool:
    """Whether a write that ended like this may have happened, or happen later."""
    if isinstance(error, UnavailableError):
        return error.outcome_unknown
    return not isinstance(error, StorageError)
