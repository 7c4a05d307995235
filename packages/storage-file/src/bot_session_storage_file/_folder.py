"""The folder: its files, written, found and listed. Everything here blocks, and runs in worker threads."""

from __future__ import annotations

import errno
import math
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from bot_session.storage import Record, Version

from ._document import Document, parse, render
from ._files import NewFile, read_file, sync_folder
from ._locks import FileLocks
from ._paths import LOCKS, key_of, lock_of, path_of, plain_path_of, shard_of, shard_of_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["BrokenFileError", "Folder", "Found", "Trip"]

_LOCK_FOLDER: Final = ".locks"
_TEMPORARY: Final = ".bot-session-"
_WINDOWS: Final = os.name == "nt"  # where a folder cannot be synced, nor a file replaced while somebody reads it
_NO_SUCH_NAME: Final = frozenset({errno.EINVAL, errno.EILSEQ})

_HELPERS: Final = 8
"""Threads that wait for the disk."""

_T = TypeVar("_T")


class BrokenFileError(Exception):
    """A file holds no document."""


@dataclass(slots=True)
class Trip:
    """
    What one call does in the worker threads.

    Attributes:
        operation: The method that was called.
        key: The key that is being worked on, for errors.
        abandoned: The caller was cancelled: what has not begun must not happen, since it could undo a later write.
        unsynced: Folders whose entries have changed.
        wrote: Something was changed.
    """

    operation: str
    key: str | None = None
    abandoned: bool = False
    unsynced: set[str] = field(default_factory=set)
    wrote: bool = False


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
    """

    def __init__(self, root: str, *, timeout: float, fsync: bool, clock: Callable[[], float]) -> None:
        self._root = root
        self._before = os.path.join(root, "")
        self._fsync = fsync
        self._clock = clock
        self._locks = FileLocks(os.path.join(root, _LOCK_FOLDER), LOCKS, timeout)
        self._device = 0
        self._helpers: ThreadPoolExecutor | None = None

    def open(self, trip: Trip, *, create: bool) -> None:
        """Make the folder if it is missing and ``create`` says so, and remember which disk it is on."""
        self._helpers = ThreadPoolExecutor(_HELPERS, "bot-session-file-sync")
        if create and not os.path.exists(self._root):
            self._make_folder(trip, self._root)
            self.sync(trip)
        with os.scandir(self._root):  # fails unless it is a folder that may be read
            self._device = os.stat(self._root).st_dev

    def close(self, *, wait: bool = True) -> None:
        """End the threads."""
        if self._helpers is not None:
            self._helpers.shutdown(wait=wait)

    def require_same_disk(self) -> None:
        """Raise OSError if the disk is gone: it leaves an empty folder behind, where every session seems missing."""
        if os.stat(self._root).st_dev != self._device:
            raise OSError(errno.ENODEV, "its disk was unmounted, or another mounted over it", self._root)

    @contextmanager
    def locked_if_free(self, trip: Trip, locks: Iterable[int]) -> Iterator[set[int]]:
        """Hold those of several locks that nobody has, and say which."""
        held: set[int] = set()
        with ExitStack() as stack:
            for number in locks:
                with suppress(TimeoutError):
                    stack.enter_context(self._locks.hold(number, lambda: trip.abandoned, timeout=0))
                    held.add(number)
            yield held

    @contextmanager
    def locked(self, trip: Trip, shard: str, *, optional: bool = False) -> Iterator[None]:
        """Hold the lock of a shard; with ``optional``, go on without it where nothing may be written."""
        with self._locks.hold(lock_of(shard), lambda: trip.abandoned, optional=optional):
            yield

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
        path, file = self._locate(key)
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
            self._in_parallel(NewFile.sync, files)

    def put(self, trip: Trip, file: NewFile) -> None:
        """Put a new file in its place."""
        file.put()
        trip.wrote = True
        trip.unsynced.add(os.path.dirname(file.path))

    def remove(self, trip: Trip, key: str) -> None:
        """Delete a key's file, and if grammY has written another, that as well: or it would come back."""
        path, file = self._locate(key)
        while file is not None:
            os.unlink(path)
            trip.wrote = True
            trip.unsynced.add(self._without_empty_folders(trip, os.path.dirname(path)))
            path, file = self._locate(key)

    def sync(self, trip: Trip) -> None:
        """Wait until the disk has the new names of files: a rename alone may be undone by a power cut."""
        folders, trip.unsynced = list(trip.unsynced), set()
        if self._fsync and not _WINDOWS:
            self._in_parallel(sync_folder, folders)

    # ------------------------------------------------------------------ all files

    def keys(self, trip: Trip, prefix: str = "", *, sweep: bool = False) -> Iterator[str]:
        """
        Yield the keys of all files, expired or not. Nothing is open or locked while one is out.

        Args:
            trip: Whose.
            prefix: What they start with.
            sweep: Delete what killed processes have left on the way.
        """
        with os.scandir(self._root) as entries:
            shards = [entry.name for entry in entries if shard_of_folder(entry.name) is not None and entry.is_dir()]
        for shard in ("", *shards):
            for path in self._list(trip, shard, sweep=sweep):
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

    def _in_parallel(self, wait: Callable[[_T], None], items: Sequence[_T]) -> None:
        """Wait for the disk on behalf of each item; for several in several threads, since it can do several at once."""

        def wait_for_all(share: Sequence[_T]) -> None:
            for item in share:
                wait(item)

        if len(items) < 2 or self._helpers is None:
            wait_for_all(items)
        else:
            shares = [items[start::_HELPERS] for start in range(min(_HELPERS, len(items)))]
            list(self._helpers.map(wait_for_all, shares))  # raises what one of them raises

    def _absolute(self, path: str) -> str:
        return self._before + path

    def _locate(self, key: str) -> tuple[str, tuple[bytes, int] | None]:
        """Return the path of a key's file, and what `read_file` says of it; None if there is none."""
        path = self._absolute(path_of(key))
        with suppress(FileNotFoundError):
            return path, read_file(path)
        plain = plain_path_of(key)
        if plain is not None:
            plain = self._absolute(plain)
            try:
                file = read_file(plain)
                if _has_exactly(plain):
                    return plain, file
            except FileNotFoundError:
                pass
            except OSError as error:
                # A disk that cannot hold such a name holds no such file.
                if error.errno not in _NO_SUCH_NAME:
                    raise
        return path, None

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


def _has_exactly(path: str) -> bool:
    """Return whether a file that was found has this name, and not one that its disk takes for the same."""
    folder, name = os.path.split(path)
    twin = os.path.join(folder, name.removesuffix("json") + "JSON")
    return (name.isascii() and not os.path.exists(twin)) or name in os.listdir(folder)
