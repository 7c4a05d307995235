"""
The filters and updates: each changes one document in one atomic step, comparing and counting time in the server.

A comparison is an expression, not a filter: that takes nothing in a document for an operator, and an array for no more
than itself. Numbers compare by value there, so 1 that became 1.0 in between goes unnoticed; nothing else does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from bot_session.storage import ABSENT, ANY, PRESENT, Condition, Match, Version
from bson.datetime_ms import DatetimeMS
from pymongo import DeleteOne, UpdateOne
from pymongo.results import DeleteResult, UpdateResult

from ._documents import from_version

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FIELDS",
    "RECORD",
    "SIMPLE",
    "Command",
    "Result",
    "deadline",
    "delete",
    "held",
    "is_held",
    "select",
    "write",
]

SIMPLE: Final = {"locale": "simple"}
"""The collation that compares byte by byte: for collections that were made to ignore case. Others do it anyway."""

FIELDS: Final = {"_id": 0, "key": 1, "value": 1, "expires_at": 1}
"""What to read for a `Record` that never expires. Others may keep more in the document: perhaps nothing we can read."""

RECORD: Final = {**FIELDS, "now": "$$NOW"}
"""What to read for a `Record` that may expire, in a pipeline."""

_EXPIRED: Final = {
    "$and": [
        {"$eq": [{"$type": "$expires_at"}, "date"]},
        # As numbers, since SecantusDB takes a stored date and $$NOW for alike.
        {"$lte": [{"$toLong": "$expires_at"}, {"$toLong": "$$NOW"}]},
    ]
}

_LIVES: Final = {"$not": [_EXPIRED]}

_HELD: Final = {"$and": [{"$ne": [{"$type": "$value"}, "missing"]}, _LIVES]}
"""Whether there is something that has not expired, by the server's clock."""

_LONG: Final = 2**19
"""Characters of a version that is not to be sent twice: a command has room for 16 MiB."""

Result: TypeAlias = UpdateResult | DeleteResult


class Command(NamedTuple):
    """One atomic change of one document: an update, or without one a delete."""

    match: Match
    filter: Mapping[str, Any]
    update: list[dict[str, Any]] | None = None
    upsert: bool = False
    conditional: bool = False
    """Whether the match is tested in the update, which changes nothing if it fails, and not in the filter."""

    def in_batch(self, namespace: str, collation: dict[str, Any] | None) -> UpdateOne | DeleteOne:
        """Return it as an operation of the driver's ``bulk_write``."""
        if self.update is None:
            return DeleteOne(self.filter, collation=collation, namespace=namespace)
        return UpdateOne(self.filter, self.update, upsert=self.upsert, collation=collation, namespace=namespace)

    def holds(self, result: Result) -> bool:
        """Return whether the match held, going by what the server did."""
        if self.match is ANY:
            return True
        if isinstance(result, DeleteResult):
            return result.deleted_count == 1
        if self.conditional:
            return result.upserted_id is not None or result.modified_count == 1
        return result.matched_count == (0 if self.match is ABSENT else 1)


def write(key: str, value: Any, ttl: float | None, match: Match) -> Command:
    """Return the command for `Storage.write`."""
    new = {"value": {"$literal": value}, "expires_at": deadline(ttl)}
    if match is ANY:
        return Command(match, {"key": key}, [{"$set": new}], upsert=True)
    if match is ABSENT:
        # What is held stays as it is, which the server does not count as modified. A filter cannot say this: where
        # none matches, an upsert inserts, and it allows no expressions.
        return Command(match, {"key": key}, [_set_if({"$not": [_HELD]}, new)], upsert=True, conditional=True)
    # No upsert: it would bring back what was deleted.
    # In the update again, since with an expression in its filter SecantusDB goes through the whole collection. But what
    # is replaced by its equal does not count as modified, and the version is sent twice, for two fields.
    if isinstance(match, Condition) or len(match) > _LONG or _may_equal(match, value):
        return Command(match, held(key, match), [{"$set": new}])
    return Command(match, {"key": key}, [_set_if(_condition(match), new)], conditional=True)


def _set_if(condition: Any, new: dict[str, Any]) -> dict[str, Any]:
    return {"$set": {field: {"$cond": [condition, change, f"${field}"]} for field, change in new.items()}}


def _may_equal(match: Version, value: Any) -> bool:
    """Whether a document of this version may be no other than ``value`` to the server."""
    try:
        return bool(from_version(match) == value)
    except ValueError:
        return False


def delete(key: str, match: Match) -> Command:
    """Return the command for `Storage.delete`."""
    if match is ABSENT:
        return Command(match, held(key), [{"$set": {"key": "$key"}}])  # changes nothing; the server counts a match
    return Command(match, held(key, match))


def held(key: object, match: Match = PRESENT) -> dict[str, Any]:
    """Return the filter for what is stored under a key, or a condition on it; if ``match`` is a version, only in that."""
    return {"key": key, "$expr": _condition(match)}


def select(key: object) -> list[dict[str, Any]]:
    """Return the stages of a pipeline that find what is stored under a key, or a condition on it."""
    # Two, so that SecantusDB uses the index for the first; MongoDB makes one of them.
    return [{"$match": {"key": key}}, {"$match": {"$expr": _HELD}}]


def is_held(document: Mapping[str, Any]) -> bool:
    """Return whether a document that was read, as a `RECORD` if it may expire, holds something that has not expired."""
    deadline = document.get("expires_at")
    return "value" in document and not (isinstance(deadline, DatetimeMS) and int(deadline) <= int(document["now"]))


def _condition(match: Match) -> dict[str, Any]:
    if isinstance(match, Condition):
        return _HELD
    try:
        same: dict[str, Any] = {"$eq": ["$value", {"$literal": from_version(match)}]}
    except ValueError:  # a version of another storage's
        same = {"$literal": False}
    return {"$and": [same, _LIVES]}


def deadline(ttl: float | None) -> Any:
    """Return the expression for ``expires_at``, by the server's clock."""
    return "$$REMOVE" if ttl is None else {"$add": ["$$NOW", math.ceil(ttl * 1000)]}
