"""A database, and the trips to the thread on which everything is done with it."""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from bot_session.errors import ClosedError, UnavailableError

from ._connection import MEMORY, connect, on_thread, revived, started, survives
from ._failures import CommitError, OccupiedError, code

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiosqlite

T = TypeVar("T")
Work: TypeAlias = "Callable[[sqlite3.Cursor, float], T]"
"""Something to do with a cursor at a time, in seconds since 1970."""

_BEGIN: Final = "BEGIN IMMEDIATE"
"""A transaction that begins by reading and then writes would fail if another process has written meanwhile."""

SHORTEST: Final = 0.001
LONGEST: Final = 0.02
"""Seconds between two attempts while somebody else is in the way: short at first, since most are soon gone."""


class Database:
    """
    A database file that we open, or a connection that we were given, in the event loop and process that use it.

    SQLite would wait for another process's lock on the thread that everything is done on. So our own connections do not
    wait: they try again, and what needs no lock is done meanwhile.

    Args:
        path: The file, with its whole path, or `MEMORY`.
        given: A connection, in place of a path.
        create: Whether to create the file if it is missing.
        timeout: Seconds that a call may wait for others.
        clock: Returns seconds since 1970.

    Attributes:
        path: The file; empty for a given connection.
        connection: The connection while it is open.
    """

    def __init__(
        self, path: str, given: aiosqlite.Connection | None, *, create: bool, timeout: float, clock: Callable[[], float]
    ) -> None:
        self.path = path
        self.connection: aiosqlite.Connection | None = None
        self._given = given
        self._create = create
        self._timeout = timeout
        self._clock = clock
        self._raw: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._home: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._turns = asyncio.Lock()

    async def open(self) -> None:
        """Connect, unless there is a connection."""
        self._refuse_child()
        if self._given is None:
            self.connection = await started(partial(connect, self.path, create=self._create, timeout=self._timeout))
            self._file = None if self.path == MEMORY else _identity(self.path)
        else:
            self.connection = self._given
        await self._follow(self.connection, None)
        async with self.connection.cursor() as cursor:
            self._raw = cursor.connection

    async def close(self) -> None:
        """Close what `open` has opened."""
        if self._is_inherited():
            return  # SQLite would take the parent's locks for its own.
        connection, raw, home = self.connection, self._raw, self._home
        self.connection = self._raw = self._home = None
        if connection is None or connection is self._given:
            return
        if raw is not None and home != _here() and not await survives(connection):
            connection = revived(connection, raw)
        await connection.close()

    def run(self, work: Work[T]) -> Awaitable[T]:
        """Do work in one trip to the thread, where nothing else comes in between."""
        return self._run(work, time.monotonic() + self._timeout)

    def transact(self, work: Work[T]) -> Awaitable[T]:
        """Do work in a transaction of its own, once nobody else's is in the way."""
        deadline = time.monotonic() + self._timeout
        # A given connection waits by itself, as its owner has set it to: those behind it shall not wait as long again.
        latest = math.inf if self._given is None else deadline
        return self._run(partial(_in_transaction, work, self._clock, latest), deadline)

    async def _run(self, work: Work[T], deadline: float) -> T:
        try:
            return await self._try(work)
        except sqlite3.OperationalError as error:
            if not self._passes(error):
                raise
            in_the_way = error
        # One call asks whether the way is free, the others wait behind it.
        turns = self._turns
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await turns.acquire()
        except TimeoutError:
            raise in_the_way from None
        try:
            return await self._keep_trying(work, deadline)
        finally:
            turns.release()

    async def _keep_trying(self, work: Work[T], deadline: float) -> T:
        pause = SHORTEST
        while True:
            try:
                return await self._try(work)
            except sqlite3.OperationalError as error:
                left = deadline - time.monotonic()
                if left <= 0 or not self._passes(error):
                    raise
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST)

    async def _try(self, work: Work[T]) -> T:
        while True:
            connection, raw = self.connection, self._raw
            if connection is None or raw is None:
                raise ClosedError("the storage was closed meanwhile")
            if self._home == _here():
                return await on_thread(connection, partial(self._visit, raw, work))
            self._refuse_child()
            await self._follow(connection, raw)

    def _passes(self, error: sqlite3.OperationalError) -> bool:
        """Whether what is in the way goes away, and nobody has waited for that yet."""
        return isinstance(error, OccupiedError) or (self._given is None and code(error) == sqlite3.SQLITE_BUSY)

    async def _follow(self, connection: aiosqlite.Connection, raw: sqlite3.Connection | None) -> None:
        """
        Go on in this event loop.

        Raises:
            ClosedError: The last one was closed while the given connection was at work, which ended its thread.
        """
        if not await survives(connection):
            if raw is None or connection is self._given:
                problem = "an event loop was closed while the given connection was at work, which ended its thread:"
                raise ClosedError(f"{problem} make another connection, and a storage with it")
            if connection is self.connection:  # Nobody else has done this meanwhile.
                self.connection = revived(connection, raw)
        self._home, self._turns = _here(), asyncio.Lock()

    def _is_inherited(self) -> bool:
        return self._home is not None and self._home[1] != os.getpid()

    def _refuse_child(self) -> None:
        # Threads do not come along into a child process, nor do SQLite's locks.
        if self._is_inherited():
            raise ClosedError(
                "the storage was opened before this process was forked, which no connection to SQLite survives:"
                " make and open a storage in every process, after the fork"
            )

    # ------------------------------------------------------------------ on the thread

    def _visit(self, raw: sqlite3.Connection, work: Work[T]) -> T:
        """Do work with a cursor on our terms, whatever the connection's owner has set for their own."""
        if self._file is not None:
            self._find_file()
        text_factory, raw.text_factory = raw.text_factory, str
        try:
            cursor = raw.cursor()
            cursor.row_factory = None
            return work(cursor, self._clock())
        finally:
            raw.text_factory = text_factory

    def _find_file(self) -> None:
        # SQLite would go on with a file that nobody else finds any more.
        missing: OSError | None = None
        mend = "close the storage and open it again"
        try:
            if _identity(self.path) == self._file:
                return
        except (FileNotFoundError, NotADirectoryError) as error:
            missing, mend = error, f"put it back, or {mend}"
        problem = f"the database {self.path!r} was moved, deleted or replaced while it was open"
        raise UnavailableError(f"{problem} ({missing or 'there is another file now'}): {mend}") from missing


