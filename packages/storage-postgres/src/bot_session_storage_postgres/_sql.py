"""The statements, as they are made for a table."""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from bot_session.storage import ABSENT, ANY, PRESENT, Condition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bot_session.storage import Match, Write

    from ._table import Table

__all__ = ["Statements", "joined", "seconds"]

Kind: TypeAlias = Literal["upsert", "insert", "update", "swap", "delete", "refuse", "remove", "discard"]
"""A write under ANY, under ABSENT, under PRESENT, and under a version; then the same for a delete."""

SEPARATOR = "\x1e"
"""What stands between texts that travel as one, if none of them has it: JSON has no bare control characters."""

# Where a writing statement takes its operation from: its own parameters.
ONE_OPERATION = "(SELECT $1::text AS key, $2::text AS value, $3::float8 AS ttl, $4::text AS version) AS op"

READ = "SELECT {text}, {left} FROM {table} AS t WHERE t.{key} = $1 AND {live}"
# Many values travel as one text: asyncpg takes several times as long over an array, and the server over JSON.
READ_MANY = """
SELECT t.{key}, {text}, {left} FROM {table} AS t WHERE t.{key} = ANY(string_to_array($2::text, $1::text)) AND {live}"""
# The next page after a key, in the order of the key's own collation, which is that of the unique index.
READ_PAGE = """
SELECT t.{key}, {text}, {left} FROM {table} AS t
WHERE starts_with(t.{key}, $1) AND t.{key} {after} $2 AND {live} ORDER BY t.{key} LIMIT $3"""
READ_PAGE_KEYS = READ_PAGE.replace("{text}, {left}", "NULL, NULL")

# Every writing statement returns (key, whether something lived under it, version) for each operation whose match held.
# Each compares and changes in one step: PostgreSQL locks a row, looks at its newest version, and only then changes it.
UPSERT = """
INSERT INTO {table} AS t ({columns}) SELECT {row} FROM {operations} ORDER BY op.key COLLATE "C"
ON CONFLICT ({key}) DO UPDATE SET {changes} {condition} RETURNING t.{key}, true, {version}"""
# Never an upsert where something must exist: with no row left, that would bring back what was deleted.
UPDATE = """
UPDATE {table} AS t SET {assignments} FROM {operations}
WHERE t.{key} = op.key AND {condition} RETURNING t.{key}, true, {version}"""
DELETE = """
DELETE FROM {table} AS t USING {operations}
WHERE t.{key} = op.key AND {condition} RETURNING t.{key}, {live}, NULL::text"""
REFUSE = "SELECT t.{key}, true, NULL::text FROM {table} AS t JOIN {operations} ON t.{key} = op.key WHERE {live}"

# A batch as one statement, hence as one transaction in one round trip, with a part for each kind. Its keys are distinct,
# so that no part needs to see what another one did. The rows are locked in the order of their keys before anything is
# changed, so that two batches wait for each other instead of ending in a deadlock: `op` yields nothing until that is
# done.
WRITE_MANY = """
WITH given AS MATERIALIZED (
         SELECT * FROM unnest(string_to_array($2::text, $1::text), string_to_array($3::text, $1),
                              string_to_array($4::text, $1, '')::float8[], string_to_array($5::text, $1),
                              string_to_array($6::text, $1)) AS op(key, value, ttl, version, kind)),
     locked AS (SELECT FROM {table} AS t WHERE t.{key} = ANY(ARRAY(SELECT key FROM given)) ORDER BY t.{key} COLLATE "C"
                FOR NO KEY UPDATE),
     all_locked AS MATERIALIZED (SELECT count(*) FROM locked),
     op AS MATERIALIZED (SELECT given.* FROM given, all_locked),
     {parts}
{results}"""
WRITING: Mapping[Kind, tuple[str, str]] = {
    "upsert": (UPSERT, ""),
    "insert": (UPSERT, "WHERE {expired}"),
    "update": (UPDATE, "{live}"),
    "swap": (UPDATE, "{live} AND {unchanged}"),
    "delete": (DELETE, "true"),
    "refuse": (REFUSE, ""),
    "remove": (DELETE, "{live}"),
    "discard": (DELETE, "{live} AND {unchanged}"),
}

