"""What happens when somebody else saved the same session in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import msgspec

from .codec import split
from .errors import ConflictError, DecodeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["ConflictPolicy", "merge"]

T = TypeVar("T")

ConflictPolicy: TypeAlias = (
    "Literal['merge', 'raise', 'overwrite'] | Callable[[T | None, T | None, T | None], Awaitable[T | None] | T | None]"
)
"""
What to do on a conflict:

- ``"merge"``: keep both sides' changes to top-level fields; the same field changed on both sides raises.
- ``"raise"``: raise `ConflictError`; nothing is written.
- ``"overwrite"``: the last one wins, as in grammY.
- a function, perhaps async, of (mine, theirs, base) that returns the data to store. Each may be None: deleted or, for
  base, never stored. Returning None deletes. The update is over by then, and its session closed.
"""


def merge(base: str | None, mine: str | None, theirs: str | None) -> str | None:
    """
    Merge two changes of one document, field by field.

    Even equal changes of one field do not merge: two updates that both count from 1 to 2 make 3.

    Args:
        base: The document that both sides started from.
        mine: What it became here; None if deleted.
        theirs: What it became elsewhere; None if deleted.

    Returns:
        The merged document; None if both sides deleted it.

    Raises:
        ConflictError: Both changed the same field, or one deleted what the other changed, or it has no fields.
    """
    if mine is None and theirs is None:
        return None
    if base is not None and base in {mine, theirs}:  # Only one side has changed it, if at all.
        return theirs if base == mine else mine
    if mine is None or theirs is None:
        raise ConflictError("one side deleted the session, the other changed it", mine=mine, theirs=theirs)
    try:
        # Fields are compared as text: as values, 1, 1.0 and True would be the same.
        before = {} if base is None else split(base)
        here, there = split(mine), split(theirs)
    except DecodeError:
        raise ConflictError("both sides changed data that has no fields to merge", mine=mine, theirs=theirs) from None
    both = _changed(before, here) & _changed(before, there)
    if both:
        names = ", ".join(sorted(both))
        raise ConflictError(
            f"both sides changed the same fields: {names}", mine=mine, theirs=theirs, fields=sorted(both)
        )
    merged = there
    for name in _changed(before, here):
        if name in here:
            merged[name] = here[name]
        else:
            del merged[name]
    return msgspec.json.encode(merged).decode()


def _changed(before: dict[str, msgspec.Raw], after: dict[str, msgspec.Raw]) -> set[str]:
    """The names of the fields that were added, changed or removed."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
