"""What the operating system says, as errors of ours."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from bot_session.errors import InvalidKeyError, SchemaError, UnavailableError

from ._folder import BrokenFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_session.storage import Storage

    from ._folder import Trip

__all__ = ["translated"]

_WRONG: Final = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP})


@contextmanager
def translated(storage: Storage, trip: Trip) -> Iterator[None]:
    """Raise what goes wrong on a trip as an error of ours."""
    try:
        yield
    except BrokenFileError as error:
        raise SchemaError(str(error), operation=trip.operation, key=trip.key, storage=storage) from error.__cause__
    except OSError as error:
        where: dict[str, Any] = {"operation": trip.operation, "key": trip.key, "storage": storage}
        reason = ": ".join(part for part in (error.strerror, error.filename) if part) or str(error)
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidKeyError(f"the key is too long for this disk ({reason})", **where) from error
        if error.errno in _WRONG or (error.errno == errno.ENOENT and trip.operation == "open"):
            raise SchemaError(reason, **where) from error
        raise UnavailableError(reason, **where, outcome_unknown=trip.wrote) from error