_KINDS: Mapping[Condition, tuple[Kind, Kind]] = {
    ANY: ("upsert", "delete"),
    ABSENT: ("insert", "refuse"),
    PRESENT: ("update", "remove"),
}
"""What a write and a delete are under a condition; under a version, they are swap and discard."""

TOUCH = "UPDATE {table} AS t SET {expires} = {deadline} WHERE t.{key} = $1 AND {live} RETURNING true"
PURGE = """
WITH dead AS (SELECT t.{key} FROM {table} AS t WHERE {expired} LIMIT $1 FOR UPDATE SKIP LOCKED)
DELETE FROM {table} AS t USING dead WHERE t.{key} = dead.{key} RETURNING true"""


class Statements:
    """Every statement, made for one table."""

    def __init__(self, table: Table) -> None:
        self.read = table.sql(READ)
        self.read_many = table.sql(READ_MANY)
        # The empty text comes before all others in every collation, and is a key itself.
        self.pages = table.sql(READ_PAGE, after=">="), table.sql(READ_PAGE, after=">")
        self.key_pages = table.sql(READ_PAGE_KEYS, after=">="), table.sql(READ_PAGE_KEYS, after=">")
        self.write: Mapping[Kind, str] = {kind: _writing(table, kind, ONE_OPERATION) for kind in WRITING}
        self.write_many: Mapping[Kind | None, str] = {
            None: _write_many(table, *WRITING),
            **{kind: _write_many(table, kind) for kind in WRITING},
        }
        self.touch = table.sql(TOUCH)
        self.purge = table.sql(PURGE)

    def writing(self, writes: Sequence[Write]) -> tuple[Any, ...]:
        """
        Return the statement for writes to distinct keys, and its arguments.

        Raises:
            asyncpg.DataError: One of them is no text for PostgreSQL.
        """
        if len(writes) == 1:
            [write] = writes
            return self.write[_kind(write)], write.key, write.value, seconds(write.ttl), _version(write.match)
        kinds: list[Kind] = [_kind(write) for write in writes]
        together = set(kinds)
        return self.write_many[together.pop() if len(together) == 1 else None], *joined(
            [write.key for write in writes],
            [write.value or "" for write in writes],
            ["" if write.ttl is None else repr(seconds(write.ttl)) for write in writes],
            [_version(write.match) or "" for write in writes],
            kinds,
        )


def joined(*columns: Sequence[str]) -> tuple[str, ...]:
    """
    Return a separator, and texts of which ``string_to_array`` makes these columns again.

    A column that is one empty text comes back as none.
    """
    separator = SEPARATOR
    while True:
        texts = [separator.join(column) for column in columns]
        if all(text.count(separator) < len(column) for text, column in zip(texts, columns, strict=True)):
            return separator, *texts
        # Its first character comes but once in it, so that no text ends with what might begin it.
        separator = SEPARATOR + secrets.token_hex(16)


def seconds(ttl: float | None) -> float | None:
    """Round a TTL up to what the server counts in."""
    return None if ttl is None else math.ceil(ttl * 1e6) / 1e6


def _version(match: Match) -> str | None:
    return None if isinstance(match, Condition) else match


def _kind(write: Write) -> Kind:
    # Not by `get`: the hash of a version is that of a whole document.
    written, deleted = _KINDS[write.match] if isinstance(write.match, Condition) else ("swap", "discard")
    return deleted if write.value is None else written


def _writing(table: Table, kind: Kind, operations: str) -> str:
    template, condition = WRITING[kind]
    return table.sql(template, operations=operations, condition=table.sql(condition))


def _write_many(table: Table, *kinds: Kind) -> str:
    operations = "(SELECT * FROM op WHERE kind = '{}') AS op"
    parts = (f'"{kind}" AS ({_writing(table, kind, operations.format(kind))})' for kind in kinds)
    results = (f'SELECT * FROM "{kind}"' for kind in kinds)  # noqa: S608 - names of ours
    return table.sql(WRITE_MANY, parts=",\n     ".join(parts), results="\nUNION ALL ".join(results))
