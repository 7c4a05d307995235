"""What travels between us and the functions in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

import msgspec
from bot_session.storage import Condition, Record, Version, Write, portions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["AT_ONCE", "Answer", "Conflict", "Row", "chunks", "item_of", "record_of"]

T = TypeVar("T")

_BODY_BYTES: Final = 1_000_000
"""About how long the body of a request may become, unless a single document is longer."""
AT_ONCE: Final = 1_000
"""How many keys travel in a request or an answer at most."""


class Answer(msgspec.Struct, Generic[T]):
    """What every function answers."""

    answer: T


class Conflict(msgspec.Struct):
    """The result of a write whose match failed."""

    actual: Version | None


Row: TypeAlias = tuple[str, str, Version, float | None]
"""Key, document, version, seconds left."""


def item_of(write: Write) -> dict[str, Any]:
    """Return a write or a delete as the function takes it: a version stands behind a sign that no condition has."""
    match = write.match.value if isinstance(write.match, Condition) else f"={write.match}"
    return {"key": write.key, "value": write.value, "ttl": write.ttl, "match": match}


def record_of(row: Row) -> Record:
    """Return what a row holds."""
    _, value, version, ttl = row
    return Record(value, version, ttl)


def chunks(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Split what travels in the body of a request into pieces of a moderate size."""
    return portions(items, size_of, most=AT_ONCE, longest=_BODY_BYTES)
