"""Sessions in JSON files, one for each, in grammY's layout."""

# ruff: noqa: PTH - paths are text here, cut and joined on the way of every operation
from __future__ import annotations

import asyncio
import errno
import math
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar
from urllib.request import url2pathname

from bot_session.errors import ConfigurationError, ConflictError, InvalidKeyError, SchemaError, UnavailableError
from bot_session.storage import ABSENT, ANY, PRESENT, Capabilities, Match, Record, Storage, Version, Write, WriteResult

from ._document import Document, parse, render, require_json
from ._locks import FileLocks
from ._paths import LOCKS, MAX_KEY_BYTES, key_of, lock_of, path_of, plain_path_of, shard_of, shard_of_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import Concatenate, ParamSpec, Self

    _P = ParamSpec("_P")

__all__ = ["FileStorage"]

_T = TypeVar("_T")

_THREADS: Final = 8
_LOCK_FOLDER: Final = ".locks"
_TEMPORARY: Final = ".bot-session-"
_WINDOWS: Final = os.name == "nt"  # where a folder cannot be synced, nor a file replaced while somebody reads it
_WRONG: Final = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP})
_NO_SUCH_NAME: Final = frozenset({errno.EINVAL, errno.EILSEQ})


class _BrokenFileError(Exception):
    """The file holds no document. The arguments say which, and why."""


@dataclass(slots=True)
class _Trip:
    """
    What one call does in the worker threads.

    Attributes:
        operation: The method that was called.
        key: The key that is being worked on, for errors.
        abandoned: The caller was cancelled: what has not begun must not happen, since it could undo a later write.
        changed: Folders whose entries have changed and are not yet synced.
        wrote: Something was changed.
    """

    operation: str
    key: str | None = None
    abandoned: bool = False
    changed: set[str] = field(default_factory=set)
    wrote: bool = False


