"""From redis-py's errors to those of bot-session."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from bot_session.errors import SchemaError, StorageError, UnavailableError
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ._gate import NotSentError
from ._listing import LostCursorError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["mapped"]

_RIGHTS: Final = (AuthenticationError, AuthorizationError, NoPermissionError)

_REFUSALS: Final = {
    "BUSY": "runs a script for too long",
    "CLUSTERDOWN": "misses a part of its cluster",
    "LOADING": "is still loading its data",
    "MASTERDOWN": "has lost its master",
    "MISCONF": "cannot save to its disk and takes no writes",
    "NOREPLICAS": "has too few replicas and takes no writes",
    "OOM": "is out of memory",
    "READONLY": "is a replica, which takes no writes",
    "TRYAGAIN": "is moving the key to another node",
}
"""What a server answers that will not do it now, so nothing was written."""

_CODES: Final[dict[type[Exception], str]] = {
    MasterDownError: "MASTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
    BusyLoadingError: "LOADING",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    TryAgainError: "TRYAGAIN",
}
"""Answers that redis-py has a class for: it takes the code out of their text."""

_QUOTES: Final = (", with args", " : <")
"""What follows in the text of an error quotes: a refused command with the document, the sentinels with their password."""


@contextlib.contextmanager
def mapped(operation: str, key: str | None, storage: object, *, writes: bool) -> Iterator[None]:
    """Raise redis-py's errors as ours; ``writes`` says whether a broken connection leaves the outcome unknown."""
    try:
        yield
    except LostCursorError as error:
        raise UnavailableError(str(error), operation=operation, key=key, storage=storage) from error
    except (RedisError, RedisClusterException, NotSentError, OSError) as error:
        cause = (error.__cause__ or error) if isinstance(error, NotSentError) else error
        _without_quotes(cause)
        about: dict[str, Any] = {"operation": operation, "key": key, "storage": storage}
        raise _translated(cause, about, unknown=writes and cause is error and not _went_nowhere(error)) from cause


def _translated(error: BaseException, about: dict[str, Any], *, unknown: bool) -> StorageError:
    # What a script may not do is told in words, without a class of redis-py's.
    if isinstance(error, _RIGHTS) or "ACL failure in script" in str(error):
        return SchemaError(f"Redis refuses the user or what it does: {_first_line(error)}", **about)
    codes = [code for kind, code in _CODES.items() if isinstance(error, kind)]
    if not codes and not isinstance(error, ResponseError):
        return UnavailableError(f"Redis does not answer: {_first_line(error)}", **about, outcome_unknown=unknown)
    # Before Redis 7 the code stands amid the text if a script ran into it.
    words = str(error).split()
    for code in codes or _REFUSALS.keys() & words:
        return UnavailableError(f"Redis {_REFUSALS[code]}", **about)
    if "WRONGTYPE" in words:
        return SchemaError("the key holds no string: it belongs to another program", **about)
    return StorageError(f"Redis refuses: {_first_line(error)}", **about)


def _went_nowhere(error: BaseException) -> bool:
    """Return whether no node of a cluster took the command: none has the slot, or each said that it is elsewhere."""
    return isinstance(error, RedisClusterException) or type(error) is ClusterError


def _without_quotes(error: BaseException) -> None:
    """Cut an error's own text: as the cause it ends in logs beside ours."""
    told = str(error)
    short = min((told.partition(quotes)[0] for quotes in _QUOTES), key=len)
    if len(short) < len(told):
        error.args = (short,)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
