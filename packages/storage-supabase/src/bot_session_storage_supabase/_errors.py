"""What PostgREST, PostgreSQL behind it, and the gateway before it say, as errors of ours."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec
from bot_session.errors import (
    ConfigurationError,
    SchemaError,
    StorageError,
    UnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)
from postgrest.exceptions import APIError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HIDDEN", "mapped"]

HIDDEN: Final = "***"
"""What stands for a secret."""

# Codes begin with: a class of SQLSTATE, a group of PostgREST's own codes, or HTTP and a status if there was no code.
_SCHEMA: Final = ("23", "28", "3F", "42", "PGRST1", "PGRST2", "PGRST3", "HTTP401", "HTTP403", "HTTP404")
_UNAVAILABLE: Final = (
    "08",
    "25",
    "40",
    "53",
    "55",
    "57",
    "58",
    "PGRST0",
    "PGRST5",  # of servers that speak PostgREST's protocol
    "PT429",  # by functions before every request, which choose a status by "PT": limits of their own, maintenance
    "PT5",
    "HTTP2",
    "HTTP408",
    "HTTP425",
    "HTTP429",
    "HTTP5",
)
_UNSUPPORTED: Final = ("22",)
_TOO_LARGE: Final = ("54", "HTTP413")

_RUN_DDL: Final = "run what ddl() returns in Supabase's SQL editor (bot-session ddl URL prints it)"
# 42601: PostgreSQL before 16 calls the type of a column that is not there a syntax error.
_MISSING: Final = ("PGRST202", "PGRST205", "3F", "42P01", "42P10", "42601", "42703", "42883", "HTTP404")

# PostgREST could not reach the database, had no schema yet, or no connection free: it did not get to the write.
_NOT_REACHED: Final = ("PGRST000", "PGRST002", "PGRST003", "HTTP425", "HTTP429")
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


@contextlib.contextmanager
def mapped(*, writing: bool, secret: str, **about: Any) -> Iterator[None]:
    """Raise whatever goes wrong with a call as an error of ours, in which ``secret`` is hidden."""
    try:
        yield
    except httpx.InvalidURL as error:
        # Not its cause: httpx may quote a piece of a password.
        raise ConfigurationError(f"no project has such an address: {type(error).__name__}") from None
    except (APIError, httpx.HTTPError, OSError, msgspec.ValidationError, RuntimeError) as error:
        raised = _translated(error, writing=writing, **about)
        if not any(secret in f"{each} {each!r}" for each in _chain(error)):
            raise raised from error
        # Not its cause, whose text would stand in every traceback.
        raised.args = (raised.args[0].replace(secret, HIDDEN),)
        raise raised from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those behind it, all of which a traceback shows."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _translated(error: Exception, *, writing: bool, **about: Any) -> StorageError:
    """Return our error for one of the client's."""
    if isinstance(error, APIError):
        return _refused(error, writing=writing, **about)
    if isinstance(error, (httpx.HTTPError, OSError)):
        unknown = writing and not isinstance(error, _NOT_SENT)
        reason = f"Supabase did not answer: {str(error) or type(error).__name__}"
        return UnavailableError(reason, outcome_unknown=unknown, **about)
    if isinstance(error, msgspec.ValidationError):
        # Somebody on the way, such as a captive portal, answers in Supabase's place.
        return UnavailableError("the answer is not one of Supabase's", outcome_unknown=writing, **about)
    return StorageError(f"the client cannot be used: {error}", **about)  # httpx on a client that was closed


def _refused(error: APIError, *, writing: bool, **about: Any) -> StorageError:
    """Return our error for an answer that is one. Its details are left out, since they may quote a session."""
    code = str(error.code or "")  # older clients give a status as a number
    if len(code) == len("429"):
        code = f"HTTP{code}"
    message = (error.message or "refused without a reason") + (f" ({code})" if code else "")
    if code.startswith(_TOO_LARGE):
        return ValueTooLargeError(message, **about)
    # Only the gateway gives reasons without a code; about the key it always speaks of the "API key".
    if code.startswith(_SCHEMA) or (not code and "api key" in message.lower()):
        hint = _RUN_DDL if code.startswith(_MISSING) else error.hint
        return SchemaError(f"{message}; {hint}" if hint else message, **about)
    if code.startswith(_UNSUPPORTED):
        return UnsupportedError(f"the column cannot hold this: {message}", **about)
    if not code or code.startswith(_UNAVAILABLE):
        # What the database itself refuses, it has rolled back.
        rolled_back = len(code) == len("40001") and not code.startswith("08")
        unknown = writing and not rolled_back and code not in _NOT_REACHED
        return UnavailableError(message, outcome_unknown=unknown, **about)
    return StorageError(message, **about)
