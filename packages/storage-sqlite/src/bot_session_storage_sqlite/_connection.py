"""What happens on the connection's thread: opening a database, and doing work on it undisturbed."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import aiosqlite

from ._failures import CommitError, OccupiedError, code

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Work: TypeAlias = "Callable[[sqlite3.Cursor, float], T]"
"""Something to do with a cursor at a time, in seconds since 1970."""

MEMORY: Final = ":memory:"
CACHE: Final = 16_000
"""KiB of pages to keep in memory at most, so that a bot of ten thousand sessions seldom asks the disk for any."""
POLL: Final = 0.005
"""Seconds between two attempts where SQLite does not wait by itself."""

# Closing any file descriptor of a database drops the locks that this process holds on it, so a new file is made and
# closed while no other storage of this process can have opened it.
_creating = threading.Lock()


def connect(path: str, *, create: bool, timeout: float) -> sqlite3.Connection:
    """
    Open a database file, such that several processes can use it and what is committed is on the disk.

    Raises:
        sqlite3.OperationalError: SQLite cannot open it.
        OSError: It cannot be created; or it is there, and cannot be opened for want of something else.
    """
    if path == MEMORY:
        return sqlite3.connect(MEMORY, isolation_level=None)
    file = Path(path).absolute()
    if create:
        # Sessions are private, and SQLite gives its other files the rights of the first.
        with _creating, suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        connection = sqlite3.connect(f"{file.as_uri()}?mode=rw", timeout, isolation_level=None, uri=True)
    except sqlite3.OperationalError as error:
        readable = os.access(file, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
        if code(error) == sqlite3.SQLITE_CANTOPEN and file.is_file() and readable:
            raise OSError(f"{file} is there, but cannot be opened now: {error}") from error  # no descriptor is free
        raise
    try:
        _use_wal(connection, time.monotonic() + timeout)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE}")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, deadline: float) -> None:
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if code(error) == sqlite3.SQLITE_READONLY:
                return  # Whatever the mode is, it can be read.
            # SQLite does not always wait here: processes that start together get in each other's way.
            if code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(POLL)
        else:
            return


async def started(make: Callable[[], sqlite3.Connection]) -> aiosqlite.Connection:
    """Return a connection, open, whose thread keeps nobody waiting."""
    connection = aiosqlite.Connection(make, iter_chunk_size=64)
    # A program that ends without close() should end, not wait for this thread; what is committed is safe.
    # Before aiosqlite 0.22 the connection is the thread.
    thread = vars(connection).get("_thread", connection)
    thread.daemon = True
    try:
        return await connection
    except BaseException:
        # aiosqlite does not wait for the thread, which has a last word for an event loop that may be closed.
        await asyncio.to_thread(thread.join)
        raise


async def on_thread(connection: aiosqlite.Connection, function: Callable[[], T]) -> T:
    """Run a function on the connection's thread."""
    # aiosqlite has no public way to run a function on its thread, only single statements: a trip for each, and with
    # other tasks' statements, or a cancellation, in the middle of a transaction.
    result: T = await connection._execute(function)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return result


def isolated(connection: sqlite3.Connection, work: Work[T], clock: Callable[[], float]) -> T:
    """Do work with a cursor on our terms, whatever the connection's owner has set for their own."""
    text_factory, connection.text_factory = connection.text_factory, str
    try:
        cursor = connection.cursor()
        cursor.row_factory = None
        return work(cursor, clock())
    finally:
        connection.text_factory = text_factory


def in_transaction(work: Work[T], clock: Callable[[], float], cursor: sqlite3.Cursor, _now: float) -> T:
    """
    Do work in a transaction: all of it or, if it raises, nothing.

    Raises:
        OccupiedError: The connection is in a transaction already.
        CommitError: The work may or may not be done.
    """
    if cursor.connection.in_transaction:
        raise OccupiedError
    # IMMEDIATE: a transaction that begins by reading and then writes fails if another process has written meanwhile.
    cursor.execute("BEGIN IMMEDIATE")
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
