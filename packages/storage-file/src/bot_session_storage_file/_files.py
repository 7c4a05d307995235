"""Single files, read and written with as few calls to the system as there can be."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from typing import Final, cast

__all__ = ["NewFile", "read_file", "sync_folder"]

_PRIVATE: Final = 0o600
_BINARY: Final = getattr(os, "O_BINARY", 0)  # on Windows
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY
_OLD: Final = os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0)  # nobody waits for the other end of a pipe


def read_file(path: str) -> tuple[bytes, int]:
    """Return what is in a file, and its mode: whom it lets in."""
    handle = os.open(path, _OLD)
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EEXIST, "a folder, a pipe or a device is in the place of a file", path)
        data = os.read(handle, about.st_size + 1)
        if len(data) != about.st_size:  # It is very large, or others write into it instead of replacing it.
            parts = [data]
            while parts[-1]:
                parts.append(os.read(handle, 2**20))
            data = b"".join(parts)
        return data, stat.S_IMODE(about.st_mode)
    finally:
        os.close(handle)


def sync_folder(path: str) -> None:
    """Wait until the disk has the names of a folder's files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class NewFile:
    """
    A file that is written beside its place, and then put there or discarded.

    Args:
        path: Its place.
        temporary: Where it is written, in the same folder; nothing may be there.
        data: What it shall hold.
        mode: Whom it lets in; by default its owner alone.
        begin_sync: Let the disk begin with it at once: of several it has most by the time that one is waited for.
    """

    def __init__(self, path: str, temporary: str, data: bytes, mode: int | None, *, begin_sync: bool) -> None:
        self.path = path
        self._temporary = temporary
        self._failure: OSError | None = None
        self._is_put = False
        self._handle: int | None = os.open(temporary, _NEW, _PRIVATE)
        try:
            if mode not in (None, _PRIVATE):
                os.chmod(temporary, mode)
            left = memoryview(data)
            while left:
                left = left[os.write(self._handle, left) :]
            if begin_sync and sys.platform == "linux":
                # What nobody needs any more is written without anybody waiting for it (mm/fadvise.c of Linux).
                os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_DONTNEED)
        except BaseException:
            self.discard()
            raise

    def sync(self) -> None:
        """Wait until the disk has it. If that fails, `put` raises."""
        try:
            os.fsync(cast("int", self._handle))
        except OSError as error:
            self._failure = error

    def put(self) -> None:
        """Put it in its place, instead of what is there; or else discard it."""
        if self._failure is not None:
            self.discard()
            raise self._failure
        try:
            self._close()
            os.replace(self._temporary, self.path)
            self._is_put = True
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Leave nothing of it, unless it is in its place."""
        if self._is_put:
            return
        with suppress(OSError):  # An error on the way here tells more; what stays is swept one day.
            self._close()
        with suppress(OSError):
            os.unlink(self._temporary)

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
