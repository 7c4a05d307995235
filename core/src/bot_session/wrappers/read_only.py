"""A storage that can be looked at and not changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from bot_session.errors import UnsupportedError
from bot_session.storage import ANY, Match, Version, Write, WriteResult

from .base import StorageWrapper

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ReadOnlyStorage"]


class ReadOnlyStorage(StorageWrapper):
    """
    Reads pass; whatever would change something raises `UnsupportedError`, even where there is nothing to change.

    Opening is passed on, so an adapter that creates its table when it opens still does: give it ``create=False``.

    Args:
        inner: The storage to protect.
    """

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:  # noqa: ARG002
        self._refuse("write", key)

    async def delete(self, key: str, *, match: Match = ANY) -> bool:  # noqa: ARG002
        self._refuse("delete", key)

    async def touch(self, key: str, ttl: float | None) -> bool:  # noqa: ARG002
        self._refuse("touch", key)

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:  # noqa: ARG002
        self._refuse("write_many")

    async def delete_many(self, keys: Iterable[str]) -> int:  # noqa: ARG002
        self._refuse("delete_many")

    async def purge(self) -> int:
        self._refuse("purge")

    def _refuse(self, operation: str, key: str | None = None) -> NoReturn:
        raise UnsupportedError("this storage is read-only here", operation=operation, key=key, storage=self)
