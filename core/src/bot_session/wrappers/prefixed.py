"""Several tenants in one storage, each with its own beginning of the keys."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from bot_session.errors import ConfigurationError, InvalidKeyError, StorageError
from bot_session.storage import (
    ANY,
    Capabilities,
    Match,
    Record,
    Storage,
    Version,
    Write,
    WriteResult,
    WrittenAndRead,
    key_problem,
)

from .base import StorageWrapper, closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

__all__ = ["PrefixedStorage"]

T = TypeVar("T")


class PrefixedStorage(StorageWrapper):
    """
    Puts a prefix before every key, and shows only the keys that have it.

    Nothing is escaped: ``PrefixedStorage(storage, "pizza:")`` keeps ``"42"`` under ``"pizza:42"``, so of two prefixes
    none may begin with the other, unless one is meant to lie inside the other. A separator at the end (``"pizza:"``)
    makes sure of that. Errors name the key as the caller knows it.

    `purge` frees the expired documents of the whole storage, not only those under the prefix: they are gone anyway.

    Args:
        inner: The storage that keeps the documents.
        prefix: What all keys begin with there.

    Raises:
        ConfigurationError: No key can begin with the prefix, or none that does has room for another character.
    """

    def __init__(self, inner: Storage, prefix: str) -> None:
        problem = key_problem(prefix, None)
        if problem:
            raise ConfigurationError(f"the prefix {prefix!r} cannot begin a key: {problem}")
        self._prefix = prefix
        self._prefix_bytes = len(prefix.encode())
        super().__init__(inner)
        limit = inner.capabilities.max_key_bytes
        if limit is not None and self._prefix_bytes >= limit:
            raise ConfigurationError(f"the prefix has {self._prefix_bytes:,} bytes; a whole key has at most {limit:,}")

    @property
    def prefix(self) -> str:
        """What all keys begin with in `inner`."""
        return self._prefix

    def inner_key(self, key: str) -> str:
        return self._prefix + key

    def _narrowed(self, inner: Capabilities) -> Capabilities:
        limit = inner.max_key_bytes
        if limit is None:
            return inner
        return dataclasses.replace(inner, max_key_bytes=max(limit - self._prefix_bytes, 0))

    async def read(self, key: str) -> Record | None:
        with self._in_callers_words("read", key):
            return await self._inner.read(self._prefix + key)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        with self._in_callers_words("write", key):
            return await self._inner.write(self._prefix + key, value, ttl=ttl, match=match)

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        with self._in_callers_words("delete", key):
            return await self._inner.delete(self._prefix + key, match=match)

    async def has(self, key: str) -> bool:
        with self._in_callers_words("has", key):
            return await self._inner.has(self._prefix + key)

    async def touch(self, key: str, ttl: float | None) -> bool:
        with self._in_callers_words("touch", key):
            return await self._inner.touch(self._prefix + key, ttl)

    def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        return self._stream("read_all_keys", self._inner.read_all_keys, prefix, batch_size, self._own)

    def read_all_values(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        return self._stream("read_all_values", self._inner.read_all_values, prefix, batch_size, str)

    def read_all_entries(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[tuple[str, Record]]:
        def own(entry: tuple[str, Record]) -> tuple[str, Record]:
            return self._own(entry[0]), entry[1]

        return self._stream("read_all_entries", self._inner.read_all_entries, prefix, batch_size, own)

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        with self._in_callers_words("read_many", *keys):
            found = await self._inner.read_many([self._prefix + key for key in keys])
        return {self._own(key): record for key, record in found.items()}

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        with self._in_callers_words("write_many", *(write.key for write in writes)):
            return self._translated(await self._inner.write_many(self._moved(writes)))

    async def write_then_read(self, rounds: Sequence[Sequence[Write]], keys: Sequence[str] = ()) -> WrittenAndRead:
        with self._in_callers_words("write_then_read", *(write.key for writes in rounds for write in writes), *keys):
            results, found = await self._inner.write_then_read(
                [self._moved(writes) for writes in rounds], [self._prefix + key for key in keys]
            )
        own = None if found is None else {self._own(key): record for key, record in found.items()}
        return self._translated(results), own

    async def delete_many(self, keys: Iterable[str]) -> int:
        keys = list(keys)
        with self._in_callers_words("delete_many", *keys):
            return await self._inner.delete_many([self._prefix + key for key in keys])

    async def _stream(
        self, operation: str, read: Callable[..., AsyncIterator[T]], prefix: str, batch_size: int, own: Callable[[T], T]
    ) -> AsyncIterator[T]:
        with self._in_callers_words(operation, prefix):
            async with closing(read(self._prefix + prefix, batch_size=batch_size)) as items:
                async for item in items:
                    yield own(item)

    def _moved(self, writes: Sequence[Write]) -> list[Write]:
        return [Write(self._prefix + write.key, write.value, write.ttl, write.match) for write in writes]

    def _translated(self, results: list[WriteResult]) -> list[WriteResult]:
        # One error may be the result of several operations, and of other callers': each gets its own.
        own = [result.copy() if isinstance(result, StorageError) else result for result in results]
        for result in own:
            if isinstance(result, StorageError):
                self._translate(result)
        return own

    def _own(self, key: str) -> str:
        return key[len(self._prefix) :]

    @contextmanager
    def _in_callers_words(self, operation: str, *keys: str) -> Iterator[None]:
        """Join keys in the body; what went wrong is told of the keys as the caller knows them."""
        try:
            yield
        except (StorageError, TypeError) as error:
            if isinstance(error, (InvalidKeyError, TypeError)):  # What is no text cannot be joined.
                for key in keys:
                    self._validate(operation, key)
            if isinstance(error, StorageError):
                self._translate(error)
            raise

    def _translate(self, error: StorageError) -> None:
        if error.key is not None:
            error.key = error.key.removeprefix(self._prefix)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._prefix!r} of {self._inner!r}>"
