"""The folder: its files, written, found and listed. Everything here blocks, and runs in worker threads."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import secrets
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from bot_session.storage import Record, Version

from ._document import Document, parse, render
from ._files import NewFile, sync_folder
from ._locks import CrowdedError, FileLocks, LockedError, until_free
from ._lookup import is_folder, locate
from ._paths import LOCKS, key_of, lock_of, path_of, shard_of, shard_of_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ._threads import Threads
    from ._trip import Trip

__all__ = ["BrokenFileError", "Folder", "Found"]

_LOCK_FOLDER: Final = ".locks"
_TEMPORARY: Final = ".bot-session-"
_WINDOWS: Final = os.name == "nt"  # where a folder cannot be synced, nor a file replaced while somebody reads it


class BrokenFileError(Exception):
    """A file holds no document."""


class Found(NamedTuple):
    """
    A key's file.

    Attributes:
        path: Where it is, or will be.
        mode: Whom it lets in; None if it is not there.
        document: What it holds; None if it holds none.
        record: That again, unless it has expired.
    """

    path: str
    mode: int | None = None
    document: Document | None = None
    record: Record | None = None


class Folder:
    """
    The files of all keys. What changes a file needs the lock of its shard, see `locked`; reading needs none.

    Args:
        root: The folder.
        timeout: Seconds to wait for a lock.
        fsync: Wait for the disk.
        clock: Returns seconds since 1970.

    Attributes:
        threads: Where this runs.
    """

    def __init__(self, root: str, *, timeout: float, fsync: bool, clock: Callable[[], float]) -> None:
        self._root = root
        self._before = os.path.join(root, "")
        self._fsync = fsync
        self._clock = clock
        self._timeout = timeout
        self._device = 0

    def open(self, trip: Trip, threads: Threads, *, create: bool) -> None:
        """Make the folder if it is missing and ``create`` says so, and remember which disk it is on."""
        self.threads = threads
        # Those of a process that this one was forked from may be held for ever, by threads that are not here.
        self._locks = FileLocks(os.path.join(self._root, _LOCK_FOLDER), LOCKS, self._timeout)
        self._together = threading.Lock()
        if create and not os.path.exists(self._root):
            self._make_folder(trip, self._root)
            self.sync(trip)
        with os.scandir(self._root):  # fails unless it is a folder that may be read
            self._device = os.stat(self._root).st_dev

    def require_same_disk(self) -> None:
        """Raise OSError if the disk is gone: it leaves an empty folder behind, where every session seems missing."""
        if os.stat(self._root).st_dev != self._device:
            raise OSError(errno.ENODEV, "its disk was unmounted, or another mounted over it", self._root)

    @contextmanager
    def locked(self, trip: Trip, shard: str, *, optional: bool = False) -> Iterator[None]:
        """Hold the lock of a shard; with ``optional``, go on without it where nothing may be written."""
        with self._locks.hold(lock_of(shard), trip, optional=optional):
            yield

    @contextmanager
    def locked_if_free(self, trip: Trip, locks: Iterable[int]) -> Iterator[set[int]]:
        """Hold those of several locks that no other process has, and say which. Raises `LockedError` if none is free."""
        held: set[int] = set()
        refusal: LockedError | None = None
        with ExitStack() as stack:
            for number in sorted(locks):  # in one order everywhere, so that threads never wait in a circle
                try:
                    stack.enter_context(self._locks.hold(number, trip))
                    held.add(number)
                except LockedError as error:
                    refusal = error if refusal is None or refusal.final else refusal
            if refusal is not None and not held:
                raise refusal
            yield held

    @contextmanager
    def together(self, trip: Trip) -> Iterator[None]:
        """Write many files: one batch at a time, since a process may not have many more open. Raises as `locked`."""
        if not self._together.acquire(timeout=max(0.0, trip.began + self._timeout - time.monotonic())):
            raise CrowdedError(f"other batches were being written for more than {self._timeout:g} s")
        try:
            if trip.abandoned:
                raise asyncio.CancelledError
            yield
        finally:
            self._together.release()

    def refusal(self, key: str) -> LockedError:
        """Return the error for a key whose lock was not free in time."""
        return self._locks.refusal(lock_of(shard_of(key)))

    # ------------------------------------------------------------------ one file

    def read(self, trip: Trip, key: str) -> Record | None:
        """Return what is stored under a key, and has not expired."""
        trip.key = key
        if _WINDOWS:
            with self.locked(trip, shard_of(key)):
                return self.find(key).record
        return self.find(key).record

    def find(self, key: str, *, overwrite: bool = False) -> Found:
        """
        Find the file of a key.

        Raises:
            BrokenFileError: It holds no JSON. With ``overwrite`` it counts as a file without a document.
        """
        path, file = locate(self._before, key)
        if file is None:
            return Found(path)
        data, mode = file
        try:
            document = parse(data)
        except ValueError as error:
            if overwrite:
                return Found(path, mode)
            reason = str(error) if data else "it is empty"
            raise BrokenFileError(f"{path} holds no JSON ({reason}): mend it, or delete the key") from error
        left = None if document.expires is None else document.expires / 1000 - self._clock()
        live = left is None or left > 0
        return Found(path, mode, document, Record(document.value, Version(document.value), left) if live else None)

    def write(self, trip: Trip, found: Found, value: str, ttl: float | None, *, begin_sync: bool = False) -> NewFile:
        """Write a document into a new file, which `put` puts in the place of the old one."""
        expires = None if ttl is None else math.ceil((self._clock() + ttl) * 1000)
        data = render(value, expires, tabs=found.document is not None and found.document.tabs)
        folder = os.path.dirname(found.path)
        temporary = os.path.join(folder, f"{_TEMPORARY}{secrets.token_hex(8)}")
        begin_sync = begin_sync and self._fsync
        try:
            return NewFile(found.path, temporary, data, found.mode, begin_sync=begin_sync)
        except FileNotFoundError:
            self._make_folder(trip, folder)
            return NewFile(found.path, temporary, data, found.mode, begin_sync=begin_sync)

    def replace(self, trip: Trip, found: Found, value: str, ttl: float | None) -> None:
        """Write a document into a new file, and put it in the place of the old one once the disk has it."""
        file = self.write(trip, found, value, ttl)
        self.sync_files([file])
        self.put(trip, file)

    def sync_files(self, files: Sequence[NewFile]) -> None:
        """Wait until the disk has new files, which are then to be `put`."""
        if self._fsync:
            self.threads.share(NewFile.sync, files)

    def put(self, trip: Trip, file: NewFile) -> None:
        """Put a new file in its place."""
        file.put()
        trip.wrote = True
        trip.unsynced.add(os.path.dirname(file.path))

    def remove(self, trip: Trip, key: str) -> None:
        """Delete a key's file, and if grammY has written another, that as well: or it would come back."""
        path, file = locate(self._before, key)
        while file is not None:
            os.unlink(path)
            trip.wrote = True
            trip.unsynced.add(self._without_empty_folders(trip, os.path.dirname(path)))
            path, file = locate(self._before, key)

    def sync(self, trip: Trip) -> None:
        """Wait until the disk has the new names of files: a rename alone may be undone by a power cut."""
        folders, trip.unsynced = list(trip.unsynced), set()
        if self._fsync and not _WINDOWS:
            self.threads.share(sync_folder, folders)

    # ------------------------------------------------------------------ all files

    def keys(self, trip: Trip, prefix: str = "", *, sweep: bool = False) -> Iterator[str | LockedError]:
        """
        Yield the keys of all files, expired or not, and `until_free` errors. Nothing is open or locked meanwhile.

        Args:
            trip: Whose.
            prefix: What they start with.
            sweep: Delete what killed processes have left on the way.
        """
        with os.scandir(self._root) as entries:
            shards = [entry.name for entry in entries if shard_of_folder(entry.name) is not None and is_folder(entry)]
        for shard in ("", *shards):
            paths = yield from until_free(trip, partial(self._list, trip, shard, sweep=sweep))
            for path in paths:
                key = key_of(path)
                if key is None or not key.startswith(prefix):
                    continue
                if path == (own := path_of(key)) or not os.path.exists(self._absolute(own)):
                    yield key

    def _list(self, trip: Trip, shard: str, *, sweep: bool) -> list[str]:
        """
        List a shard's files while nobody writes there: some disks do not list a file that is replaced meanwhile.

        The temporary files that are seen then are nobody's any more.
        """
        found: list[str] = []
        folders = [shard]
        with self.locked(trip, shard_of_folder(shard) or "", optional=not sweep):
            while folders:
                folder = folders.pop()
                with suppress(FileNotFoundError), os.scandir(self._absolute(folder)) as entries:
                    for entry in entries:
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        if entry.name.endswith(".json"):
                            found.append(path)
                        elif entry.name.endswith("+") and folder and entry.is_dir():
                            folders.append(path)
                        elif entry.name.startswith(_TEMPORARY) and sweep:
                            os.unlink(entry.path)
        return found

    # ------------------------------------------------------------------ steps

    def _absolute(self, path: str) -> str:
        return self._before + path

    def _make_folder(self, trip: Trip, folder: str) -> None:
        try:
            os.mkdir(folder, 0o700)
        except FileNotFoundError:
            self._make_folder(trip, os.path.dirname(folder))
            os.mkdir(folder, 0o700)
        except FileExistsError:
            return
        trip.unsynced.add(os.path.dirname(folder))

    def _without_empty_folders(self, trip: Trip, folder: str) -> str:
        """Remove a folder and those above it as far as they are empty; return the one that stays."""
        while folder != self._root:
            try:
                os.rmdir(folder)
            except OSError:
                break  # it is not empty, or will stay for another reason: an empty folder does no harm
            trip.unsynced.discard(folder)
            folder = os.path.dirname(folder)
        return folder
