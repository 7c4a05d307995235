"""What an existing database and table are like, and whether sessions can be kept there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bot_session.errors import ConfigurationError, SchemaError

if TYPE_CHECKING:
    import sqlite3

_FILE: Final = "SELECT file FROM pragma_database_list WHERE name = 'main'"
_ENCODING: Final = "PRAGMA encoding"
_COLUMNS: Final = "SELECT name, upper(type) FROM pragma_table_info(?)"
# How the unique indexes compare that keep two rows from having one key.
_COLLATIONS: Final = (
    "SELECT upper(min(x.coll)) FROM pragma_index_list(?) AS i, pragma_index_xinfo(i.name) AS x"
    ' WHERE i."unique" AND NOT i.partial AND x.key'
    " GROUP BY i.name HAVING count(*) = 1 AND lower(min(x.name)) = lower(?)"
)


@dataclass(frozen=True, slots=True)
class Form:
    """
    The form of a table.

    Attributes:
        has_expires: Whether there is a column for deadlines.
        whole_seconds: Whether that column holds whole seconds, as GramIO's does.
        numeric: Whether the column for documents takes text for numbers, as GramIO's does.
    """

    has_expires: bool
    whole_seconds: bool
    numeric: bool


def is_in_memory(cursor: sqlite3.Cursor) -> bool:
    """
    Return whether the database is gone with its connection.

    Raises:
        ConfigurationError: The connection cannot be shared with its owner.
        SchemaError: The database changes text.
    """
    # sqlite3 has this since Python 3.12.
    if getattr(cursor.connection, "autocommit", None) is False:
        raise ConfigurationError("a connection with autocommit=False is in a transaction at all times: use another")
    (encoding,) = cursor.execute(_ENCODING).fetchone()
    if encoding != "UTF-8":
        # It changes some characters, and has them in another order, which splits what has one prefix.
        raise SchemaError(
            f"the database keeps text as {encoding}, sessions need UTF-8: copy it with"
            " sqlite3 old.db .dump | sqlite3 new.db, where PRAGMA encoding is 'UTF-8'"
        )
    return not cursor.execute(_FILE).fetchone()[0]


def form(cursor: sqlite3.Cursor, table: str, key: str, value: str, expires: str | None) -> Form | None:
    """
    Return what a table is like, None if there is no such table.

    Raises:
        SchemaError: Sessions cannot be kept in it.
    """
    # SQLite's names know no case in ASCII.
    types = {name.lower(): declared for name, declared in cursor.execute(_COLUMNS, (table,)).fetchall()}
    if not types:
        return None
    for column in (key, value):
        if column.lower() not in types:
            raise SchemaError(
                f"the table {table!r} has no column {column!r} but {', '.join(map(repr, types))}:"
                " name its columns in key_column and value_column, or choose another table"
            )
    _check_key(cursor, table, key, types[key.lower()])
    deadline = None if expires is None else types.get(expires.lower())
    if deadline is not None and _affinity(deadline) == "TEXT":
        raise SchemaError(
            f"the column {expires!r} of the table {table!r} is of the type {deadline}, and deadlines are numbers:"
            " name a column of the type REAL in expires_column, or none"
        )
    return Form(
        has_expires=deadline is not None,
        whole_seconds="INT" in (deadline or ""),
        numeric=_affinity(types[value.lower()]) == "NUMERIC",
    )


def _check_key(cursor: sqlite3.Cursor, table: str, key: str, declared: str) -> None:
    collations = {collation for (collation,) in cursor.execute(_COLLATIONS, (table, key))}
    blind = collations - {"BINARY"}
    problem = None
    if _affinity(declared) == "NUMERIC":
        problem = f"is of the type {declared}, which takes text for numbers"
    elif blind:
        problem = f"is compared as {', '.join(sorted(blind))}"
    if problem is not None:
        raise SchemaError(
            f"the key column {key!r} of the table {table!r} {problem}, and different keys would be one:"
            " copy the rows into a table where it is TEXT PRIMARY KEY, or choose another table"
        )
    if not collations:
        raise SchemaError(
            f"the table {table!r} could hold a key twice: make its column {key!r} the PRIMARY KEY,"
            f" or run CREATE UNIQUE INDEX {quoted(f'{table}_{key}')} ON {quoted(table)} ({quoted(key)});"
        )


def quoted(name: str) -> str:
    """
    Return a name as it stands in a statement.

    Raises:
        ConfigurationError: It cannot be one.
    """
    if not name or "\0" in name:
        raise ConfigurationError(f"a table or column needs a name without NUL, not {name!r}")
    return '"' + name.replace('"', '""') + '"'


def _affinity(declared: str) -> str:
    """Return what a column of this type makes of text: https://sqlite.org/datatype3.html, section 3.1."""
    if "INT" in declared:
        return "NUMERIC"
    if any(part in declared for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    return "NUMERIC" if declared and "BLOB" not in declared else "BLOB"
