"""Sessions in JSON files, one for each, in grammY's layout."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable  # noqa: TC003 - read with the options of URLs
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.request import url2pathname

from bot_session.errors import ClosedError, ConfigurationError, StorageError
from bot_session.redaction import redact_url
from bot_session.storage import (
    ANY,
    Capabilities,
    Match,
    Record,
    Storage,
    Version,
    Write,
    WriteResult,
)

from ._document import require_json
from ._failures import translated, translation
from ._folder import Folder
from ._locks import CrowdedError, LockedError
from ._paths import MAX_KEY_BYTES
from ._threads import Threads
from ._trip import Trip
from ._work import Work, take

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import Concatenate, ParamSpec, Self

    _P = ParamSpec("_P")

__all__ = ["FileStorage"]

_T = TypeVar("_T")

_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.02
_PURGED: Final = 500  # at a time


class FileStorage(Storage):
    """
    Keeps each document in a JSON file, ``<directory>/<last two characters of the key>/<key>.json``.

    Files that grammY's file adapter wrote are found and kept up in place. Every write is a new file that replaces the
    old one, under a lock that holds between processes: no reader sees half a document, no process undoes another's
    write, and what was acknowledged survives a power cut. Works on local disks; on a network disk as far as its
    ``flock`` and ``rename`` do.

    A file that holds no JSON (empty, cut short, mended badly) raises `SchemaError` and stays, until its key is deleted
    or written without a match.

    Args:
        directory: The folder. Nobody else's files in it are touched.
        create: Make the folder, with its parents, if it is missing.
        timeout: Seconds to wait while another process holds the lock, or other batches of this one are being written.
        fsync: Wait until the disk has it. Without, writes are faster, and a power cut may lose or empty the latest.

    Raises:
        ConfigurationError: An option is wrong.
    """

    capabilities = Capabilities(
        shared=True,
        durable=True,
        native_expiry=False,
        ttl_resolution=0.001,
        atomic_batches=False,
        max_key_bytes=MAX_KEY_BYTES,
    )

    max_batch, max_under_way = 512, 1  # A batch is spread over the disk by itself; a second would wait for its locks.

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
        self._timeout = timeout
        self._folder = Folder(self._root, timeout=timeout, fsync=fsync, clock=clock)
        self._work = Work(self, self._folder)
        self._threads: Threads | None = None

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Make one from ``file:sessions`` (relative) or ``file:///var/lib/bot`` (absolute)."""
        path = url.partition(":")[2]
        if path.startswith("//"):
            host, slash, path = path[2:].partition("/")
            if host:
                raise ConfigurationError(
                    f"a folder has no host: write file:folder or file:///folder, not {redact_url(url)}"
                )
            path = slash + path
        if not path or "?" in path:
            raise ConfigurationError(f"write file:folder or file:///absolute/folder, not {redact_url(url)}")
        return cls(url2pathname(path), **options)

    # ------------------------------------------------------------------ the interface

    async def read(self, key: str) -> Record | None:
        if self._state != "open":
            await self._ready("read", key)
        self._validate("read", key)
        return (await self._run(Trip("read", key), self._work.read_all, [key])).get(key)

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if self._state != "open":
            await self._ready("read_many")
        self._validate_keys("read_many", keys)
        return await self._run(Trip("read_many"), self._work.read_all, list(dict.fromkeys(keys)))

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if self._state != "open":
            await self._ready("write", key)
        self._validate("write", key, value, ttl)
        require_json(value)
        return cast("Version", await self._write_one("write", Write(key, value, ttl, match)))

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        if self._state != "open":
            await self._ready("delete", key)
        self._validate("delete", key)
        return cast("bool", await self._write_one("delete", Write(key, None, None, match)))

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        if self._state != "open":
            await self._ready("write_many")
        self._validate_writes("write_many", writes)
        for write in writes:
            if write.value is not None:
                require_json(write.value)
        return await self._write_all("write_many", writes)

    async def touch(self, key: str, ttl: float | None) -> bool:
        if self._state != "open":
            await self._ready("touch", key)
        self._validate("touch", key, ttl=ttl)
        return await self._run(Trip("touch", key), self._work.touch, key, ttl)

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
        trip = Trip("purge")
        expired, count = self._work.purge(trip), 0
        while purged := await self._run(trip, take, expired, _PURGED):
            count += len(purged)
        return count

    async def _open(self) -> None:
        await self._close()  # which may still be under way, or was given up
        threads, trip = Threads(self._timeout), Trip("open")
        try:
            with translated(self, trip):
                await threads.run(trip, partial(self._folder.open, trip, threads, create=self._create))
        except BaseException:
            await threads.close(wait=False)
            raise
        self._threads = threads

    async def _close(self) -> None:
        if self._threads is not None:
            await self._threads.close()  # when what is being written is finished

    def __repr__(self) -> str:
        return f"<FileStorage {self._root}>"

    # ------------------------------------------------------------------ from the event loop to a thread

    async def _run(
        self, trip: Trip, work: Callable[Concatenate[Trip, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        with translated(self, trip):
            return await self._try(trip, work, *args, **kwargs)

    async def _try(
        self, trip: Trip, work: Callable[Concatenate[Trip, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Do work in a thread, again while another process has its lock: nobody waits for that in a thread."""

        def travel() -> _T:
            self._folder.require_same_disk()
            return work(trip, *args, **kwargs)

        pause = _FIRST_PAUSE
        while True:
            if self._state != "open":
                await self._ready(trip.operation, trip.key)
            try:
                return await self._threads_for(trip).run(trip, travel)
            except LockedError as error:
                if error.final:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _threads_for(self, trip: Trip) -> Threads:
        if self._threads is None or not self._threads.are_here:
            raise ClosedError(
                "this process was forked when the storage was open, and has none of its threads: open storages after "
                "forking, or `await storage.close()` here and `await storage.open()`",
                operation=trip.operation,
                key=trip.key,
                storage=self,
            )
        return self._threads

    async def _write_one(self, operation: str, write: Write) -> Version | bool:
        result = await self._run(Trip(operation, write.key), self._work.apply, write)
        if isinstance(result, StorageError):
            raise result
        return result

    async def _write_all(self, operation: str, writes: Sequence[Write]) -> list[WriteResult]:
        """In one trip, in which the disk takes all together; what other processes have locked follows as they let go."""
        trip, results = Trip(operation), dict[int, WriteResult]()
        left = list(enumerate(writes))
        with translated(self, trip):
            while left:
                try:
                    results |= await self._try(trip, self._work.apply_free, left)
                except (LockedError, ClosedError) as error:
                    if not results:
                        raise
                    results |= {position: self._too_late(error, operation, write.key) for position, write in left}
                left = [entry for entry in left if entry[0] not in results]
        return [results[position] for position in range(len(writes))]

    def _too_late(self, error: LockedError | ClosedError, operation: str, key: str) -> StorageError:
        """Return the error for one of a batch that waited for its lock in vain: nothing was written."""
        if isinstance(error, ClosedError):
            return error.copy()
        refusal = error if isinstance(error, CrowdedError) else self._folder.refusal(key)
        return translation(refusal, self, Trip(operation, key))

    async def _stream(self, operation: str, prefix: str, batch_size: int) -> AsyncIterator[tuple[str, Record]]:
        if self._state != "open":
            await self._ready(operation)
        self._validate_listing(operation, prefix, batch_size)
        trip = Trip(operation)
        entries = self._work.entries(trip, prefix)
        while batch := await self._run(trip, take, entries, batch_size):
            for entry in batch:
                yield entry