class FileStorage(Storage):
    """
    Keeps each document in a JSON file, ``<directory>/<last two characters of the key>/<key>.json``.

    Files that grammY's file adapter wrote are found and kept up in place. Every write is a new file that replaces the
    old one, under a lock that holds between processes: no reader sees half a document, no process undoes another's
    write, and what was acknowledged survives a power cut. Works on local disks; on a network disk as far as its
    ``flock`` and ``rename`` do.

    A file that holds no JSON (empty, cut short, mended badly) raises `SchemaError` and stays, until it is deleted or
    written without a match.

    Args:
        directory: The folder. Nobody else's files in it are touched.
        create: Make the folder, with its parents, if it is missing.
        timeout: Seconds to wait while another process holds the lock.
        fsync: Wait until the disk has it. Without, writes are faster, and a power cut may lose or empty the latest.

    Raises:
        ConfigurationError: An option is wrong.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        shared=True,
        durable=True,
        native_expiry=False,
        ttl_resolution=0.001,
        atomic_batches=False,
        max_key_bytes=MAX_KEY_BYTES,
    )

    def __init__(
        self,
        directory: str | os.PathLike[str] = "sessions",
        *,
        create: bool = True,
        timeout: float = 10.0,
        fsync: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 < timeout <= 3600:
            raise ConfigurationError(f"timeout must be seconds above 0 and up to an hour, not {timeout!r}")
        self._root = os.path.abspath(directory)
        self._create = create
        self._fsync = fsync
        self._clock = clock
        self._locks = FileLocks(os.path.join(self._root, _LOCK_FOLDER), LOCKS, timeout)
        self._device = 0
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def from_url(cls, url: str, *, create: bool = True, timeout: float = 10.0, fsync: bool = True) -> Self:
        """Make one from ``file:sessions`` (relative) or ``file:///var/lib/bot`` (absolute)."""
        path = url.partition(":")[2]
        if path.startswith("//"):
            host, slash, path = path[2:].partition("/")
            if host:
                raise ConfigurationError(
                    f"a folder has no host: write file:{host}{slash}{path} or file:///{host}{slash}{path}"
                )
            path = slash + path
        if not path or "?" in path:
            raise ConfigurationError(f"write file:folder or file:///absolute/folder, not {url!r}")
        return cls(url2pathname(path), create=create, timeout=timeout, fsync=fsync)

    # ------------------------------------------------------------------ the interface

    async def read(self, key: str) -> Record | None:
        if self._state != "open":
            await self._ready("read", key)
        self._validate("read", key)
        return (await self._run(_Trip("read"), self._read_all, [key])).get(key)

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if self._state != "open":
            await self._ready("read_many")
        for key in keys:
            self._validate("read_many", key)
        return await self._run(_Trip("read_many"), self._read_all, keys)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if self._state != "open":
            await self._ready("write", key)
        result = (await self._write_all("write", [Write(key, value, ttl, match)]))[0]
        if isinstance(result, ConflictError):
            raise result
        return Version(value)

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        if self._state != "open":
            await self._ready("delete", key)
        result = (await self._write_all("delete", [Write(key, None, None, match)]))[0]
        if isinstance(result, ConflictError):
            raise result
        return result is True

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        if self._state != "open":
            await self._ready("write_many")
        return await self._write_all("write_many", writes)

    async def touch(self, key: str, ttl: float | None) -> bool:
        if self._state != "open":
            await self._ready("touch", key)
        self._validate("touch", key, ttl=ttl)
        return await self._run(_Trip("touch", key), self._touch, key, ttl)

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        async for key, _ in self._stream("read_all_keys", prefix, batch_size):
            yield key

    async def read_all_entries(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[tuple[str, Record]]:
        async for entry in self._stream("read_all_entries", prefix, batch_size):
            yield entry

    async def purge(self) -> int:
        """
        Delete the files of expired documents, and what killed processes have left, and return how many had expired.

        Files that hold no JSON stay.
        """
        if self._state != "open":
            await self._ready("purge")
        return await self._run(_Trip("purge"), self._purge)

    async def _open(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "bot-session-file")
        try:
            await self._run(_Trip("open"), self._prepare)
        except BaseException:
            self._pool.shutdown(wait=False)
            raise

    async def _close(self) -> None:
        if self._pool is not None:
            # What is being written is finished first.
            await asyncio.to_thread(self._pool.shutdown)

    def __repr__(self) -> str:
        return f"<FileStorage {self._root}>"

    # ------------------------------------------------------------------ from the event loop to a thread

    async def _run(
        self, trip: _Trip, work: Callable[Concatenate[_Trip, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        def travel() -> _T:
            with self._translated(trip):
                if trip.operation != "open":
                    self._require_same_disk()
                return work(trip, *args, **kwargs)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, travel)
        except asyncio.CancelledError:
            trip.abandoned = True
            raise

    async def _write_all(self, operation: str, writes: Sequence[Write]) -> list[WriteResult]:
        """Split a batch by lock: each part is one trip under one lock, and the disk syncs several at once."""
        self._validate_writes(operation, writes)
        parts: dict[int, list[int]] = {}
        for position, write in enumerate(writes):
            if write.value is not None:
                require_json(write.value)
            parts.setdefault(lock_of(shard_of(write.key)), []).append(position)
        trips = [
            self._run(_Trip(operation), self._apply_all, lock, [writes[position] for position in part])
            for lock, part in parts.items()
        ]
        if len(trips) == 1:
            return await trips[0]
        outcomes = await asyncio.gather(*trips, return_exceptions=True)
        results: list[WriteResult] = [False] * len(writes)
        for part, outcome in zip(parts.values(), outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            for position, result in zip(part, outcome, strict=True):
                results[position] = result
        return results

    async def _stream(self, operation: str, prefix: str, batch_size: int) -> AsyncIterator[tuple[str, Record]]:
        if self._state != "open":
            await self._ready(operation)
        self._validate_listing(operation, prefix, batch_size)
        trip = _Trip(operation)
        entries = self._entries(trip, prefix)
        while batch := await self._run(trip, lambda _: list(islice(entries, batch_size))):
            for entry in batch:
                yield entry
            if self._state != "open":
                await self._ready(operation)

    # ------------------------------------------------------------------ in a thread: operations

    def _prepare(self, trip: _Trip) -> None:
        if not os.path.exists(self._root):
            if not self._create:
                raise SchemaError(f"the folder is missing: mkdir {self._root}", operation="open", storage=self)
            self._make_folder(trip, self._root)
            self._sync(trip)
        with os.scandir(self._root):  # fails unless it is a folder that may be read
            self._device = os.stat(self._root).st_dev

    def _read_all(self, trip: _Trip, keys: Sequence[str]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for key in keys:
            if (record := self._read(trip, key)) is not None:
                found[key] = record
        return found

    def _read(self, trip: _Trip, key: str) -> Record | None:
        trip.key = key
        with self._locked(trip, key) if _WINDOWS else nullcontext():
            path, data = self._locate(key)
        return self._live(_parse(path, data))

    def _apply_all(self, trip: _Trip, lock: int, writes: Sequence[Write]) -> list[WriteResult]:
        with self._locks.hold(lock, lambda: trip.abandoned):
            results = [self._apply(trip, write) for write in writes]
            self._sync(trip)
        return results

    def _apply(self, trip: _Trip, write: Write) -> WriteResult:
        trip.key = key = write.key
        path, data = self._locate(key)
        broken = False
        try:
            document = _parse(path, data)
        except _BrokenFileError:
            if write.match is not ANY:
                raise
            document, broken = None, True  # who asks for no match wants it gone
        record = self._live(document)
        if not _holds(write.match, record):
            return self._conflict(trip.operation, key, write.match, None if record is None else record.version)
        if write.value is not None:
            self._replace(trip, path, document, write.value, write.ttl)
            return Version(write.value)
        self._remove_all(trip, key)
        return record is not None or broken

    def _touch(self, trip: _Trip, key: str, ttl: float | None) -> bool:
        with self._locked(trip, key):
            path, data = self._locate(key)
            document = _parse(path, data)
            if document is None or self._live(document) is None:
                return False
            self._replace(trip, path, document, document.value, ttl)
            self._sync(trip)
        return True

    def _entries(self, trip: _Trip, prefix: str) -> Iterator[tuple[str, Record]]:
        for key in self._keys(trip, prefix):
            if (record := self._read(trip, key)) is not None:
                yield key, record

    def _purge(self, trip: _Trip) -> int:
        purged = 0
        for key in self._keys(trip):
            trip.key = key
            if trip.abandoned:
                break
            with suppress(_BrokenFileError), self._locked(trip, key):
                document = _parse(*self._locate(key))
                if document is not None and self._live(document) is None:
                    self._remove_all(trip, key)
                    self._sync(trip)
                    purged += 1
        return purged

    # ------------------------------------------------------------------ in a thread: files

    def _locate(self, key: str) -> tuple[str, bytes | None]:
        """Return the file of a key and what is in it; if there is none, where it will be, and None."""
        path = self._absolute(path_of(key))
        with suppress(FileNotFoundError):
            return path, _content(path)
        plain = plain_path_of(key)
        if plain is not None:
            try:
                if _has_exactly(self._absolute(plain)):
                    return self._absolute(plain), _content(self._absolute(plain))
            except FileNotFoundError:
                pass
            except OSError as error:
                # A disk that cannot hold such a name holds no such file.
                if error.errno not in _NO_SUCH_NAME:
                    raise
        return path, None

    def _live(self, document: Document | None) -> Record | None:
        if document is None:
            return None
        if document.expires is None:
            return Record(document.value, Version(document.value))
        left = document.expires / 1000 - self._clock()
        return Record(document.value, Version(document.value), left) if left > 0 else None

    def _replace(self, trip: _Trip, path: str, old: Document | None, value: str, ttl: float | None) -> None:
        """Write a new file beside the old one, and put it in its place."""
        expires = None if ttl is None else math.ceil((self._clock() + ttl) * 1000)
        data = render(value, expires, tabs=old is not None and old.tabs)
        folder = os.path.dirname(path)
        try:
            handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
        except FileNotFoundError:
            self._make_folder(trip, folder)
            handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                if self._fsync:
                    os.fsync(handle)
            if old is not None:
                shutil.copymode(path, temporary)  # whom the old file let in, the new one does
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # the first error tells more, and purge() sweeps what stays
                os.unlink(temporary)
            raise
        trip.wrote = True
        trip.changed.add(folder)

    def _remove_all(self, trip: _Trip, key: str) -> None:
        """Delete a key's file, and if grammY has written another, that as well: or it would come back."""
        path, data = self._locate(key)
        while data is not None:
            os.unlink(path)
            trip.wrote = True
            folder = os.path.dirname(path)
            trip.changed.add(folder)
            while folder != self._root:
                try:
                    os.rmdir(folder)
                except OSError:
                    break  # it is not empty; and if it could not be removed for another reason, it does no harm
                trip.changed.discard(folder)
                folder = os.path.dirname(folder)
                trip.changed.add(folder)
            path, data = self._locate(key)

    def _make_folder(self, trip: _Trip, folder: str) -> None:
        try:
            os.mkdir(folder, 0o700)
        except FileNotFoundError:
            self._make_folder(trip, os.path.dirname(folder))
            os.mkdir(folder, 0o700)
        except FileExistsError:
            return
        trip.changed.add(os.path.dirname(folder))

    def _sync(self, trip: _Trip) -> None:
        """Wait until the disk has the new names of files: a rename alone may be undone by a power cut."""
        while trip.changed:
            folder = trip.changed.pop()
            if self._fsync and not _WINDOWS:
                handle = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def _keys(self, trip: _Trip, prefix: str = "") -> Iterator[str]:
        """Yield the keys of all files, expired or not. Nothing is open or locked while one is out."""
        with os.scandir(self._root) as entries:
            folders = [entry.name for entry in entries if entry.is_dir() and shard_of_folder(entry.name) is not None]
        for folder in ("", *folders):
            for path in self._list(trip, folder):
                key = key_of(path)
                if key is None or not key.startswith(prefix):
                    continue
                if path == (own := path_of(key)) or not os.path.exists(self._absolute(own)):
                    yield key

    def _list(self, trip: _Trip, shard: str) -> list[str]:
        """
        List a shard's files while nobody writes there: on some disks a file that is replaced meanwhile is not listed.

        The temporary files that are seen then are nobody's any more, and `purge` takes them away.
        """
        found: list[str] = []
        folders = [shard]
        lock = lock_of(shard_of_folder(shard) or "")
        with self._locks.hold(lock, lambda: trip.abandoned, optional=trip.operation != "purge"):
            while folders:
                folder = folders.pop()
                with suppress(FileNotFoundError), os.scandir(self._absolute(folder)) as entries:
                    for entry in entries:
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        if entry.name.endswith(".json"):
                            found.append(path)
                        elif entry.name.endswith("+") and folder:
                            folders.append(path)
                        elif entry.name.startswith(_TEMPORARY) and trip.operation == "purge":
                            os.unlink(entry.path)
        return found

    # ------------------------------------------------------------------ in a thread: the rest

    def _absolute(self, path: str) -> str:
        return os.path.join(self._root, path)

    def _locked(self, trip: _Trip, key: str) -> AbstractContextManager[None]:
        return self._locks.hold(lock_of(shard_of(key)), lambda: trip.abandoned)

    def _require_same_disk(self) -> None:
        # An unmounted disk leaves an empty folder behind, in which every session would seem to be missing.
        if os.stat(self._root).st_dev != self._device:
            raise OSError(errno.ENODEV, "another disk is mounted there than when it was opened", self._root)

    @contextmanager
    def _translated(self, trip: _Trip) -> Iterator[None]:
        """Raise what the operating system says as errors of ours."""
        try:
            yield
        except _BrokenFileError as error:
            path, reason = error.args
            raise SchemaError(
                f"{path} holds no JSON ({reason}): mend or delete it",
                operation=trip.operation,
                key=trip.key,
                storage=self,
            ) from error.__cause__
        except OSError as error:
            reason = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
            if error.errno == errno.ENAMETOOLONG:
                raise InvalidKeyError(
                    f"the key is too long for this disk ({reason})",
                    operation=trip.operation,
                    key=trip.key,
                    storage=self,
                ) from error
            if error.errno in _WRONG:
                raise SchemaError(reason, operation=trip.operation, key=trip.key, storage=self) from error
            raise UnavailableError(
                reason, operation=trip.operation, key=trip.key, storage=self, outcome_unknown=trip.wrote
            ) from error


def _content(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _parse(path: str, data: bytes | None) -> Document | None:
    try:
        return None if data is None else parse(data)
    except ValueError as error:
        raise _BrokenFileError(path, str(error) if data else "it is empty") from error


def _has_exactly(path: str) -> bool:
    """Return whether a file has this name, and not one that its disk takes for the same."""
    os.stat(path)
    folder, name = os.path.split(path)
    twin = os.path.join(folder, name.removesuffix("json") + "JSON")
    return (name.isascii() and not os.path.exists(twin)) or name in os.listdir(folder)


def _holds(match: Match, record: Record | None) -> bool:
    if match is ANY:
        return True
    if match is ABSENT:
        return record is None
    return record is not None and (match is PRESENT or record.version == match)
