"""What SQLite, aiosqlite and the file system raise, as bot-session's errors."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from bot_session.errors import (
    BotSessionError,
    ClosedError,
    SchemaError,
    StorageError,
    UnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_session.storage import Storage

_UNAVAILABLE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
}
_SCHEMA: Final = {
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOTADB,
}
# The words of aiosqlite, in ValueError, and of sqlite3, in ProgrammingError.
_CLOSED: Final = {"Connection closed", "no active connection", "Cannot operate on a closed database."}


class CommitError(Exception):
    """COMMIT failed, with its cause: what SQLite will find in its files afterwards is not known."""


class OccupiedError(sqlite3.OperationalError):
    """Somebody else is busy with the connection that we were given."""

    sqlite_errorcode = sqlite3.SQLITE_BUSY


def code(error: BaseException) -> int | None:
    """Return SQLite's primary result code for an error, None if it is not from SQLite itself."""
    extended = getattr(error, "sqlite_errorcode", None)
    return None if extended is None else extended & 0xFF


@contextmanager
def mapped(storage: Storage, operation: str, key: str | None = None) -> Iterator[None]:
    """Raise bot-session's error for what the driver raises inside."""
    try:
        yield
    except BotSessionError as error:
        if isinstance(error, StorageError):
            # From the table, which knows none of these.
            error.operation, error.key, error.storage = operation, key, repr(storage)
        raise
    except CommitError as error:
        raise UnavailableError(
            f"the commit failed: {error.__cause__}",
            operation=operation,
            key=key,
            storage=storage,
            outcome_unknown=True,
        ) from error.__cause__
    except (sqlite3.Error, OSError, ValueError) as error:
        kind, message = _meaning(error, storage)
        raise kind(message, operation=operation, key=key, storage=storage) from error


def _meaning(error: sqlite3.Error | OSError | ValueError, storage: Storage) -> tuple[type[StorageError], str]:
    text, result = str(error), code(error)
    if isinstance(error, UnicodeError):
        return UnsupportedError, f"SQLite keeps UTF-8: {text}"
    if text in _CLOSED:
        return ClosedError, f"the aiosqlite connection is closed, or was never awaited: {text}"
    if isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
        return SchemaError, f"{text}: the folder of the database must exist and be writable"
    if isinstance(error, OSError) or result in _UNAVAILABLE:
        return UnavailableError, text
    if result == sqlite3.SQLITE_ERROR:
        return SchemaError, f"{text}; this storage needs\n{storage.ddl()}"
    if result in _SCHEMA:
        return SchemaError, text
    return (ValueTooLargeError if result == sqlite3.SQLITE_TOOBIG else StorageError), text
