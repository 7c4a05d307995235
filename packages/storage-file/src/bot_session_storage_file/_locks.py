"""Locks that hold between threads and between processes: lock files, which are never deleted."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FileLocks"]

_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.02
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


class FileLocks:
    """
    Numbered locks for worker threads.

    Args:
        folder: Where the lock files are; made when the first is needed.
        count: How many there are.
        timeout: Seconds after which waiting ends in `TimeoutError`.
    """

    def __init__(self, folder: str, count: int, timeout: float) -> None:
        self._folder = folder
        self._timeout = timeout
        self._threads = [threading.Lock() for _ in range(count)]

    @contextmanager
    def hold(
        self, number: int, abandoned: Callable[[], bool], *, optional: bool = False, timeout: float | None = None
    ) -> Iterator[None]:
        """
        Hold a lock; threads of this process queue before the file, processes at it.

        Args:
            number: Which.
            abandoned: Says whether the caller has gone; then the wait ends in `asyncio.CancelledError`.
            optional: Go on without it where no file may be written.
            timeout: In place of the usual; 0 does not wait at all.
        """
        timeout = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        path = os.path.join(self._folder, str(number))
        if not self._threads[number].acquire(timeout=timeout):
            raise TimeoutError(f"the lock {path} was not free within {timeout:g} s")
        try:
            handle = self._open(path, optional=optional)
            if handle is None:
                yield
                return
            try:
                self._wait(handle, path, deadline, abandoned)
                try:
                    yield
                finally:
                    _unlock(handle)
            finally:
                os.close(handle)
        finally:
            self._threads[number].release()

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

    def _wait(self, handle: int, path: str, deadline: float, abandoned: Callable[[], bool]) -> None:
        pause = _FIRST_PAUSE
        while not _try_lock(handle):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"another process has held the lock {path} for {self._timeout:g} s")
            if abandoned():
                raise asyncio.CancelledError
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        if abandoned():
            _unlock(handle)
            raise asyncio.CancelledError
