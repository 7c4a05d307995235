"""What the worker threads do: whole trips, each with its own errors."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar, cast

from bot_session.errors import StorageError, UnavailableError
from bot_session.storage import ANY, Record, Storage, Version, Write, WriteResult, distinct_rounds, holds

from ._failures import translation
from ._files import NewFile
from ._folder import BrokenFileError, Found
from ._locks import LockedError, until_free
from ._paths import lock_of, shard_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ._folder import Folder
    from ._trip import Trip

__all__ = ["Work", "take"]

_A = TypeVar("_A")
_T = TypeVar("_T")

_FILES: Final = 128
"""New files that are open at a time: the disk takes them together, and a process may not have many more than 1,000."""

_WORTH_A_THREAD: Final = 24
"""New files of a batch that are worth another thread to make them: most of it is the disk's work, on any core."""


class Work:
    """
    What is done with a folder.

    Args:
        storage: Whose it is, for the errors.
        folder: The folder.
    """

    def __init__(self, storage: Storage, folder: Folder) -> None:
        self._storage = storage
        self._folder = folder

    def read_all(self, trip: Trip, keys: Sequence[str]) -> dict[str, Record]:
        """Read several keys."""
        return {key: record for key in keys if (record := self._folder.read(trip, key)) is not None}

    def entries(self, trip: Trip, prefix: str) -> Iterator[tuple[str, Record] | LockedError]:
        """Read all keys that start with ``prefix``; for `take`."""
        for key in self._folder.keys(trip, prefix):
            if isinstance(key, LockedError):
                yield key
            elif (record := (yield from until_free(trip, partial(self._folder.read, trip, key)))) is not None:
                yield key, record

    def apply(self, trip: Trip, write: Write) -> WriteResult:
        """Do one."""
        with self._folder.locked(trip, shard_of(write.key)):
            return self._apply(trip, [(0, write)])[0]

    def apply_free(self, trip: Trip, writes: Sequence[tuple[int, Write]]) -> dict[int, WriteResult]:
        """Do those whose locks no other process has, and return their results by position."""
        locks = [lock_of(shard_of(write.key)) for _, write in writes]
        with self._folder.locked_if_free(trip, set(locks)) as held:
            return self._apply(trip, [entry for entry, lock in zip(writes, locks, strict=True) if lock in held])

    def touch(self, trip: Trip, key: str, ttl: float | None) -> bool:
        """Give a document a new TTL, and say whether there was one."""
        with self._folder.locked(trip, shard_of(key)):
            found = self._folder.find(key)
            if found.record is None:
                return False
            self._folder.replace(trip, found, found.record.value, ttl)
            self._folder.sync(trip)
        return True

    def purge(self, trip: Trip) -> Iterator[str | LockedError]:
        """Delete the files of expired documents, and yield their keys; for `take`."""
        for key in self._folder.keys(trip, sweep=True):
            if isinstance(key, LockedError) or (yield from until_free(trip, partial(self._purge, trip, key))):
                yield key

    def _purge(self, trip: Trip, key: str) -> bool:
        trip.key = key
        with self._folder.locked(trip, shard_of(key)):
            found = self._folder.find(key, overwrite=True)
            if found.document is None or found.record is not None:
                return False
            self._folder.remove(trip, key)
            self._folder.sync(trip)
        return True

    # ------------------------------------------------------------------ writing

    def _apply(self, trip: Trip, writes: Sequence[tuple[int, Write]]) -> dict[int, WriteResult]:
        """Do what the locks that are held guard, and return the results by position."""
        results: dict[int, WriteResult] = {}
        # Once for all: whoever is refused here has written nothing.
        with self._folder.together(trip) if len(writes) > 1 else nullcontext():
            for operations in distinct_rounds([write for _, write in writes]):
                for start in range(0, len(operations), _FILES):
                    for index, result in self._apply_together(trip, operations[start : start + _FILES]).items():
                        results[writes[index][0]] = result
        self._folder.sync(trip)
        return results

    def _apply_together(self, trip: Trip, operations: Sequence[tuple[int, Write]]) -> dict[int, WriteResult]:
        """Write all new files before the first is waited for: the disk does together what it would do one by one."""
        writes, several = dict(operations), len(operations) > 1
        results: dict[int, WriteResult] = {}
        files: dict[int, NewFile] = {}
        gone: dict[int, Found] = {}
        made: list[NewFile] = []
        begin = partial(self._begin, several=several)
        try:
            begun = self._each(begin, trip, {position: (write, made) for position, write in operations})
            for position, outcome in begun.items():
                if isinstance(outcome, NewFile):
                    files[position] = outcome
                elif isinstance(outcome, Found):
                    gone[position] = outcome
                else:
                    results[position] = outcome
            _raise_outage(trip, results)
            self._folder.sync_files(list(files.values()))
            results |= self._each(
                self._put, trip, {position: (writes[position], file) for position, file in files.items()}
            )
            # One by one: a folder is removed with the last of its files.
            for position, found in gone.items():
                results[position] = self._attempt(self._remove, trip, writes[position], found)
            _raise_outage(trip, results)
        finally:
            for file in made:
                file.discard()
        return results

    def _each(
        self, step: Callable[[Trip, Write, _A], _T], trip: Trip, items: Mapping[int, tuple[Write, _A]]
    ) -> dict[int, _T | StorageError]:
        """Do a step with several, some at a time, and return what came of it."""

        def attempt(item: tuple[Write, _A]) -> _T | StorageError:
            return self._attempt(step, trip, *item)

        outcomes = self._folder.threads.share(attempt, list(items.values()), worth=_WORTH_A_THREAD)
        return dict(zip(items, outcomes, strict=True))

    def _attempt(self, step: Callable[[Trip, Write, _A], _T], trip: Trip, write: Write, more: _A) -> _T | StorageError:
        """Do a step, and return what is wrong with this file alone: the others are none the worse for it."""
        try:
            return step(trip, write, more)
        except (BrokenFileError, OSError) as error:
            return translation(error, self._storage, trip, write.key)

    def _begin(self, trip: Trip, write: Write, made: list[NewFile], *, several: bool) -> NewFile | Found | StorageError:
        """Write what is new beside its place, and add it to what was made; or find what is to go."""
        found = self._folder.find(write.key, overwrite=write.match is ANY)
        if not holds(write.match, found.record):
            actual = None if found.record is None else found.record.version
            return self._storage._conflict(trip.operation, write.key, write.match, actual)  # noqa: SLF001
        if write.value is None:
            return found
        made.append(file := self._folder.write(trip, found, write.value, write.ttl, begin_sync=several))
        return file

    def _put(self, trip: Trip, write: Write, file: NewFile) -> Version:
        self._folder.put(trip, file)
        return Version(cast("str", write.value))

    def _remove(self, trip: Trip, write: Write, found: Found) -> bool:
        self._folder.remove(trip, write.key)
        return found.record is not None or (found.mode is not None and found.document is None)


def _raise_outage(trip: Trip, results: Mapping[int, WriteResult]) -> None:
    """Raise the first error, if there is one, that is not of one file alone."""
    for result in results.values():
        if isinstance(result, UnavailableError):
            result.outcome_unknown = trip.wrote
            raise result


def take(_: Trip, items: Iterator[_T | LockedError], size: int) -> list[_T]:
    """Return the next ``size`` items, fewer where a lock is not free, and none at the end. Raises `LockedError`."""
    taken: list[_T] = []
    for item in islice(items, size):
        if not isinstance(item, LockedError):
            taken.append(item)
        elif taken:
            break
        else:
            raise item
    return taken
