"""What the operating system says, as errors of ours."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from bot_session.errors import InvalidKeyError, SchemaError, StorageError, UnavailableError

from ._folder import BrokenFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_session.storage import Storage

    from ._trip import Trip

__all__ = ["translated", "translation"]

_WRONG: Final = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP})


@contextmanager
def translated(storage: Storage, trip: Trip) -> Iterator[None]:
    """Raise what goes wrong on a trip as an error of ours."""
    try:
        yield
    except (BrokenFileError, OSError) as error:
        failure = translation(error, storage, trip)
        raise failure from failure.__cause__


def translation(error: BrokenFileError | OSError, storage: Storage, trip: Trip, key: str | None = None) -> StorageError:
    """Return an error of ours, with its cause, for what went wrong on a trip, with ``key`` if not with the trip's own."""
    where: dict[str, Any] = {"operation": trip.operation, "key": key or trip.key, "storage": storage}
    failure: StorageError
    if isinstance(error, BrokenFileError):
        failure = SchemaError(str(error), **where)
        failure.__cause__ = error.__cause__
        return failure
    reason = ": ".join(part for part in (error.strerror, error.filename) if part) or str(error)
    if error.errno == errno.ENAMETOOLONG:
        failure = InvalidKeyError(f"the key is too long for this disk ({reason})", **where)
    elif error.errno in _WRONG or (error.errno == errno.ENOENT and trip.operation == "open"):
        failure = SchemaError(reason, **where)
    else:
        failure = UnavailableError(reason, **where, outcome_unknown=trip.wrote)
    failure.__cause__ = error
    return failure
