"""What the driver raises, as bot-session's errors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pymongo
from bot_session.errors import SchemaError, StorageError, UnavailableError, ValueTooLargeError
from bson.errors import BSONError
from dns.exception import DNSException
from pymongo.errors import (
    ClientBulkWriteException,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from ._documents import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["mapped"]

_NOT_SENT: Final = (ServerSelectionTimeoutError, WaitQueueTimeoutError, NotPrimaryError)
"""Nothing happened. After a first try that may have done something, the driver raises what came of that one instead."""

_PASSING: Final = frozenset({
    112,  # WriteConflict
    262,  # ExceededTimeLimit
    14031,  # OutOfDiskSpace
})  # fmt: skip

_RIGHTS: Final = frozenset({
    13,  # Unauthorized
    18,  # AuthenticationFailed
    121,  # DocumentValidationFailure: a validator of the collection's
    8000,  # AtlasError, which stands for authentication there
})  # fmt: skip

_TOO_LARGE: Final = frozenset({10334, 17419, 17420})


@contextmanager
def mapped(
    storage: object, operation: str, key: str | None = None, *, timeout: float | None, writing: bool = False
) -> Iterator[None]:
    """Raise bot-session's error for the driver's, and give the whole block ``timeout`` seconds."""
    try:
        with pymongo.timeout(timeout):
            yield
    except (PyMongoError, BSONError, Unreadable, OSError) as error:
        raised = _translate(error, writing=writing)
        raised.operation, raised.key, raised.storage = operation, key, repr(storage)
        raise raised from error


def _translate(error: Exception, *, writing: bool) -> StorageError:
    if isinstance(error, ClientBulkWriteException):
        return _translate(_first_of(error), writing=writing)
    if isinstance(error, (ConnectionFailure, OSError, ExecutionTimeout, WriteConcernError)):
        unknown = writing and not isinstance(error, _NOT_SENT)
        return UnavailableError(f"MongoDB did not answer: {_reason(error)}", outcome_unknown=unknown)
    if isinstance(error, ConfigurationError) and isinstance(error.__context__, DNSException):  # mongodb+srv:
        return UnavailableError(f"the DNS did not give MongoDB's address: {error.__context__}")
    if isinstance(error, OperationFailure):
        return _translate_refusal(error, writing=writing)
    if isinstance(error, DocumentTooLarge):
        return ValueTooLargeError(f"MongoDB takes no command as long as this: {error}")
    if isinstance(error, Unreadable):
        return StorageError(f"the document holds {error}, for which JSON has no form")
    return StorageError(f"the driver refuses: {_reason(error)}")


def _first_of(error: ClientBulkWriteException) -> Exception:
    """Return the error that stands for those of a whole batch, some of which the driver gives as documents."""
    if isinstance(error.error, Exception):
        return error.error
    for failure in error.details["writeConcernErrors"]:
        return WriteConcernError(failure["errmsg"], failure["code"], failure)
    return OperationFailure("a batch failed")


def _translate_refusal(error: OperationFailure, *, writing: bool) -> StorageError:
    """Return the error for what the server answered."""
    reason = _reason(error)
    if error.code in _TOO_LARGE:
        return ValueTooLargeError(f"MongoDB takes no document as long as this: {reason}")
    if isinstance(error, DuplicateKeyError):
        return SchemaError(f"another unique index of the collection forbids it: {reason}")
    if error.code in _RIGHTS:
        return SchemaError(f"MongoDB forbids it: {reason}")
    cut_short = error.has_error_label("RetryableWriteError")
    if cut_short or error.code in _PASSING:
        return UnavailableError(f"MongoDB cannot now: {reason}", outcome_unknown=writing and cut_short)
    return StorageError(f"MongoDB refuses: {reason}")


def _reason(error: Exception) -> str:
    """Return what happened without the details, in which whole documents of users may stand."""
    details = getattr(error, "details", None)
    text = details.get("errmsg") if isinstance(details, dict) else None
    return f"{type(error).__name__}: {text or str(error).partition(', full error: ')[0]}"
