"""What PostgREST, PostgreSQL behind it, and the gateway before it say, as errors of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpx
from bot_session.errors import SchemaError, StorageError, UnavailableError, UnsupportedError, ValueTooLargeError

if TYPE_CHECKING:
    from postgrest.exceptions import APIError

__all__ = ["lost", "refused"]

# Codes begin with: a class of SQLSTATE, a group of PostgREST's own codes, or an HTTP status if the answer had no code.
_SCHEMA: Final = ("23", "28", "3F", "42", "PGRST1", "PGRST2", "PGRST3", "401", "403", "404")
_UNAVAILABLE: Final = ("08", "25", "40", "53", "55", "57", "58", "PGRST0", "408", "425", "429", "5")
_UNSUPPORTED: Final = ("22",)
_TOO_LARGE: Final = ("413", "54")

_RUN_DDL: Final = "; run what ddl() returns in Supabase's SQL editor (bot-session ddl URL prints it)"
_MISSING: Final = ("PGRST202", "PGRST205", "3F", "42P01", "42P10", "42703", "42883", "404")

# PostgREST could not reach the database, had no schema yet, or no connection free: it did not get to the write.
_NOT_REACHED: Final = ("PGRST000", "PGRST002", "PGRST003", "425", "429")
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


def refused(error: APIError, *, writing: bool, **about: Any) -> StorageError:
    """Return our error for an answer that is one. Its details are left out, since they may quote a session."""
    code = "" if error.code is None else str(error.code)  # older clients give a status as a number
    message = f"{error.message or 'refused without a reason'}" + (f" ({code})" if code else "")
    hint = f"; {error.hint}" if error.hint else ""
    if code.startswith(_TOO_LARGE):
        return ValueTooLargeError(message, **about)
    # Only the gateway gives reasons without a code; about the key it always speaks of the "API key".
    if code.startswith(_SCHEMA) or (not code and "api key" in message.lower()):
        return SchemaError(message + (_RUN_DDL if code.startswith(_MISSING) else hint), **about)
    if code.startswith(_UNSUPPORTED):
        return UnsupportedError(f"the column cannot hold this: {message}", **about)
    if not code or code.startswith(_UNAVAILABLE):
        # What the database itself refuses, it has rolled back.
        rolled_back = len(code) == len("40001") and not code.startswith("08")
        unknown = writing and not rolled_back and code not in _NOT_REACHED
        return UnavailableError(message, outcome_unknown=unknown, **about)
    return StorageError(message, **about)


def lost(error: Exception, *, writing: bool, **about: Any) -> StorageError:
    """Return our error for a call that got no answer."""
    reason = str(error) or type(error).__name__
    unknown = writing and not isinstance(error, _NOT_SENT)
    return UnavailableError(f"Supabase did not answer: {reason}", outcome_unknown=unknown, **about)