def _here() -> tuple[asyncio.AbstractEventLoop, int]:
    return asyncio.get_running_loop(), os.getpid()


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 - as quick as can be: every operation asks
    return status.st_dev, status.st_ino


def _in_transaction(work: Work[T], clock: Callable[[], float], latest: float, cursor: sqlite3.Cursor, _now: float) -> T:
    """
    Do work in a transaction: all of it or, if it raises, nothing.

    Raises:
        OccupiedError: The connection is in a transaction already, or its turn came too late.
        CommitError: The work may or may not be done.
    """
    if cursor.connection.in_transaction:
        raise OccupiedError("the given connection is in a transaction that is not ours")
    if time.monotonic() > latest:
        raise OccupiedError("the given connection was busy for too long with what came before")
    cursor.execute(_BEGIN)
    try:
        result = work(cursor, clock())  # The time now that it is our turn.
        _commit(cursor)
    except BaseException:
        _roll_back(cursor)
        raise
    return result


def _commit(cursor: sqlite3.Cursor) -> None:
    try:
        cursor.execute("COMMIT")
    except sqlite3.Error as error:
        if code(error) == sqlite3.SQLITE_BUSY:
            raise  # A reader stood in the way: nothing was written yet.
        raise CommitError from error


def _roll_back(cursor: sqlite3.Cursor) -> None:
    # After some errors SQLite has done so by itself.
    if cursor.connection.in_transaction:
        cursor.execute("ROLLBACK")
