"""The table: what creates it, and what is found out about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bot_session.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ADD_EXPIRY", "INSPECT", "LOCK_SETUP", "Table"]

# CREATE … IF NOT EXISTS fails when several workers run it at once, so they take turns. The lock belongs to the
# transaction, not to the session: behind PgBouncer the next statement may run in another session.
LOCK_SETUP = "SELECT pg_advisory_xact_lock(7093844871337145193)"

CREATE_TABLE = (
    'CREATE TABLE IF NOT EXISTS {table} ({key} varchar COLLATE "C" PRIMARY KEY, {value} text, {expires} timestamptz)'
)
CREATE_EXPIRY_INDEX = "CREATE INDEX ON {table} ({expires}) WHERE {expires} IS NOT NULL"
ADD_EXPIRY = "ALTER TABLE {table} ADD COLUMN {expires} timestamptz"
ADD_UNIQUE = "CREATE UNIQUE INDEX ON {table} ({key})"
SHOW_ALL_ROWS = "CREATE POLICY bot_session ON {table} TO {role} USING (true) WITH CHECK (true)"

# Row-level security does not refuse to read: it hides rows, and a hidden session looks like a missing one. So whoever
# is subject to it must have policies that hide nothing for each of the commands: r(ead), a(ppend), w(rite), d(elete).
# A permissive policy without an expression lets nothing through; without WITH CHECK, USING stands for it.
ROWS_HIDDEN = """
row_security_active(c.oid) AND (
    SELECT bool_or(NOT p.polpermissive) IS NOT FALSE OR NOT array['r', 'a', 'w', 'd'] <@ array_agg(command)
    FROM pg_policy p, unnest(CASE p.polcmd WHEN '*' THEN array['r', 'a', 'w', 'd'] ELSE array[p.polcmd::text] END)
        AS command, pg_get_expr(p.polqual, p.polrelid) AS shown, pg_get_expr(p.polwithcheck, p.polrelid) AS taken
    WHERE p.polrelid = c.oid
        AND (SELECT bool_or(CASE r WHEN 0 THEN true ELSE pg_has_role(r, 'USAGE') END) FROM unnest(p.polroles) AS r)
        AND (NOT p.polpermissive OR (p.polcmd = 'a' OR shown = 'true') AND coalesce(taken, shown) = 'true'))"""

# One row for each column of the table; none if there is no table.
INSPECT = f"""
SELECT a.attname AS name, t.typname AS type, a.atttypmod AS modifier, n.nspname AS schema,
       coalesce(o.collisdeterministic, true) AS exact,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
               AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) AS alone_unique,
       {ROWS_HIDDEN} AS rows_hidden, current_user AS role
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     JOIN pg_type t ON t.oid = a.atttypid
     LEFT JOIN pg_collation o ON o.oid = a.attcollation
