"""Locks that hold between threads and between processes: lock files, which are never deleted."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ._trip import Trip

__all__ = ["CrowdedError", "FileLocks", "LockedError", "until_free"]

_T = TypeVar("_T")

_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EDEADLK}:
                return False
            raise
        return True

    def _unlock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(handle: int) -> None:
        # Closing would not do: a child that was forked meanwhile has the file open too, and would keep the lock.
        fcntl.flock(handle, fcntl.LOCK_UN)


class LockedError(TimeoutError):
    """
    Somebody else has the lock.

    Attributes:
        final: It has been so for too long. If not, try again.
    """

    final: bool = False


class CrowdedError(LockedError):
    """Other batches of this process were being written for too long."""

    final = True


class FileLocks:
    """
    Numbered locks for worker threads.

    Args:
        folder: Where the lock files are; made when the first is needed.
        count: How many there are.
        timeout: Seconds, from the beginning of a trip, for which to wait.
    """

    def __init__(self, folder: str, count: int, timeout: float) -> None:
        self._folder = folder
        self._timeout = timeout
        self._threads = [threading.Lock() for _ in range(count)]
        self._stuck: set[int] = set()  # Were they waited for again, each call would keep others from being done.

    @contextmanager
    def hold(self, number: int, trip: Trip, *, optional: bool = False) -> Iterator[None]:
        """
        Hold a lock. Threads of this process queue for it; other processes, which may be stuck, are not waited for.

        Args:
            number: Which.
            trip: Whose. If the caller has gone, it ends in `asyncio.CancelledError`.
            optional: Go on without the lock where no file may be written.

        Raises:
            LockedError: Another process has it, or threads of this one have had it for too long.
        """
        until = trip.began + self._timeout
        if not self._threads[number].acquire(timeout=max(0.0, until - time.monotonic())):
            raise self._refuse(number, until)
        try:
            handle = self._open(self._path(number), optional=optional)
            if handle is None:
                yield
                return
            try:
                if not _try_lock(handle):
                    raise self._refuse(number, until)
                self._stuck.discard(number)
                try:
                    if trip.abandoned:
                        raise asyncio.CancelledError
                    yield
                finally:
                    _unlock(handle)
            finally:
                os.close(handle)
        finally:
            self._threads[number].release()

    def refusal(self, number: int) -> LockedError:
        """Return the error for a lock that was not free."""
        refusal = LockedError(f"the lock {self._path(number)} was not free within {self._timeout:g} s")
        refusal.final = number in self._stuck
        return refusal

    def _refuse(self, number: int, until: float) -> LockedError:
        if time.monotonic() >= until:
            self._stuck.add(number)
        return self.refusal(number)

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, str(number))

    def _open(self, path: str, *, optional: bool) -> int | None:
        try:
            try:
                return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:
                with suppress(FileExistsError):
                    os.mkdir(self._folder, 0o700)
                return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if optional and error.errno in _NOT_ALLOWED:
                return None
            raise


def until_free(trip: Trip, step: Callable[[], _T]) -> Generator[LockedError, None, _T]:
    """
    Do a step that needs a lock, in the midst of others; yields the error each time that it is not free.

    Its time counts from here, since those before it may have taken long.
    """
    trip.began = time.monotonic()
    while True:
        try:
            return step()
        except LockedError as error:
            yield error
