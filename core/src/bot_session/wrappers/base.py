"""What all wrappers share: a storage that passes everything on to another."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from bot_session.storage import ANY, Capabilities, Match, Record, Storage, Version, Write, WriteResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

__all__ = ["StorageWrapper", "closing", "locate"]

T = TypeVar("T")


class StorageWrapper(Storage):
    """
    Passes every call on to another storage: the base of all wrappers, which override what they do differently.

    A wrapper is a view: opening and closing it opens and closes what it wraps. Where several views share a storage,
    open and close that storage, not the views.

    Args:
        inner: The storage to wrap.
    """

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self._narrowed_from = inner.capabilities
        self._capabilities = self._narrowed(inner.capabilities)

    @property
    def inner(self) -> Storage:
        """The storage that is wrapped."""
        return self._inner

    def inner_key(self, key: str) -> str:
        """Return the key under which `inner` keeps what this storage keeps under ``key``."""
        return key

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # known when it wraps, not before
        """What the wrapped storage can do, as far as the wrapper leaves it."""
        inner = self._inner.capabilities
        if inner is not self._narrowed_from:  # Some know only when they are open that they can less.
            self._narrowed_from, self._capabilities = inner, self._narrowed(inner)
        return self._capabilities

    def _narrowed(self, inner: Capabilities) -> Capabilities:
        """Return what the wrapper leaves of the capabilities of what it wraps; asked again when those change."""
        return inner

    async def read(self, key: str) -> Record | None:
        return await self._inner.read(key)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        return await self._inner.write(key, value, ttl=ttl, match=match)

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        return await self._inner.delete(key, match=match)

    async def has(self, key: str) -> bool:
        return await self._inner.has(key)

    async def touch(self, key: str, ttl: float | None) -> bool:
        return await self._inner.touch(key, ttl)

    def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        return self._inner.read_all_keys(prefix, batch_size=batch_size)

    def read_all_values(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        return self._inner.read_all_values(prefix, batch_size=batch_size)

    def read_all_entries(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[tuple[str, Record]]:
        return self._inner.read_all_entries(prefix, batch_size=batch_size)

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        return await self._inner.read_many(keys)

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        return await self._inner.write_many(writes)

    async def delete_many(self, keys: Iterable[str]) -> int:
        return await self._inner.delete_many(keys)

    async def purge(self) -> int:
        return await self._inner.purge()

    async def check(self) -> None:
        await self._inner.check()

    def ddl(self) -> str:
        return self._inner.ddl()

    async def open(self) -> None:
        await self._inner.open()

    async def close(self) -> None:
        await self._inner.close()

    async def _ready(self, operation: str, key: str | None = None) -> None:
        """As what is wrapped: a wrapper is open when that is, and must not open what was closed."""
        await self._inner._ready(operation, key)  # noqa: SLF001 - the wrapper is no user of it, but stands for it

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._inner!r}>"


def locate(storage: Storage, key: str) -> tuple[Storage, str]:
    """
    Say where a document really is: the innermost storage, and its key there.

    Two views may lead to one place; this tells. Of a `FallbackStorage` the place is its primary.
    """
    while isinstance(storage, StorageWrapper):
        key = storage.inner_key(key)
        storage = storage.inner
    return storage, key


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Iterate over ``items`` in the body; however it is left, what they hold (a cursor, a connection) is released."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()
