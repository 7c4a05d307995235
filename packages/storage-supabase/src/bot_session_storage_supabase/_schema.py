"""
What the adapter needs in the database: the table, and the functions that PostgREST calls for it.

Functions, because PostgREST's filters travel in the URL, which is too short for documents and gets logged on its way,
and because only inside the database a comparison and the write that depends on it are one step, by the database's
clock. They run with the rights of whoever calls them. Each takes one JSON value, which nobody on the way converts, and
answers with one object, which ``max-rows`` cannot cut short and which no empty body is mistaken for.
"""

from __future__ import annotations

import re
from typing import Final

from bot_session.errors import ConfigurationError

__all__ = ["function_name", "render"]

_TABLE: Final = """\
CREATE TABLE IF NOT EXISTS {table} (
    {key} varchar COLLATE "C" PRIMARY KEY,
    {value} text NOT NULL
);
ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {expiry} timestamptz;
CREATE INDEX IF NOT EXISTS {index} ON {table} ({expiry}) WHERE {expiry} IS NOT NULL;

-- Without a policy only the service key, which bypasses row-level security, sees a session. If the bot is to have a
-- role of its own, give that role all rows: the functions refuse to work for a role from which some are hidden.
--     CREATE POLICY bot_session ON {table} TO the_role USING (true) WITH CHECK (true);
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO service_role;
"""

# Row-level security does not refuse to read: it hides rows, and a hidden session looks like a missing one. So whoever
# is subject to it must have policies that hide nothing for each of the commands: r(ead), a(ppend), w(rite), d(elete).
# A permissive policy without an expression lets nothing through; without WITH CHECK, USING stands for it.
_GUARD: Final = """
CREATE OR REPLACE FUNCTION {guard}() RETURNS void LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    IF row_security_active({table_literal}::regclass) AND (
        SELECT bool_or(NOT polpermissive) IS NOT FALSE OR NOT array['r', 'a', 'w', 'd'] <@ array_agg(v_command)
        FROM pg_policy, unnest(CASE polcmd WHEN '*' THEN array['r', 'a', 'w', 'd'] ELSE array[polcmd::text] END)
            AS v_command
        WHERE polrelid = {table_literal}::regclass
            AND (SELECT bool_or(CASE r WHEN 0 THEN true ELSE pg_has_role(r, 'USAGE') END) FROM unnest(polroles) AS r)
            AND (NOT polpermissive
                 OR (polcmd = 'a' OR pg_get_expr(polqual, polrelid) = 'true')
                 AND coalesce(pg_get_expr(polwithcheck, polrelid), pg_get_expr(polqual, polrelid)) = 'true')
    ) THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('row-level security hides sessions from the role %s', current_user),
            HINT = 'Use the service key, or give the role a policy with USING (true) WITH CHECK (true).';
    END IF;
END $$;
"""

_READ: Final = """
CREATE OR REPLACE FUNCTION {read}(p_argument jsonb) RETURNS json LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    PERFORM {guard}();
    RETURN (
        SELECT json_build_object('answer',
            coalesce(json_agg(json_build_array(t.{key}, {document}, {version}, {left})), '[]'))
        FROM {table} AS t
        WHERE t.{key} = ANY (ARRAY(SELECT jsonb_array_elements_text(p_argument)))
            AND (t.{expiry} IS NULL OR t.{expiry} > now())
    );
END $$;
"""

# Pages go from key to key along the primary key's index, so that each costs the same however far it is.
_PAGE: Final = """
CREATE OR REPLACE FUNCTION {page}(p_argument jsonb) RETURNS json LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
    v_prefix text := p_argument->>'prefix';
    v_after text := p_argument->>'after';
    v_size int := p_argument->>'size';
    v_documents boolean := p_argument->>'documents';
BEGIN
    PERFORM {guard}();
    RETURN (
        SELECT json_build_object('answer', coalesce(json_agg(
            CASE WHEN v_documents THEN json_build_array(t.{key}, {document}, {version}, {left})
            ELSE json_build_array(t.{key}) END ORDER BY t.{key}), '[]'))
        FROM (
            SELECT * FROM {table} AS t
            WHERE t.{key} ^@ v_prefix AND (v_after IS NULL OR t.{key} > v_after)
                AND (t.{expiry} IS NULL OR t.{expiry} > now())
            ORDER BY t.{key} LIMIT v_size
        ) AS t
    );
END $$;
"""

