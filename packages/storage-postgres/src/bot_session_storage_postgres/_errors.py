"""What asyncpg raises, as errors of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg  # type: ignore[import-untyped]
from bot_session.errors import (
    ConfigurationError,
    SchemaError,
    StorageError,
    UnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)

if TYPE_CHECKING:
    from bot_session.errors import BotSessionError

__all__ = ["DRIVER_ERRORS", "mapped"]

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that asyncpg raises; a timeout is an `OSError`."""

_POOLER = "prepared statements went astray between server and pooler: turn the statement cache off"

# By SQLSTATE, or by its first two characters.
_BY_STATE: dict[str, type[StorageError]] = {
    "08": UnavailableError,  # connection
    "0A": UnsupportedError,
    "22": UnsupportedError,  # data, such as what jsonb cannot hold
    "22001": ValueTooLargeError,
    "23": SchemaError,  # a constraint on a column that is none of ours
    "25006": UnavailableError,  # read-only: a replica, or a server that fails over
    "25P03": UnavailableError,  # idle for too long inside a transaction
    "25P04": UnavailableError,
    "26": UnsupportedError,
    "28": SchemaError,  # user or password
    "3D": SchemaError,  # database
    "3F": SchemaError,  # schema
    "40": UnavailableError,  # rolled back time and again
    "42": SchemaError,  # table, column, index, rights
    "42P05": UnsupportedError,
    "53": UnavailableError,  # out of connections, memory or space
    "54": UnsupportedError,
    "55": UnavailableError,  # locked
    "57": UnavailableError,  # shut down, starting up, cancelled
    "58": UnavailableError,  # the server's own disk
}

# The server answered with one of these, and then nothing was changed. Of all the rest nobody knows.
_ROLLED_BACK = ("25", "40", "53", "55", "57014", "57P03")

_WRITING = {"write", "write_many", "delete", "touch", "purge"}


def mapped(
    error: BaseException, operation: str, key: str | None, storage: object, *, sent: bool = False
) -> BotSessionError:
    """Return the error to raise: its message holds what the server said, but never the row that it was about."""
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return ConfigurationError("asyncpg does not understand the URL of the database")
    state: str = getattr(error, "sqlstate", None) or ""
    kind = _BY_STATE.get(state) or _BY_STATE.get(state[:2]) or StorageError
    if not isinstance(error, asyncpg.PostgresError):
        kind = UnavailableError
    message = _message(error, state)
    if kind is not UnavailableError:
        return kind(message, operation=operation, key=key, storage=storage)
    unknown = sent and operation in _WRITING and not state.startswith(_ROLLED_BACK)
    unknown = unknown and not isinstance(error, asyncpg.InterfaceError)  # refused by asyncpg before it sent anything
    return UnavailableError(
        f"PostgreSQL: {message}", operation=operation, key=key, storage=storage, outcome_unknown=unknown
    )


def _message(error: BaseException, state: str) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if state.startswith("22"):
        return "PostgreSQL cannot hold this text"  # which the server may quote
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    text = str(error.args[0] if error.args else error)
    return f"{_POOLER} ({text})" if state in {"26000", "42P05"} else text
