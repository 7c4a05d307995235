"""The table: its statements, and what SQLite makes of documents and deadlines in its columns."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Final

from bot_session.errors import SchemaError, UnsupportedError
from bot_session.storage import ABSENT, ANY, PRESENT, Condition, Record, Version

from ._schema import form, quoted

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from bot_session.storage import Write

_CREATE_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS {table} ({key} TEXT PRIMARY KEY, {value} TEXT NOT NULL{expires_type})"
)
_CREATE_INDEX: Final = "CREATE INDEX IF NOT EXISTS {index} ON {table} ({expires}) WHERE {expires} IS NOT NULL"
_ADD_EXPIRES: Final = "ALTER TABLE {table} ADD COLUMN {expires} REAL"

# Columns are read as s."name": a bare "name" that is no column is a string to SQLite, and it would answer with that.
# What is selected is +s."name": an expression has no declared type, for which a given connection may have a converter.
READ: Final = "SELECT +s.{value} AS value, {deadline} AS expires FROM {table} AS s WHERE s.{key} = :key AND {live}"
HAS: Final = "SELECT {deadline} AS expires FROM {table} AS s WHERE s.{key} = :key AND {live}"
READ_MANY: Final = (
    "SELECT +s.{key} AS key, +s.{value} AS value, {deadline} AS expires FROM {table} AS s"
    " WHERE {live} AND s.{key} IN (SELECT value FROM json_each(:keys))"
)
# A page begins where the last one ended, so nothing stays locked or remembered between them. Keys that share a prefix
# are neighbours in every encoding; the next key, which an upper bound in text could not name, ends the listing.
_PAGE: Final = (
    "SELECT +s.{key} AS key,"
    " CASE WHEN :values AND substr(s.{key}, 1, length(:prefix)) = :prefix THEN s.{value} ELSE '' END AS value,"
    " {deadline} AS expires FROM {table} AS s WHERE {live} AND s.{key} "
)
FIRST_PAGE: Final = _PAGE + ">= :start ORDER BY s.{key} LIMIT :size"
NEXT_PAGE: Final = _PAGE + "> :start ORDER BY s.{key} LIMIT :size"

# The condition is part of the statement that writes, and SQLite has one writer at a time: that makes it atomic.
# Only ANY and ABSENT insert: an upsert for PRESENT or a version would bring back what somebody has deleted.
WRITE: Final = "INSERT INTO {table} AS s ({columns}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET {changes}"
WRITE_ABSENT: Final = WRITE + " WHERE NOT ({live})"
WRITE_PRESENT: Final = "UPDATE {table} AS s SET {changes} WHERE s.{key} = :key AND {live}"
WRITE_VERSION: Final = WRITE_PRESENT + " AND s.{value} = :version COLLATE BINARY"
TOUCH: Final = "UPDATE {table} AS s SET {renewal} WHERE s.{key} = :key AND {live}"
DELETE: Final = "DELETE FROM {table} AS s WHERE s.{key} = :key AND {live}"
DELETE_VERSION: Final = DELETE + " AND s.{value} = :version COLLATE BINARY"
DELETE_MANY: Final = "DELETE FROM {table} AS s WHERE {live} AND s.{key} IN (SELECT value FROM json_each(:keys))"
# In portions, so that other writers get their turn.
PURGE: Final = "DELETE FROM {table} AS s WHERE s.{key} IN (SELECT t.{key} FROM {table} AS t WHERE {dead} LIMIT 500)"

_STATEMENTS: Final = (
    *(READ, HAS, READ_MANY, FIRST_PAGE, NEXT_PAGE),
    *(WRITE, WRITE_ABSENT, WRITE_PRESENT, WRITE_VERSION, TOUCH, DELETE, DELETE_VERSION, DELETE_MANY, PURGE),
)
_WRITES: Final = {ANY: WRITE, ABSENT: WRITE_ABSENT, PRESENT: WRITE_PRESENT}
_WITH_EXPIRES: Final = {
    "live": "s.{value} IS NOT NULL AND (s.{expires} IS NULL OR s.{expires} > :now)",
    "dead": "t.{expires} <= :now",
    "deadline": "+s.{expires}",
    "columns": "{key}, {value}, {expires}",
    "values": ":key, :value, :expires",
    "changes": "{value} = :value, {expires} = :expires",
    "renewal": "{expires} = :expires",
}
_WITHOUT_EXPIRES: Final = {
    "live": "s.{value} IS NOT NULL",
    "dead": "0",
    "deadline": "NULL",
    "columns": "{key}, {value}",
    "values": ":key, :value",
    "changes": "{value} = :value",
    "renewal": "{value} = s.{value}",
}

_NUMBER: Final = re.compile(r"[ \t\n\r]*-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?[ \t\n\r]*")
_INT64: Final = range(-(2**63), 2**63)


class Table:
    """
    A table as it was asked for, and after `inspect` as it is.

    Its methods run on the connection's thread; ``now`` is in seconds since 1970.

    Attributes:
        name: Its name.
        has_expires: Whether there is a column for deadlines.
        whole_seconds: Whether that column holds whole seconds, as GramIO's does.
    """

    def __init__(self, table: str, key: str, value: str, expires: str | None) -> None:
        self.name = table
        self._columns = (key, value, expires)
        self._expires = expires
        self._names = {
            "table": quoted(table),
            "key": quoted(key),
            "value": quoted(value),
            "expires": quoted(expires or "expires_at"),
            "index": quoted(f"{table}_{expires}"),
            "expires_type": f", {quoted(expires)} REAL" if expires is not None else "",
        }
        self.whole_seconds = False
        self._numeric = False
        self._use_expires(expires is not None)

    def _use_expires(self, has_expires: bool) -> None:
        self.has_expires = has_expires
        fragments = _WITH_EXPIRES if has_expires else _WITHOUT_EXPIRES
        names = self._names | {name: text.format_map(self._names) for name, text in fragments.items()}
        self._sql = {statement: statement.format_map(names) for statement in _STATEMENTS}

    def ddl(self) -> list[str]:
        """Return the statements that create the table and its index."""
        statements = [_CREATE_TABLE] if self._expires is None else [_CREATE_TABLE, _CREATE_INDEX]
        return [statement.format_map(self._names) for statement in statements]

    def inspect(self, cursor: sqlite3.Cursor) -> bool:
        """
        Look at the table, and return whether there is one.

        Raises:
            SchemaError: Sessions cannot be kept in it.
        """
        found = form(cursor, self.name, *self._columns)
        if found is None:
            return False
        self.whole_seconds, self._numeric = found.whole_seconds, found.numeric
        self._use_expires(found.has_expires)
        return True

    def read(self, cursor: sqlite3.Cursor, now: float, key: str) -> Record | None:
        """Return what is stored under ``key``."""
        row = self._execute(cursor, READ, now, key=key).fetchone()
        if row is None:
            return None
        value, expires = row
        return self._record(value, expires, now)

    def has(self, cursor: sqlite3.Cursor, now: float, key: str) -> bool:
        """Return whether anything is stored under ``key``."""
        rows = self._execute(cursor, HAS, now, key=key).fetchall()
        for (expires,) in rows:
            self._left(expires, now)  # What is no deadline does not tell whether it is over.
        return bool(rows)

    def read_many(self, cursor: sqlite3.Cursor, now: float, keys: Sequence[str]) -> dict[str, Record]:
        """Return what is stored under ``keys``."""
        rows = self._execute(cursor, READ_MANY, now, keys=json.dumps(keys)).fetchall()
        return {self._text(key): self._record(value, expires, now) for key, value, expires in rows}

    def read_page(
        self, cursor: sqlite3.Cursor, now: float, prefix: str, after: str | None, size: int, *, values: bool
    ) -> list[tuple[str, Record]]:
        """Return up to ``size`` entries beyond ``after``: those with ``prefix``, then others, without documents."""
        statement, start = (FIRST_PAGE, prefix) if after is None else (NEXT_PAGE, after)
        rows = self._execute(cursor, statement, now, prefix=prefix, start=start, size=size, values=values).fetchall()
        return [(self._text(key), self._record(value, expires, now)) for key, value, expires in rows]

    def apply(self, cursor: sqlite3.Cursor, now: float, write: Write) -> bool:
        """Write or delete if the match holds, and return whether a row was written or deleted."""
        given: dict[str, object] = {"key": write.key, "now": now}
        if not isinstance(write.match, Condition):
            statement = WRITE_VERSION if write.value is not None else DELETE_VERSION
            given["version"] = self._bind(write.match)
        elif write.value is not None:
            statement = _WRITES[write.match]
        elif write.match is not ABSENT:
            statement = DELETE
        else:
            return False  # There is nothing to delete.
        if write.value is not None:
            given["value"] = self._bind(write.value)
            given["expires"] = self._deadline(now, write.ttl)
        return cursor.execute(self._sql[statement], given).rowcount > 0

    def touch(self, cursor: sqlite3.Cursor, now: float, key: str, ttl: float | None) -> bool:
        """Give what is stored under ``key`` a new TTL, and return whether there was anything."""
        return self._execute(cursor, TOUCH, now, key=key, expires=self._deadline(now, ttl)).rowcount > 0

    def delete_many(self, cursor: sqlite3.Cursor, now: float, keys: Sequence[str]) -> int:
        """Delete what is stored under ``keys``, and return how many there were."""
        return self._execute(cursor, DELETE_MANY, now, keys=json.dumps(keys)).rowcount

    def purge(self, cursor: sqlite3.Cursor, now: float) -> int:
        """Delete some expired rows, and return how many; none if there are no more."""
        return self._execute(cursor, PURGE, now).rowcount

    def _execute(self, cursor: sqlite3.Cursor, statement: str, now: float, **values: object) -> sqlite3.Cursor:
        return cursor.execute(self._sql[statement], values | {"now": now})

    def _record(self, value: object, expires: object, now: float) -> Record:
        text = self._text(value)
        return Record(text, Version(text), self._left(expires, now))

    def _left(self, expires: object, now: float) -> float | None:
        """
        Return how many seconds are left.

        Raises:
            SchemaError: The deadline is no number.
        """
        if expires is None:
            return None
        if isinstance(expires, (int, float)):
            return expires - now
        raise SchemaError(
            f"the column {self._expires!r} of the table {self.name!r} holds a {type(expires).__name__} where a number"
            " belongs, the seconds since 1970: convert it with unixepoch(…), or name another column in expires_column"
        )

    def _deadline(self, now: float, ttl: float | None) -> float | None:
        """
        Return when something ends that has ``ttl`` seconds left.

        Raises:
            SchemaError: There is no column to keep it in.
        """
        if ttl is None:
            return None
        if not self.has_expires:
            raise SchemaError(
                f"the table {self.name!r} has no column for a TTL: stop all that use it, since they would not see the"
                f" column and leave deadlines standing, run {_ADD_EXPIRES.format_map(self._names)};"
                f" and start them with expires_column={self._expires or 'expires_at'!r}"
            )
        return math.ceil(now + ttl) if self.whole_seconds else now + ttl

    def _bind(self, document: str) -> str | int | float:
        """
        Return what to store, or to compare with, for a document.

        A column of no text type, such as GramIO's JSONB, turns text that is a number into a number, whatever surrounds
        it. Python turns it into the nearest number, SQLite not always: then a comparison would fail for ever.

        Raises:
            UnsupportedError: The column would change the number.
        """
        if not self._numeric or (number := _NUMBER.fullmatch(document)) is None:
            return document
        nearest = float(document)
        whole = int(document) if number[1] is None and number[2] is None and math.isfinite(nearest) else None
        if whole is not None and whole in _INT64:
            return whole
        if math.isinf(nearest) or (whole is not None and whole != nearest):
            raise UnsupportedError(
                f"the value column of {self.name!r} is of no text type, and SQLite would change this number in it:"
                " put it into an object or a list, or give the column the type TEXT"
            )
        return nearest

    def _text(self, stored: object) -> str:
        """
        Return the text for what was read from a column.

        Raises:
            SchemaError: It is no text.
        """
        if isinstance(stored, str):
            return stored
        if isinstance(stored, int):
            return str(stored)
        if isinstance(stored, float):
            # As JavaScript writes it: as an integer where it is one.
            return str(int(stored)) if stored.is_integer() and abs(stored) < 1e21 else json.dumps(stored)
        raise SchemaError(
            f"the table {self.name!r} holds a {type(stored).__name__} where text belongs:"
            " convert it with CAST(… AS TEXT), or choose another table"
        )