# Atomic: a row is locked before it is compared; where there is none, the primary key lets one writer insert and sends
# the others back to look again. Keys go in one order for all, so that batches do not wait for each other in a circle.
_WRITE: Final = """
CREATE OR REPLACE FUNCTION {write}(p_argument jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    v_write record;
    v_there boolean;
    v_actual text;
    v_value {table}.{value}%TYPE;
    v_expiry timestamptz;
    v_results jsonb[] := array_fill(NULL::jsonb, array[jsonb_array_length(p_argument)]);
BEGIN
    PERFORM {guard}();
    FOR v_write IN
        SELECT n, w->>'key' AS key, w->>'value' AS value, (w->>'ttl')::float8 AS ttl, w->>'match' AS match
        FROM jsonb_array_elements(p_argument) WITH ORDINALITY AS _ (w, n)
        ORDER BY w->>'key' COLLATE "C", n
    LOOP
        WHILE v_results[v_write.n] IS NULL LOOP
            SELECT CASE WHEN t.{expiry} IS NULL OR t.{expiry} > clock_timestamp() THEN {version} END INTO v_actual
            FROM {table} AS t WHERE t.{key} = v_write.key FOR UPDATE;
            v_there := FOUND;
            v_value := v_write.value;
            v_expiry := clock_timestamp() + make_interval(secs => v_write.ttl);
            IF NOT (CASE v_write.match
                WHEN 'any' THEN true
                WHEN 'absent' THEN v_actual IS NULL
                WHEN 'present' THEN v_actual IS NOT NULL
                ELSE v_write.match IS NOT DISTINCT FROM '=' || v_actual END)
            THEN
                v_results[v_write.n] := jsonb_build_object('actual', v_actual);
            ELSIF v_write.value IS NULL THEN
                DELETE FROM {table} AS t WHERE t.{key} = v_write.key;
                v_results[v_write.n] := to_jsonb(v_actual IS NOT NULL);
            ELSIF v_there THEN
                UPDATE {table} AS t SET {value} = v_value, {expiry} = v_expiry WHERE t.{key} = v_write.key
                RETURNING {version} INTO STRICT v_actual;
                v_results[v_write.n] := to_jsonb(v_actual);
            ELSE
                INSERT INTO {table} AS t ({key}, {value}, {expiry}) VALUES (v_write.key, v_value, v_expiry)
                ON CONFLICT ({key}) DO NOTHING RETURNING {version} INTO v_actual;
                v_results[v_write.n] := to_jsonb(v_actual);
            END IF;
        END LOOP;
    END LOOP;
    RETURN jsonb_build_object('answer', v_results);
END $$;
"""

_TOUCH: Final = """
CREATE OR REPLACE FUNCTION {touch}(p_argument jsonb) RETURNS json LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    PERFORM {guard}();
    UPDATE {table} AS t SET {expiry} = clock_timestamp() + make_interval(secs => (p_argument->>'ttl')::float8)
    WHERE t.{key} = p_argument->>'key' AND (t.{expiry} IS NULL OR t.{expiry} > clock_timestamp());
    RETURN json_build_object('answer', FOUND);
END $$;
"""

# A row that somebody has locked is about to be renewed or purged already.
_PURGE: Final = """
CREATE OR REPLACE FUNCTION {purge}(p_argument jsonb) RETURNS json LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    v_count int;
BEGIN
    PERFORM {guard}();
    DELETE FROM {table} AS t WHERE t.{key} IN (
        SELECT t.{key} FROM {table} AS t WHERE t.{expiry} <= now() LIMIT (p_argument->>'size')::int FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN json_build_object('answer', v_count);
END $$;
"""

_RELOAD: Final = """
NOTIFY pgrst, 'reload schema';
"""

_ALL: Final = _TABLE + _GUARD + _READ + _PAGE + _WRITE + _TOUCH + _PURGE + _RELOAD
_FUNCTIONS: Final = ("guard", "read", "page", "write", "touch", "purge")

# A null is what grammY reads from a NULL, too.
_DOCUMENT: Final = "coalesce(t.{value}::text, 'null')"
_VERSION: Final = "encode(sha256(convert_to({document}, 'UTF8')), 'hex')"
_LEFT: Final = "extract(epoch FROM t.{expiry} - now())"

_LONGEST_NAME: Final = 63  # PostgreSQL cuts longer ones off, and then two may be one
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")


def function_name(table: str, function: str) -> str:
    """Return the name of one of the functions that belong to ``table``."""
    return f"{table}_bot_session_{function}"


def render(schema: str, table: str, key: str, value: str, expires: str) -> str:
    """
    Return the statements, every name quoted. They may be run again at any time, and over grammY's own table.

    Raises:
        ConfigurationError: A name is too long or has characters that do not survive a URL or a function's body.
    """
    room = _LONGEST_NAME - max(len(function_name("", name)) for name in _FUNCTIONS)
    for name in (schema, table, key, value, expires):
        if not _NAME.fullmatch(name) or len(name) > room:
            raise ConfigurationError(f"a name may have up to {room} ASCII letters, digits, '_' and '-'; not {name!r}")
    qualified = f"{_quote(schema)}.{_quote(table)}"
    columns = {"key": _quote(key), "value": _quote(value), "expiry": _quote(expires)}
    document = _DOCUMENT.format(**columns)
    return _ALL.format(
        **columns,
        table=qualified,
        table_literal=f"'{qualified}'",
        index=_quote(f"{table}_expires_idx"),
        document=document,
        version=_VERSION.format(document=document),
        left=_LEFT.format(**columns),
        **{name: f"{_quote(schema)}.{_quote(function_name(table, name))}" for name in _FUNCTIONS},
    )


def _quote(name: str) -> str:
    return f'"{name}"'