WHERE c.oid = to_regclass($1)"""  # noqa: S608 - a part of ours


def quoted(name: str) -> str:
    """Return an identifier as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Table:
    """
    Which table, and what is known of it.

    Attributes:
        name: Its name.
        schema: The schema it is in; None until it was looked up, if none was asked for.
        key: The column of the keys.
        value: The column of the documents.
        expires: The column of the expiry times.
        type: The type of the documents' column.
        key_room: How many characters a key may have; None if there is no such limit.
        value_room: How many characters a document may have; None if there is no such limit.
        has_expiry: Whether there is a column for expiry times.
        tick: Seconds to which that column rounds its times; 0 if it keeps the server's microseconds.
    """

    name: str
    schema: str | None
    key: str
    value: str
    expires: str
    type: str = "text"
    key_room: int | None = None
    value_room: int | None = None
    has_expiry: bool = True
    tick: float = 0.0

    def __str__(self) -> str:
        return ".".join(quoted(part) for part in (self.schema, self.name) if part is not None)

    def ddl(self) -> list[str]:
        """Return the statements that create it."""
        return [self.sql(CREATE_TABLE), self.sql(CREATE_EXPIRY_INDEX)]

    def inspected(self, rows: Sequence[Any]) -> Table:
        """
        Return what `INSPECT` found.

        Raises:
            SchemaError: Sessions cannot be kept in this table.
        """
        columns = {row["name"]: row for row in rows}
        for name in (self.key, self.value):
            if name not in columns:
                raise SchemaError(f"the table {self} has no column {quoted(name)}")
        key, value, expires = columns[self.key], columns[self.value], columns.get(self.expires)
        if key["type"] not in {"varchar", "text"} or not key["exact"]:
            raise SchemaError(f"{quoted(self.key)} must be varchar or text, so that different keys stay different")
        if value["type"] not in {"varchar", "text", "json", "jsonb"}:
            raise SchemaError(f"{quoted(self.value)} must be text, varchar, json or jsonb, not {value['type']}")
        if expires is not None and expires["type"] != "timestamptz":
            raise SchemaError(f"{quoted(self.expires)} must be timestamptz, not {expires['type']}")
        found = replace(
            self,
            schema=key["schema"],
            type=value["type"],
            key_room=_room(key),
            value_room=_room(value),
            has_expiry=expires is not None,
            tick=0.0 if expires is None else _tick(expires),
        )
        if not key["alone_unique"]:
            raise SchemaError(f"a key could be there twice; run: {found.sql(ADD_UNIQUE)}")
        if key["rows_hidden"]:
            raise SchemaError(
                f"row-level security hides rows from the role {quoted(key['role'])}, and a hidden session looks like a"
                " missing one; drop policies that are restrictive, and"
                f" run: {found.sql(SHOW_ALL_ROWS, role=quoted(key['role']))}"
            )
        return found

    def sql(self, template: str, **more: str) -> str:
        """Fill a statement in."""
        key, value, expires = quoted(self.key), quoted(self.value), quoted(self.expires)
        columns = [key, value, expires] if self.has_expiry else [key, value]
        # SQL's NULL is what other programs may have stored for JSON's.
        text = f"coalesce(t.{value}::text, 'null')"
        cast = f"::{self.type}" if self.type in {"json", "jsonb"} else ""
        # The column rounds to the nearest tick, and a document never expires before its time.
        deadline = f"statement_timestamp() + make_interval(secs => {{}}{f' + {self.tick / 2}' if self.tick else ''})"
        row = ["op.key", f"op.value{cast}", deadline.format("op.ttl")]
        dead = f"t.{expires} <= statement_timestamp()"
        return template.format(
            **more,
            table=self,
            key=key,
            value=value,
            expires=expires,
            columns=", ".join(columns),
            row=", ".join(row[: len(columns)]),
            assignments=", ".join(f"{column} = {new}" for column, new in zip(columns[1:], row[1:], strict=False)),
            changes=", ".join(f"{column} = EXCLUDED.{column}" for column in columns[1:]),
            text=text,
            # jsonb spells documents its own way.
            version=text if self.type == "jsonb" else "NULL::text",
            unchanged=f"{text} = op.version{cast and cast + '::text'}",
            left=f"extract(epoch FROM nullif(t.{expires}, 'infinity') - statement_timestamp())::float8"
            if self.has_expiry
            else "NULL::float8",
            live=f"({dead}) IS NOT TRUE" if self.has_expiry else "true",
            expired=dead if self.has_expiry else "false",
            deadline=deadline.format("$2::float8"),
        )


def _room(column: Any) -> int | None:
    """Return what a varchar(n) has room for; None if there is no n. Its modifier counts a header of four bytes."""
    return column["modifier"] - 4 if column["type"] == "varchar" and column["modifier"] >= 0 else None


def _tick(column: Any) -> float:
    """Return what a timestamptz(n) rounds to; 0 if it does not round."""
    return 10.0 ** -column["modifier"] if 0 <= column["modifier"] < 6 else 0.0
