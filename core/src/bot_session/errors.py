"""
Everything that bot-session raises on purpose.

::

    BotSessionError
    ├── ConfigurationError          (also a ValueError) wrong set-up: the message says what to change
    ├── SessionKeyError             the update has no session key, or the key function returned a bad one
    ├── SessionClosedError          the session was used after its update was over
    ├── LockTimeoutError            (also a TimeoutError) another update kept the session for too long
    ├── StorageError                .operation .key .storage .retryable; __cause__ is the driver's error
    │   ├── UnavailableError        no answer, or no connection; .outcome_unknown
    │   ├── ConflictError           somebody else wrote in between; .expected .actual, .mine .theirs
    │   ├── UnsupportedError        the storage cannot do what was asked
    │   ├── InvalidKeyError         (also a ValueError) a key that no storage, or not this one, can hold
    │   ├── ValueTooLargeError      (also a ValueError) a document beyond the storage's limit
    │   ├── SchemaError             table, column, index or rights are missing or wrong
    │   └── ClosedError             the storage was used after close()
    └── CodecError                  .key
        ├── EncodeError             this data cannot become a document without changing it
        ├── DecodeError             this document is not what the code expects; it stays as it is
        └── MigrationError          a migration failed, or the document is newer than the code

An error is never a missing session: whoever catches one of these knows that nothing was overwritten, unless
`UnavailableError.outcome_unknown` says that a write may have arrived.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from .storage import Match, Version

__all__ = [
    "BotSessionError",
    "ClosedError",
    "CodecError",
    "ConfigurationError",
    "ConflictError",
    "DecodeError",
    "EncodeError",
    "InvalidKeyError",
    "LockTimeoutError",
    "MigrationError",
    "SchemaError",
    "SessionClosedError",
    "SessionKeyError",
    "StorageError",
    "UnavailableError",
    "UnsupportedError",
    "ValueTooLargeError",
]


class BotSessionError(Exception):
    """Base of every error that bot-session raises on purpose."""


class ConfigurationError(BotSessionError, ValueError):
    """The set-up is wrong; no data was touched. The message says what to change."""


class SessionKeyError(BotSessionError, LookupError):
    """
    This update has no session: its key function returned None, or something that is no key.

    Inline queries, polls and payments belong to no chat, so the default key function has nothing to return for
    them. Raised when the session is *touched*, never before: such updates are handled as usual.
    """


class SessionClosedError(BotSessionError, RuntimeError):
    """
    The session was used after its update was over, when a change could no longer be saved.

    Typical causes: a background task that outlived its handler, and error handlers. Open the session again there:
    ``async with sessions.open(key) as session``.
    """


class LockTimeoutError(BotSessionError, TimeoutError):
    """
    Another update kept the session for longer than ``lock_timeout``; nothing was read or written.

    A handler that waits for a task which opens the same session waits for itself and ends here too. What the function of an
    `update` does itself with the same session ends here at once.
    """


class StorageError(BotSessionError):
    """
    A storage could not do what was asked. The driver's own error is the ``__cause__``.

    Attributes:
        operation: The storage method that failed, for instance ``"read"``; None if there was none.
        key: The key it was about, None if there was none or several.
        storage: Which storage, as its ``repr``: secrets are left out.
        retryable: Whether the same call may succeed later without anybody mending anything.
    """

    retryable: bool = False

    def __init__(
        self, message: str, *, operation: str | None = None, key: str | None = None, storage: object = None
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.key = key
        self.storage = storage if storage is None or isinstance(storage, str) else repr(storage)

    def __str__(self) -> str:
        call = f"{self.operation or ''}({'' if self.key is None else repr(_shorten(self.key))})"
        where = " ".join(part for part in (call if call != "()" else "", self.storage or "") if part)
        return f"{self.args[0]} [{where}]" if where else str(self.args[0])

    def copy(self) -> Self:
        """Return the same error for somebody else: a traceback grows wherever its error is raised."""
        own = copy.copy(self)
        own.__cause__ = self.__cause__
        return own

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive Exception's own way of copying itself between processes.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[StorageError], args: tuple[Any, ...], state: dict[str, Any]) -> StorageError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _shorten(key: str) -> str:
    return key if len(key) <= 80 else f"{key[:60]}…({len(key)} characters)"


class UnavailableError(StorageError):
    """
    The storage did not answer: refused, cut off, timed out, failing over, read-only for the moment, out of space.

    Attributes:
        outcome_unknown: True if a write was on its way when the connection broke: it may or may not have happened.
            Repeating a compare-and-set then proves nothing, since another writer may have written the same value.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        operation: str | None = None,
        key: str | None = None,
        storage: object = None,
        outcome_unknown: bool = False,
    ) -> None:
        super().__init__(message, operation=operation, key=key, storage=storage)
        self.outcome_unknown = outcome_unknown

    def __str__(self) -> str:
        return super().__str__() + (" (the write may or may not have happened)" if self.outcome_unknown else "")


class ConflictError(StorageError):
    """
    What is stored is not what the writer expected, so nothing was written.

    Attributes:
        expected: The match that was asked for.
        actual: The version that is stored now, None if there is nothing or if the storage did not tell.
        mine: From a session: the document that could not be saved.
        theirs: From a session: the document that is stored; None if it was deleted.
        fields: From a session: the top-level fields that both sides changed.
    """

    def __init__(
        self,
        message: str = "somebody else wrote in between",
        *,
        operation: str | None = None,
        key: str | None = None,
        storage: object = None,
        expected: Match | None = None,
        actual: Version | None = None,
        mine: str | None = None,
        theirs: str | None = None,
        fields: Sequence[str] = (),
    ) -> None:
        super().__init__(message, operation=operation, key=key, storage=storage)
        self.expected = expected
        self.actual = actual
        self.mine = mine
        self.theirs = theirs
        self.fields = tuple(fields)


class UnsupportedError(StorageError):
    """The storage cannot do what was asked, and says so instead of doing something else."""


class InvalidKeyError(StorageError, ValueError):
    """
    The key is no text, holds NUL or half a character (a lone surrogate), or is longer than the storage allows.

    Nor may a session's key begin as those of leases do.
    """


class ValueTooLargeError(StorageError, ValueError):
    """The document is longer than the storage allows (`Capabilities.max_value_bytes`)."""


class SchemaError(StorageError):
    """A table, column, index, folder or right is missing or wrong. The message names the statement that mends it."""


class ClosedError(StorageError):
    """The storage was used after ``close()``. ``await storage.open()`` opens it again."""


class CodecError(BotSessionError):
    """
    Session data and document do not fit each other.

    Attributes:
        key: Whose session it is, None outside one.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key

    def __str__(self) -> str:
        return str(self.args[0]) if self.key is None else f"session {_shorten(self.key)!r}: {self.args[0]}"


class EncodeError(CodecError):
    """The data cannot become a document from which the same data comes back. Nothing was written."""


class DecodeError(CodecError):
    """The stored document cannot become session data. It stays as it is."""


class MigrationError(CodecError):
    """A migration failed, or the stored document is newer than the newest migration. It stays as it is."""
