"""Single files, read and written with as few calls to the system as there can be."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

__all__ = ["create_file", "read_file"]

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


def create_file(path: str, data: bytes, mode: int | None, *, fsync: bool) -> None:
    """
    Write a new file.

    Args:
        path: Where there is none.
        data: What it shall hold.
        mode: Whom it lets in; by default its owner alone.
        fsync: Wait for the disk.
    """
    handle = os.open(path, _NEW, _PRIVATE)
    try:
        if mode not in (None, _PRIVATE):
            os.chmod(path, mode)
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
        if fsync:
            os.fsync(handle)
    finally:
        os.close(handle)
